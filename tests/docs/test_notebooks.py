"""The notebooks of docs/: they were executed as they are, and their code still runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_executed_from_its_first_cell_to_its_last(notebook: Path) -> None:
    """A cell that was changed and run alone would show what no reader gets."""
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert {o["output_type"] for o in outputs} <= {"stream", "display_data", "execute_result"}
    assert all(output.get("name") != "stderr" for output in outputs)
    assert not re.search(r"/(tmp|home|root|work)/", json.dumps(outputs)), "a path of one machine"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_a_notebook_runs(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells one after another, in an empty directory; a line with "!" is a command."""
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("matplotlib").use("Agg")
    names: dict[str, object] = {}
    for cell in code_cells(notebook):
        code = "".join(cell["source"])
        if not code.startswith("!leadline "):
            exec(compile(code, notebook.name, "exec", dont_inherit=True), names)
            continue
        command = code.removeprefix("!leadline ").partition("|")[0].split()
        done = CliRunner().invoke(leadline, command)
        assert done.exit_code == 0, done.output
