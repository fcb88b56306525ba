"""Another distribution brings an import package `verifiers` too.

From wheels each of the two works, and removing one leaves the other whole. Where ours is hidden,
every command says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
OTHER = "verifiers-lookalike"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-index", "--no-deps", "--no-build-isolation"]
# what each of the two offers, by its import
OURS, THEIRS = "verifiers.answers.math", "verifiers.rubrics"
PYPROJECT = f"""
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{OTHER}"
version = "0.4.0"
[tool.hatch.build.targets.wheel]
packages = ["verifiers"]
"""


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command, in a folder that holds no package of ours."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd="/"
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of ours, and one of a distribution that ships verifiers/__init__.py."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    (source / "verifiers" / "rubrics").mkdir(parents=True)
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "verifiers" / "__init__.py").write_text("OWNER = 'lookalike'\n")
    (source / "verifiers" / "rubrics" / "__init__.py").write_text("")
    for project in (ROOT, source):
        run(*PIP, "wheel", *OFFLINE, "--wheel-dir", folder, project)
    return {
        "leadline": next(folder.glob("leadline-*.whl")),
        OTHER: next(folder.glob("verifiers_lookalike-*.whl")),
    }


class Environment:
    """A fresh environment that finds third parties where this one does."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.python = folder / "bin" / "python"
        [site] = folder.glob("lib/python*/site-packages")
        self.verifiers = site / "verifiers"
        paths = {sysconfig.get_path("purelib"), *(p for p in sys.path if "site-packages" in p)}
        (site / "others.pth").write_text("".join(f"{path}\n" for path in paths))

    def pip(self, *arguments: str | Path) -> None:
        run(*PIP, "--python", self.python, *arguments)

    def imports(self, *modules: str) -> list[bool]:
        return [
            run(self.python, "-c", f"import {module}", check=False).returncode == 0
            for module in modules
        ]

    def leadline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(self.python, "-m", "orchestrator", *arguments, check=False)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


@pytest.mark.parametrize("order", [("leadline", OTHER), (OTHER, "leadline")])
@pytest.mark.parametrize("removed", ["leadline", OTHER])
def test_wheels_share_the_name_in_any_order(
    environment: Environment, wheels: dict[str, Path], order: tuple[str, str], removed: str
) -> None:
    """Nothing is overwritten by installing, nothing of the other is taken along by removing."""
    for name in order:
        environment.pip("install", *OFFLINE, wheels[name])
    assert environment.imports("verifiers", OURS, THEIRS) == [True, True, True]
    doctor = (
        "from orchestrator.cli.machine.doctor import import_packages; print(*import_packages())"
    )
    assert f"'verifiers' is shared with {OTHER}" in run(environment.python, "-c", doctor).stdout
    before = set(environment.verifiers.rglob("*.py"))
    environment.pip("uninstall", "--yes", removed)
    assert environment.imports(OURS, THEIRS) == [removed == OTHER, removed == "leadline"]
    theirs = {environment.verifiers / "__init__.py", environment.verifiers / "rubrics/__init__.py"}
    kept = before - theirs if removed == OTHER else theirs
    assert set(environment.verifiers.rglob("*.py")) == kept


def test_a_checkout_that_is_hidden_is_an_error_with_both_names_and_the_remedy(
    environment: Environment, wheels: dict[str, Path]
) -> None:
    """Their regular package wins over our portion elsewhere, whatever the order on the path."""
    environment.pip("install", *OFFLINE, "--editable", ROOT)
    assert environment.imports(OURS) == [True]
    environment.pip("install", *OFFLINE, wheels[OTHER])
    assert environment.imports("verifiers", OURS) == [True, False]
    for command in (
        ("solve", "What is 2 + 2?", "--execution.engine", "fake"),
        ("plugins", "math"),
        ("doctor",),
    ):
        done = environment.leadline(*command)
        message = " ".join((done.stdout + done.stderr).split())
        assert done.returncode != 0, command
        assert f"leadline and {OTHER} 0.4.0 both bring the import package 'verifiers'" in message
        assert "from a wheel" in message
        assert f"pip uninstall {OTHER}" in message
        assert "Traceback" not in message
