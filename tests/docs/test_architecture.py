"""The map of the code is true: its picture, the import contract, and the sizes of its folders."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
MOST_ENTRIES = 10
_NOT_COUNTED = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}


def drawing() -> ModuleType:
    pytest.importorskip("grimp")
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_shows_the_imports_of_the_code() -> None:
    """Mend by `python docs/draw_architecture.py`."""
    draw = drawing()
    assert draw._description() in draw.PICTURE.read_text()


@pytest.mark.parametrize("package", ["orchestrator", "strategies", "verifiers"])
def test_a_folder_has_at_most_ten_entries(package: str) -> None:
    """So that a stranger can read what is in it. `orchestrator` itself may come to eleven."""
    crowded = {}
    for folder in (ROOT / package, *(ROOT / package).rglob("*/")):
        entries = {path.name for path in folder.iterdir()} - _NOT_COUNTED
        if folder.name != "__pycache__" and len(entries) > MOST_ENTRIES + (
            folder == ROOT / "orchestrator"
        ):
            crowded[str(folder.relative_to(ROOT))] = sorted(entries)
    assert crowded == {}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("orchestrator/core/misplaced.py", "import orchestrator.jobs.journal"),
        ("orchestrator/core/misplaced.py", "import sqlite3"),
        ("orchestrator/kit/misplaced.py", "import orchestrator.plan.registry"),
        ("orchestrator/plan/misplaced.py", "import orchestrator.engines.reply"),
        ("orchestrator/jobs/misplaced.py", "import orchestrator.engines.reply"),
        ("orchestrator/engines/misplaced.py", "import orchestrator.runtime.driver"),
        ("orchestrator/runtime/misplaced.py", "import orchestrator.studies.evaluate"),
        ("orchestrator/studies/misplaced.py", "import orchestrator.cli.main"),
        ("orchestrator/misplaced.py", "import orchestrator.core.values"),
        ("orchestrator/runtime/misplaced.py", "import strategies.sampling.consistency"),
        ("orchestrator/runtime/misplaced.py", "import vllm"),
        ("strategies/sampling/misplaced.py", "import orchestrator.plan.registry"),
        ("strategies/sampling/misplaced.py", "import strategies.pruning.deepconf"),
        ("verifiers/answers/misplaced.py", "import strategies.sampling.consistency"),
    ],
)
@pytest.mark.slow
def test_a_module_in_the_wrong_layer_fails_the_import_contract(
    tmp_path: Path, module: str, line: str
) -> None:
    """The contract names folders, not modules, so a new file is checked without an edit to it."""
    for package in ("orchestrator", "strategies", "verifiers"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert lint(tmp_path).returncode == 0
    (tmp_path / module).write_text(f"{line}\n")
    broken = lint(tmp_path)
    assert broken.returncode == 1, broken.stdout
    assert "BROKEN" in broken.stdout or "not listed as layers" in broken.stdout, broken.stdout


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-P", "-c", program, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
