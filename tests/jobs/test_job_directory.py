"""A job's directory: private, free of what killed processes left, and used by one process only."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline
from orchestrator.core.errors import JobBusyError, JournalError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Arrived, Journal, Opened, holder
from orchestrator.jobs.source import begun_problems
from orchestrator.testing import trace

PROBLEMS = [Problem("q", "2 + 2?")]
Run = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on one problem in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"id": "q", "prompt": "2 + 2?", "answer": "4"}\n')
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


RUN = ("run", "--problems", "p.jsonl", "--execution.engine", "fake", "--domain", "number")


@pytest.mark.parametrize(
    "arguments", [(*RUN, "--out", "a/job"), (*RUN[:1], "--limit", "1", *RUN[1:])]
)
def test_only_the_owner_can_enter_it(cli: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """It has prompts, answers and the messages of servers."""
    assert cli(*arguments).exit_code == 0
    [journal] = tmp_path.rglob("journal.db")
    assert stat.S_IMODE(journal.parent.stat().st_mode) == 0o700


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    """Who shares it on purpose may."""
    directory = tmp_path / "job"
    directory.mkdir(mode=0o750)
    with open_job(directory, Plan(), PROBLEMS):
        pass
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750


def test_the_problems_of_a_job_stay_on_disk(tmp_path: Path) -> None:
    """Of ten million that were begun, the ids alone would take a gigabyte."""
    ids = [f"row-{i:04}" for i in range(4000)]
    with Journal(tmp_path / "journal.db") as journal:
        journal.append([*(Opened(id, "d") for id in ids), Arrived("row-0000", trace(0, "4"), 0.0)])
    tracemalloc.start()
    try:
        with begun_problems(tmp_path) as begun:
            assert len(begun) == sum(id in begun for id in ids) == 4000
            assert next(iter(begun)) == "row-0000"
            assert "row-4000" not in begun
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".results.jsonl.4711").write_bytes(b"half")
    (tmp_path / ".plan.toml.4711").write_bytes(b"half")
    (tmp_path / ".notes.txt").write_bytes(b"mine")
    with open_job(tmp_path, Plan(), PROBLEMS):
        pass
    assert [p.name for p in tmp_path.glob(".*")] == [".notes.txt"]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_lock_that_was_removed_under_a_run_is_noticed(tmp_path: Path, is_replaced: bool) -> None:
    """Another process can then lock a new file of that name, and two would write one job."""

    def run() -> None:
        with open_job(tmp_path, Plan(), PROBLEMS) as job:
            (tmp_path / "lock").unlink()
            if is_replaced:
                (tmp_path / "other").touch()
                (tmp_path / "other").rename(tmp_path / "lock")
            job.export()

    with pytest.raises(JournalError, match="`lock` was removed or replaced"):
        run()


ELSEWHERE = holder.Record("node-3", "another kernel", 4711, "its own")


def leave(directory: Path, number: int) -> None:
    """Write the record of a process on another host."""
    holder._write(directory, replace(ELSEWHERE, number=number))


def open_once(directory: Path) -> None:
    with open_job(directory, Plan(), PROBLEMS):
        pass


def test_a_second_driver_is_refused_with_the_process_that_has_the_job(tmp_path: Path) -> None:
    def second() -> None:
        with open_job(tmp_path, Plan(), PROBLEMS):
            open_once(tmp_path)

    me = f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(JobBusyError, match=re.escape(f"another process is using it ({me})")):
        second()
    open_once(tmp_path)  # it is released


def test_a_driver_on_another_host_is_refused_where_locks_do_not_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some shared file systems keep locks to each host: two jobs would write one journal."""
    numbers = itertools.count(8)
    monkeypatch.setattr(holder.time, "sleep", lambda seconds: leave(tmp_path, next(numbers)))
    leave(tmp_path, 7)
    with pytest.raises(JobBusyError, match=r"is using it \(process 4711 on node-3\)"):
        open_once(tmp_path)


