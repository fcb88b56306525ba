"""A damaged journal: what is wrong is named, what can be read is kept, and nothing is deleted."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import orchestrator
from orchestrator.cli.main import leadline
from orchestrator.core.errors import JournalError
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Result, Status, Trace
from orchestrator.jobs.job import held
from orchestrator.jobs.journal import Arrived, Concluded, Journal, Opened, examination, repair
from orchestrator.plan.execution import Execution
from orchestrator.testing import trace

_PAGE = 4096
_N_PROBLEMS, _N_TRACES = 60, 3
_JUNK = bytes(range(256)) * (_PAGE // 256)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a journal of 180 traces over some 30 pages; a third of the problems have no result."""
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        journal.set_meta("fingerprint", "f")
        for n in range(_N_PROBLEMS):
            arrived = [Arrived(f"p{n:02d}", _trace(n, k), k) for k in range(_N_TRACES)]
            done = Result(f"p{n:02d}", Status.ANSWERED, n_traces=_N_TRACES, fingerprint="f")
            concluded = [Concluded(done)] if n % 3 else []
            journal.append([Opened(f"p{n:02d}", "d"), *arrived, *concluded])
    return path


def _trace(n: int, k: int) -> Trace:
    return replace(trace(k, f"{n}"), text=f"attempt {k} at {n} " * 20, token_ids=(n, k, 70_000))


def _events(path: Path) -> set[tuple[str, str]]:
    with Journal.for_reading(path) as journal:
        ids = list(journal.problem_ids())
        return {(one, t.text) for one in ids for t in journal.readable(one)[1]}


def _root(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        [page] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,))
        return int(page[0])


def _overwrite(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * _PAGE)
        file.write(_JUNK)


def _per_leaf(path: Path) -> int:
    """Return how many events of the whole journal one page has at most."""
    n_bytes = min(len(t) for _, t in _events(path))
    return _PAGE // n_bytes


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3 + 100)


