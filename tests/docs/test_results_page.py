"""docs/results.md: its commands run on two jobs, and its tables list what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.report.export import ExportFormat
from orchestrator.report.rows import attempt_rows
from orchestrator.report.scored import AttemptState, Outcome, read_scored

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results.md").read_text()
COMMANDS = [shlex.split(line, comments=True) for line in re.findall("^leadline .*", PAGE, re.M)]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(leadline, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of the page, on the fake engine."""
    monkeypatch.chdir(tmp_path)
    plan = str(ROOT / "examples" / "arithmetic.toml")
    run("run", plan, "--execution.engine", "fake", "-q")
    run("run", plan, "--execution.engine", "fake", "-q", "--seed", "1", "--out", "runs/plain")


@pytest.mark.usefixtures("jobs")
def test_every_command_of_the_page_runs() -> None:
    assert len(COMMANDS) == 6
    for command in COMMANDS:
        assert run(*command[1:])


@pytest.mark.usefixtures("jobs")
def test_the_function_of_the_page_finds_the_wrong_problems() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "results.md", "exec"), names)
    job = read_scored("runs/arithmetic")
    wrong = [p.problem.id for p in job.problems if p.outcome is Outcome.WRONG]
    assert wrong
    assert names["wrong_problems"]("runs/arithmetic") == wrong  # type: ignore[operator]  # a function of the page


@pytest.mark.usefixtures("jobs")
def test_the_tables_of_the_page_are_complete() -> None:
    """Every column of an attempt, every state and every format has its row, and no other has."""
    first_cells = re.findall(r"^\| (`.*?`) \|", PAGE, re.M)
    named = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    columns = set(next(attempt_rows(read_scored("runs/arithmetic"))))
    formats = {kind.value for kind in ExportFormat}
    states = {state.value for state in AttemptState}
    assert columns | formats | states == {name for name in named if not name.startswith("--")}