def test_a_job_that_another_host_has_left_behind_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the loss of a node the same command runs elsewhere, once the record does not count."""
    waits: list[float] = []
    monkeypatch.setattr(holder.time, "sleep", waits.append)
    leave(tmp_path, 7)
    open_once(tmp_path)
    assert waits == [holder.BEAT_SECONDS] * holder.N_WATCHED
    assert not (tmp_path / holder.RECORD).exists()


@pytest.mark.parametrize("data", [b"", b"\xf3", b'{"host": "\xf3"}', b"[" * 10**5, b"{}"])
def test_a_damaged_record_of_a_driver_holds_nobody_up(tmp_path: Path, data: bytes) -> None:
    (tmp_path / holder.RECORD).write_bytes(data)
    with holder.held(tmp_path):
        assert holder._read(tmp_path) is not None


def test_a_job_that_was_taken_over_is_left_to_the_other(tmp_path: Path) -> None:
    """This process was stopped for long, or its machine was; the other counts as the user now."""

    def continued() -> None:
        with open_job(tmp_path, Plan(), PROBLEMS) as job:
            leave(tmp_path, 0)
            job.export()

    with pytest.raises(JournalError, match="process 4711 on node-3 has taken it over"):
        continued()
    assert holder._read(tmp_path) == ELSEWHERE


def test_a_finished_job_is_evaluated_and_replayed_without_writing(cli: Run, tmp_path: Path) -> None:
    """It may be on a read-only medium."""
    assert cli(*RUN, "--out", "job").exit_code == 0
    (tmp_path / "job" / "lock").unlink()
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "job").iterdir()}
    for arguments in (
        ("eval", "job"),
        ("answers", "--job", "job", "--problem", "q"),
        ("replay", "job", "--strategy", "consistency n=2"),
    ):
        done = cli(*arguments)
        assert done.exit_code == 0, done.output
        now = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "job").iterdir()}
        assert now == before, arguments


READINGS = (
    ("run", *RUN[1:], "--out", "job"),
    ("resume", "job"),
    ("eval", "job"),
    ("show", "job"),
    ("show", "job", "q"),
    ("compare", "job", "job"),
    ("export", "job", "--to", "jsonl", "--out", "elsewhere"),
    ("answers", "--job", "job", "--problem", "q"),
    ("replay", "job", "--strategy", "consistency n=2"),
)
READ_ALL = f"""
import os, sys
from click.testing import CliRunner
from orchestrator.cli.main import leadline
try:
    open("job/new", "w")
except OSError:
    pass
else:
    sys.exit("the directory is writable")
for arguments in {READINGS!r}:
    done = CliRunner().invoke(leadline, list(arguments))
    if done.exit_code:
        sys.exit(f"{{arguments}}: {{done.output}}")
