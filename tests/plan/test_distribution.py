"""A plugin in a distribution of its own is found through its entry points, and what is wrong with
one is said by name.

The distribution in tests/plugin is built and installed into a folder of its own, offline, and seen
by fresh processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed distribution."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(SOURCE, source)  # a build writes beside the sources
    options = [
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "--target",
        str(target),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def python(installed: Path, code: str) -> str:
    """Run code in a fresh process that sees the distribution; return what it prints."""
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_its_plugins_are_listed_and_built_with_options(installed: Path) -> None:
    """Nothing of ours names them: declaring an entry point is all there is to do."""
    code = """
from orchestrator.plan import registry
from orchestrator.core.values import PluginSpec
names = dict(strategies="first-two", selectors="shortest", domains="colour", verifiers="brevity")
for group, name in dict(names, engines="echo", similarity="length").items():
    assert name in registry.names(group), (group, name)
    assert registry.distribution(group, name) == "leadline-example-plugin 0.3.0"
    registry.load(group, PluginSpec(name))
print(registry.load("strategies", PluginSpec("first-two", {"n": 9})))
print([(o.name, o.type, o.default) for o in registry.options("domains", "colour")])
print([(o.range, o.description) for o in registry.options("strategies", "first-two")])
"""
    assert python(installed, code).splitlines() == [
        "FirstTwo(n=9)",
        "[('colours', 'tuple[str, ...]', \"('red', 'green', 'blue')\")]",
        "[('at least 1', 'The number of traces to start.')]",
    ]


def test_its_plugins_keep_the_contract(installed: Path) -> None:
    """The checks are public and run in anybody's process, without pytest."""
    code = """
import asyncio, sys
from orchestrator.testing import check_domain, check_engine, check_similarity
from orchestrator.testing import check_selector, check_strategy, check_verifier
from orchestrator.core.plan import Model
from leadline_example.plugins import Brevity, Colour, Echo, FirstTwo, Length, Shortest
check_strategy(FirstTwo())
check_strategy(FirstTwo(n=1))
check_selector(Shortest())
check_similarity(Length())
stated = [("My colour: Red.", "red")]
check_domain(Colour(), stated=stated, equal=[("Red", "red")], different=[("red", "blue")])
async def engine():
    await check_verifier(Brevity(), name="brevity")
    async with Echo().open({"main": Model("m")}) as it:
        await check_engine(it, Echo().capabilities(), wait_seconds=20)
asyncio.run(engine())
assert "pytest" not in sys.modules
print("kept")
"""
    assert python(installed, code) == "kept"


def test_a_name_that_leadline_has_is_refused_by_both_names(installed: Path) -> None:
    """Neither the first nor the last found may win: which that is depends on the order of
    installation.
    """
    code = """
from orchestrator.plan import registry
from orchestrator.core.errors import PluginError
try:
    registry.plugin_class("selectors", "majority")
except PluginError as error:
    print(error)
"""
    said = python(installed, code)
    assert "'majority' is declared twice" in said
    assert "leadline-example-plugin 0.3.0" in said
    assert "leadline 0." in said


def test_a_plugin_that_does_not_import_is_named_and_harms_nobody_else(installed: Path) -> None:
    """The distribution, the plugin and the missing module; listing still works, and so do the
    others.
    """
    code = """
from orchestrator.plan import registry
from orchestrator.core.errors import PluginError
assert "broken" in registry.names("strategies")
registry.plugin_class("strategies", "consistency")
try:
    registry.plugin_class("strategies", "broken")
except PluginError as error:
    print(error)
"""
    said = python(installed, code)
    assert "'broken' of leadline-example-plugin 0.3.0 does not load" in said
    assert "a_module_that_nobody_has" in said