def _forget(path: Path, problem: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM problems WHERE problem = ?", (problem,))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut off within a page": _cut,
    "its first page": lambda path: _overwrite(path, 1),
    "the root of the traces": lambda path: _overwrite(path, _root(path, "events")),
    "the root of the results": lambda path: _overwrite(path, _root(path, "results")),
    "the root of the problems": lambda path: _overwrite(path, _root(path, "problems")),
    "the list of what is in it": lambda path: _overwrite(path, _root(path, "meta")),
    "the row of a problem": lambda path: _forget(path, "p07"),
    "an index": lambda path: _overwrite(path, _root(path, "one_trace_per_ordinal")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_can_be_read_of_a_damaged_file_is_kept(
    path: Path, damage: Callable[[Path], None]
) -> None:
    """All traces, unless the pages that they are on are gone; the damaged file stays as it was."""
    before = _events(path)
    damage(path)
    damaged = path.read_bytes()
    n_lost = 0 if len(damaged) % _PAGE == 0 else len(before) // 2
    assert examination(path).is_broken
    done = repair(path, path.with_name("plan.json"))
    assert done.aside.read_bytes() == damaged
    after = examination(path)
    assert (after.is_broken, after.damaged) == (False, ())
    assert _events(path) <= before
    assert len(_events(path)) >= len(before) - n_lost
    assert after.n_traces == done.n_traces == len(_events(path))
    assert after.n_results == done.n_results + done.n_again
    assert [one.name for one in path.parent.iterdir() if "salvage" in one.name] == []


@pytest.mark.slow
def test_an_overwritten_page_costs_what_is_on_it(path: Path) -> None:
    """Whichever it is."""
    before, most = _events(path), _per_leaf(path)
    whole = path.read_bytes()
    for page in range(1, len(whole) // _PAGE + 1):
        path.write_bytes(whole)
        _overwrite(path, page)
        done = repair(path, path.with_name("plan.json"))
        assert _events(path) <= before
        assert done.n_traces >= len(before) - most, page
        assert not examination(path).is_broken, page
    assert len(list(path.parent.glob("journal.db.damaged-*"))) == len(whole) // _PAGE


def test_what_is_only_in_the_log_is_kept(path: Path, tmp_path: Path) -> None:
    """The process was killed before the log was folded into the file, which was then damaged."""
    copy = tmp_path / "killed" / "journal.db"
    copy.parent.mkdir()
    with Journal(path) as journal:
        journal.append([Arrived("p00", _trace(0, 7), 1.0)])
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(tmp_path / name, copy.with_name(name))
    before = _events(copy)
    _overwrite(copy, _root(path, "results"))
    log = copy.with_name("journal.db-wal").read_bytes()
    done = repair(copy, copy.with_name("plan.json"))
    assert ("p00", _trace(0, 7).text) in _events(copy) == before
    assert done.aside.with_name(f"{done.aside.name}-wal").read_bytes() == log


def test_a_repair_that_was_killed_is_done_again_from_the_log_that_it_set_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its last two steps: the file has a second name, and its log is there."""
    _overwrite(path, _root(path, "results"))
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            repair(path, path.with_name("plan.json"))
    done = repair(path, path.with_name("plan.json"))
    assert [done.aside] == list(path.parent.glob("journal.db.damaged-*"))
    assert done.n_traces == _N_PROBLEMS * _N_TRACES


@pytest.mark.parametrize("content", [b"", b"no journal at all", b"\0" * 8 * _PAGE])
def test_a_file_of_which_nothing_is_left_stays(tmp_path: Path, content: bytes) -> None:
    """An empty journal in its place would start the job from nothing, without a word."""
    (tmp_path / "journal.db").write_bytes(content)
    with pytest.raises(JournalError):
        repair(tmp_path / "journal.db", tmp_path / "plan.json")
    assert [one.name for one in tmp_path.iterdir()] == ["journal.db"]
    assert (tmp_path / "journal.db").read_bytes() == content


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Return the directory of a finished job of 40 problems."""
    _run(tmp_path / "job")
    return tmp_path / "job"


def _run(directory: Path) -> dict[str, Result]:
    rows = [{"id": f"q{n}", "prompt": f"What is {n} + {n}?" + " why" * 50} for n in range(40)]
    plan = Plan(strategy=PluginSpec("consistency", {"n": 4}), domain="number")
    done = orchestrator.run(rows, plan, Execution(engine=PluginSpec("fake")), out=directory)
    return {result.problem_id: result for result in done}


@pytest.mark.parametrize("table", ["meta", "problems", "events", "results"])
def test_a_repaired_job_is_resumed_to_the_same_answers(job: Path, table: str) -> None:
    """The point of it all: nothing is generated that is there, and the answers are the same."""
    answers = {id: one.answer for id, one in _run(job).items()}
    path = job / "journal.db"
    _overwrite(path, _root(path, table))
    checked = CliRunner().invoke(leadline, ["doctor", str(job)])
    assert (checked.exit_code, "--repair" in checked.output) == (1, True)
    repaired = CliRunner().invoke(leadline, ["doctor", str(job), "--repair"])
    assert repaired.exit_code == 0, repaired.output
    assert "160 traces" in repaired.output.replace("\n", " ")
    with Journal.for_reading(path) as journal:
        n_before = journal.n_traces()
    assert {id: one.answer for id, one in _run(job).items()} == answers
    with Journal.for_reading(path) as journal:
        assert journal.n_traces() == n_before == 160
        assert "" not in journal.digests().values()


def test_a_sound_job_is_said_to_be(job: Path) -> None:
    """And a repair leaves it alone."""
    before = (job / "journal.db").read_bytes()
    done = CliRunner().invoke(leadline, ["doctor", str(job), "--repair"])
    assert (done.exit_code, "40 problems, 160 traces, 40 results" in done.output) == (0, True)
    assert (job / "journal.db").read_bytes() == before


def test_a_running_job_is_not_repaired(job: Path) -> None:
    """Its process would write to a file that is no longer the journal."""
    _overwrite(job / "journal.db", _root(job / "journal.db", "results"))
    with held(job):
        done = CliRunner().invoke(leadline, ["doctor", str(job), "--repair"])
    assert "another process is using it" in done.output + str(done.exception)
