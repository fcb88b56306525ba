"""docs/results.md: its function finds the wrong problems, and its tables list what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.core.votes import AttemptState
from orchestrator.report.scored import Outcome, read_scored
from orchestrator.report.tables.export import ExportFormat
from orchestrator.report.tables.rows import attempt_rows

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results.md").read_text()


@pytest.mark.usefixtures("world")
def test_the_function_of_the_page_finds_the_wrong_problems() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "results.md", "exec"), names)
    job = read_scored("runs/arithmetic")
    wrong = [p.problem.id for p in job.problems if p.outcome is Outcome.WRONG]
    assert wrong
    assert names["wrong_problems"]("runs/arithmetic") == wrong  # type: ignore[operator]  # a function of the page


@pytest.mark.usefixtures("world")
def test_the_tables_of_the_page_are_complete() -> None:
    """Every column of an attempt, every state and every format has its row, and no other has."""
    first_cells = re.findall(r"^\| (`.*?`) \|", PAGE, re.M)
    named = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    columns = set(next(attempt_rows(read_scored("runs/arithmetic"))))
    formats = {kind.value for kind in ExportFormat}
    states = {state.value for state in AttemptState}
    assert columns | formats | states == {name for name in named if not name.startswith("--")}
