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
    """So that a stranger can read what is in it. `orchestrator` itself may come to twelve."""
    crowded = {}
    for folder in (ROOT / package, *(ROOT / package).rglob("*/")):
        entries = {path.name for path in folder.iterdir()} - _NOT_COUNTED
        if folder.name != "__pycache__" and len(entries) > MOST_ENTRIES + (
            2 * (folder == ROOT / "orchestrator")
        ):
            crowded[str(folder.relative_to(ROOT))] = sorted(entries)
    assert crowded == {}


MISPLACED = {
    "orchestrator/core/a.py": "orchestrator.jobs.journal",
    "orchestrator/core/b.py": "sqlite3",
    "orchestrator/core/c.py": "msgspec",
    "orchestrator/kit/d.py": "orchestrator.plan.registry",
    "orchestrator/plan/e.py": "orchestrator.engines.reply",
    "orchestrator/jobs/f.py": "orchestrator.engines.reply",
    "orchestrator/engines/g.py": "orchestrator.runtime.driver",
    "orchestrator/engines/fake/h.py": "orchestrator.engines.vllm.engine",
    "orchestrator/runtime/i.py": "orchestrator.studies.evaluate",
    "orchestrator/studies/j.py": "orchestrator.cli.main",
    "orchestrator/runtime/k.py": "strategies.sampling.consistency",
    "orchestrator/runtime/l.py": "vllm",
    "strategies/sampling/m.py": "orchestrator.plan.registry",
    "strategies/sampling/n.py": "strategies.pruning.deepconf",
    "verifiers/answers/o.py": "strategies.sampling.consistency",
}


@pytest.mark.slow
def test_a_module_in_the_wrong_layer_fails_the_import_contract(tmp_path: Path) -> None:
    """The contract names folders, not modules, so a new file is checked without an edit to it."""
    pytest.importorskip("importlinter")
    for package in ("orchestrator", "strategies", "verifiers"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert lint(tmp_path).returncode == 0
    for module, target in MISPLACED.items():
        (tmp_path / module).write_text(f"import {target}\n")
    broken = lint(tmp_path)
    assert broken.returncode == 1, broken.stdout
    imports = " ".join(broken.stdout.split())
    for module, target in MISPLACED.items():
        name = module.removesuffix(".py").replace("/", ".")
        assert f"{name} -> {target}" in imports, (name, broken.stdout)


@pytest.mark.slow
def test_a_module_outside_the_layers_fails_the_import_contract(tmp_path: Path) -> None:
    pytest.importorskip("importlinter")
    for package in ("orchestrator", "strategies", "verifiers"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "orchestrator" / "misplaced.py").write_text("")
    assert lint(tmp_path).returncode == 1


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; sys.path.insert(0, '.'); "
        "from importlinter.cli import lint_imports_command as run; run()"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", program, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
