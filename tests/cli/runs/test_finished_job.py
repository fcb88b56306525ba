"""The same command on a finished job shows its tables again, without reading the job, and never
those of another state of it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import filelock
import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline

Run = Callable[..., Result]
RUN = ("run", "--problems", "p.jsonl", "--execution.engine", "fake", "--domain", "number")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run three problems, one of which is invalid, or the same command again."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"q{i}", "prompt": f"{i} + 2?", "answer": str(i + 2)} for i in range(2)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"id": "r"}]))
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *more: CliRunner().invoke(leadline, [*RUN, "--out", "job", *more])


def is_read(run: Run, *more: str) -> bool:
    """Tell whether the command wants the job itself, which another process uses."""
    with filelock.FileLock("job/lock"):
        return "another process is using it" in run(*more).output


def test_a_finished_job_is_shown_without_being_read(run: Run) -> None:
    """In every view, with the notes on its rows."""
    assert run().exit_code == 0
    assert not is_read(run)
    for view in ((), ("--json",), ("--quiet",)):
        Path("job/report.json").rename("report.json")
        computed = run(*view)
        assert Path("job/report.json").exists()
        shown = run(*view)
        assert (shown.stdout, shown.stderr) == (computed.stdout, computed.stderr)
        assert (shown.exit_code, computed.exit_code) == (0, 0)
    assert "1 of 3 rows is invalid" in run().stderr
    assert json.loads(run("--json").stdout)["n_resumed"] == 2


def _write(path: str, content: str) -> None:
    Path(path).write_text(content)


def _edit_journal() -> None:
    with closing(sqlite3.connect("job/journal.db", isolation_level=None)) as db:
        db.execute("DELETE FROM results WHERE problem = 'q1'")


CHANGES: dict[str, Callable[[], object]] = {
    "another reference": lambda: _write(
        "p.jsonl", Path("p.jsonl").read_text().replace('"2"', '"77"')
    ),
    "another journal": _edit_journal,
    "results changed": lambda: _write("job/results.jsonl", "{}\n"),
    "no results": lambda: Path("job/results.jsonl").unlink(),
    "another recorded plan": lambda: _write("job/plan.toml", "seed = 1\n"),
    "a broken report": lambda: _write("job/report.json", "{"),
    "a copy": lambda: _write_copy(),
}


def _write_copy() -> None:
    content = Path("job/journal.db").read_bytes()
    Path("job/journal.db").unlink()
    Path("job/journal.db").write_bytes(content)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_job_is_read_again(run: Run, change: str) -> None:
    """A stale table would be believed."""
    assert run().exit_code == 0
    CHANGES[change]()
    assert is_read(run)
    assert run().exit_code == 0
    assert not is_read(run)
    assert len(Path("job/results.jsonl").read_text().splitlines()) == 3


def test_a_changed_reference_changes_the_accuracy(run: Run) -> None:
    accuracies = []
    for answer in ("2", "77"):
        text = json.dumps({"id": "q0", "prompt": "0 + 2?", "answer": answer}) + "\n"
        Path("p.jsonl").write_text(text)
        report = json.loads(run("--execution.engine.answers", '["2"]', "--json").stdout)
        accuracies.append(report["report"]["accuracy"]["value"])
    assert accuracies == [1.0, 0.0]


def test_a_job_with_failed_problems_is_run_again(run: Run) -> None:
    run("--execution.engine.failure_rate", "1")
    assert not Path("job/report.json").exists()
    assert is_read(run, "--execution.engine.failure_rate", "1")


def test_another_setting_of_the_execution_is_recorded(run: Run) -> None:
    assert run().exit_code == 0
    assert is_read(run, "--execution.window", "5")
    assert run("--execution.window", "5").exit_code == 0
    assert "window = 5" in Path("job/plan.toml").read_text()