"""
MOUNT = 'mount --bind job job && mount -o remount,bind,ro job && exec "$0" -c "$1"'


@pytest.mark.slow
def test_a_finished_job_is_read_on_a_read_only_medium(cli: Run, tmp_path: Path) -> None:
    """Evaluated, shown, compared, exported, replayed, and run again: all is there already.

    Rights do not bind root, who gets a read-only mount that only these commands see.
    """
    assert cli(*RUN, "--out", "job").exit_code == 0
    (tmp_path / "job" / "lock").unlink()
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "job").iterdir()}
    command = [sys.executable, "-c", READ_ALL]
    if os.geteuid() == 0:
        command = ["unshare", "--mount", "sh", "-c", MOUNT, sys.executable, READ_ALL]
        probe = ["unshare", "--mount", "sh", "-c", MOUNT, "true", ""]
        if not shutil.which("unshare") or subprocess.run(probe, check=False).returncode:
            pytest.skip("this root may not mount anything")
    (tmp_path / "job").chmod(0o500)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        (tmp_path / "job").chmod(0o700)
    assert done.returncode == 0, done.stderr
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "job").iterdir()}
    assert after == before


def test_what_can_be_read_of_a_damaged_job_is_evaluated(cli: Run, tmp_path: Path) -> None:
    """And what cannot is named, not believed."""
    rows = [{"id": f"q{i}", "prompt": f"{i} + 2?", "answer": "4"} for i in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli(*RUN, "--out", "job").exit_code == 0
    with closing(sqlite3.connect(tmp_path / "job/journal.db", isolation_level=None)) as db:
        db.execute("UPDATE events SET elapsed = elapsed + 1 WHERE problem = 'q1'")
    done = cli("eval", "job", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["selectors"][0]["report"]["n_results"] == 2
    [note] = [note for note in report["notes"] if "left out" in note]
    assert "1 of 3 problems cannot be read" in note
    assert "of problem 'q1', is not as it was written" in note
    assert cli(*RUN, "--out", "job").exit_code == 0  # complete: nothing is replayed


def test_one_problem_is_shown_without_reading_the_others(cli: Run, tmp_path: Path) -> None:
    """The rows of all others are damaged, which reading them would report."""
    rows = [{"id": f"q{i}", "prompt": f"{i} + 2?", "answer": "4"} for i in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli(*RUN, "--out", "job").exit_code == 0
    before = cli("show", "job", "q1").stdout
    with closing(sqlite3.connect(tmp_path / "job/journal.db", isolation_level=None)) as db:
        db.execute("UPDATE events SET body = '{' WHERE problem != 'q1'")
        db.execute("UPDATE results SET body = '{' WHERE problem != 'q1'")
    assert cli("show", "job", "q1").stdout == before
    unknown = cli("show", "job", "q11")
    assert "has no problem 'q11'; it has 3 problems, such as 'q1'" in unknown.stderr


def test_of_a_damaged_problem_the_attempts_that_can_be_read_are_shown(
    cli: Run, tmp_path: Path
) -> None:
    """What was paid for is not hidden by one bad row, and the row is named."""
    (tmp_path / "p.jsonl").write_text('{"id": "q0", "prompt": "2 + 2?", "answer": "4"}\n')
    assert cli(*RUN, "--out", "job").exit_code == 0
    whole = json.loads(cli("show", "job", "q0", "--json").stdout)
    with closing(sqlite3.connect(tmp_path / "job/journal.db", isolation_level=None)) as db:
        db.execute("UPDATE events SET elapsed = elapsed + 1 WHERE ordinal = 1")
    left = json.loads(cli("show", "job", "q0", "--json").stdout)
    assert left["attempts"] == [a for a in whole["attempts"] if a["attempt"] != 1]
    [note] = left["notes"]
    assert "of problem 'q0', is not as it was written" in note
    assert "not all of it can be read" in " ".join(cli("show", "job", "q0").stdout.split())
    assert "of problem 'q0', is not as it was written" in cli("answers", "--job", "job").stderr


DAMAGE = {
    "a trace of a problem without a result": (
        "DELETE FROM results WHERE problem = 'q1'",
        "UPDATE events SET body = CAST('{' AS BLOB) WHERE problem = 'q1' AND ordinal = 2",
    ),
    "a result": ("UPDATE results SET body = CAST('{' AS BLOB) WHERE problem = 'q1'",),
    "a result and a trace": (
        "UPDATE results SET body = CAST('[]' AS BLOB) WHERE problem = 'q1'",
        "UPDATE events SET elapsed = 9 WHERE problem = 'q1' AND ordinal = 0",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_job_with_damaged_rows_is_completed_by_the_same_command(
    cli: Run, tmp_path: Path, damage: str
) -> None:
    """Its problem counts as failed and is tried again with the traces that can be read: the results
    are those of a fresh job. Without another try, they say why it failed.
    """
    rows = [{"id": f"q{i}", "prompt": f"{i} + 2?"} for i in range(12)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli(*RUN, "--out", "fresh").exit_code == 0
    shutil.copytree(tmp_path / "fresh", tmp_path / "job")
    with closing(sqlite3.connect(tmp_path / "job/journal.db", isolation_level=None)) as db:
        for statement in DAMAGE[damage]:
            assert db.execute(statement).rowcount == 1
    kept = cli(*RUN, "--out", "job", "--no-retry-failed")
    assert kept.exit_code == 0, kept.output
    assert "job/journal.db has damaged rows: 1 problem counts as failed" in kept.stderr
    [failed] = [row for row in _results(tmp_path / "job") if row["status"] == "failed"]
    assert (failed["id"], "in the journal" in str(failed["error"])) == ("q1", True)
    again = cli(*RUN, "--out", "job")
    assert again.exit_code == 0, again.output
    assert _votes(tmp_path / "job") == _votes(tmp_path / "fresh")
    assert "damaged" not in cli(*RUN, "--out", "job").output


def _results(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]


def _votes(directory: Path) -> list[object]:
    return [(row["id"], row["status"], row["votes"]) for row in _results(directory)]


def test_quiet_with_a_failure_is_not_silent(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "q", "prompt": "2 + 2?"}\n{"id": "r"}\n')
    done = cli(*RUN, "--quiet")
    assert done.stdout == ""
    assert done.stderr.startswith("leadline: 1 problem failed, e.g. r: p.jsonl:2: ")
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "p.jsonl").write_text('{"id": "q", "prompt": "2 + 2?"}\n')
    assert cli(*RUN, "--quiet").output == ""
