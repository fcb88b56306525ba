"""docs/results.md and the help of its commands: the examples run, the tables list what there is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.core.votes import AttemptState
from orchestrator.report.export import ExportFormat
from orchestrator.report.rows import attempt_rows
from orchestrator.report.scored import Outcome, read_scored

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results.md").read_text()
COMMANDS = [shlex.split(line, comments=True) for line in re.findall("^leadline .*", PAGE, re.M)]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(leadline, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs and files of the examples, on the fake engine; each problem has a level."""
    monkeypatch.chdir(tmp_path)
    lines = (ROOT / "examples" / "arithmetic.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"level": 1 + i % 5} for i, line in enumerate(lines)]
    for name in ("p.jsonl", "answers.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = (str(ROOT / "examples" / "arithmetic.toml"), "--problems", "p.jsonl")
    for seed, name in enumerate(("arithmetic", "plain", "adaptive")):
        settings = ("--execution.engine", "fake", "-q", "--seed", str(seed))
        run("run", *plan, *settings, "--out", f"runs/{name}")


@pytest.mark.usefixtures("jobs")
def test_every_command_of_the_page_runs() -> None:
    assert len(COMMANDS) == 6
    for command in COMMANDS:
        assert run(*command[1:])


@pytest.mark.usefixtures("jobs")
@pytest.mark.parametrize("name", ["show", "eval", "compare", "export"])
def test_every_example_of_the_help_runs(name: str) -> None:
    """As it is written, and without a note that something could not be done."""
    examples = re.findall(r"^ +leadline (.*)", run(name, "--help"), re.MULTILINE)
    assert len(examples) > 1
    for example in examples:
        assert "could not be" not in run(*shlex.split(example))


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
