"""Packages that many use work unchanged with a service, and run strategies in process.

They are the real ones, in the environment of `make clients`; each test names what is not there.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting_service import MODELS, Served, served

from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("LEADLINE_CLIENTS", ROOT / ".venv-clients" / "bin" / "python"))
PROGRAMS = Path(__file__).parent / "clients" / "programs.py"
ANSWER = "The answer is 7."
PLAN = """
[models.small]
path = "tiny/small"
[strategy]
name = "consistency"
n = 2
[execution.engine]
name = "fake"
answers = ["7"]
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    plan = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": 2}))
    with served(plan, str(tmp_path_factory.mktemp("clients")), answers=("7",)) as one:
        yield one


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str, str, str], dict[str, Any]]:
    """Return what runs a program with an argument; skipped where its package is missing."""

    def result(package: str, program: str, argument: str) -> dict[str, Any]:
        if not PYTHON.is_file():
            pytest.skip(f"{package} is not installed: `make clients` installs it")
        find = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
        if subprocess.run([PYTHON, "-c", find]).returncode:
            pytest.skip(f"{package} is not installed in {PYTHON.parent.parent}")
        local = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        # what coverage measures of this process is not for the other environment
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE"))}
        done = subprocess.run(
            [PYTHON, PROGRAMS, program, argument],
            env=inherited | local,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return result


@pytest.fixture
def plan(tmp_path: Path) -> str:
    (tmp_path / "plan.toml").write_text(PLAN)
    return str(tmp_path / "plan.toml")


def test_lm_eval_evaluates_a_local_task(service: Served, run: Any) -> None:
    """The name of the model asks for four attempts at each of four questions."""
    n_before = len(service.counts.started)
    found = run("lm_eval", "lm_eval", service.address)
    assert (found["n"], found["right"]) == (4, 1.0)
    assert found["text"].endswith(ANSWER)
    assert len(service.counts.started) - n_before == 16


def test_inspect_evaluates_samples(service: Served, run: Any) -> None:
    n_before = len(service.counts.started)
    found = run("inspect_ai", "inspect_ai", service.address)
    assert (found["n"], found["right"]) == (4, 1.0)
    assert found["text"].endswith(ANSWER)
    assert found["tokens"] == 32  # of four attempts with eight each
    assert len(service.counts.started) - n_before == 16


def test_llm_asks_with_and_without_a_stream(service: Served, run: Any) -> None:
    found = run("llm", "llm", service.address)
    assert found["text"].endswith(f"{ANSWER}\n")
    assert found["unstreamed"].endswith(f"{ANSWER}\n")


def test_langchain_asks_in_each_of_its_ways(service: Served, run: Any) -> None:
    found = run("langchain_openai", "langchain", service.address)
    texts = [found[name] for name in ("text", "streamed", "later", "response", "streamed response")]
    texts += found["batch"]
    assert len(texts) == 8
    assert all(text.endswith(ANSWER) for text in texts)
    assert found["tokens"] == 32


def test_a_strategy_is_a_model_of_lm_eval(run: Any, plan: str) -> None:
    found = run("lm_eval", "lm_eval_in_process", plan)
    assert (found["n"], found["right"]) == (4, 1.0)
    assert found["text"].endswith(ANSWER)


def test_a_strategy_is_a_provider_of_inspect(run: Any, plan: str) -> None:
    found = run("inspect_ai", "inspect_ai_in_process", plan)
    assert (found["n"], found["right"]) == (4, 1.0)
    own = found["metadata"]["leadline"]
    assert (own["answer"], own["n_attempts"]) == ("7", 4)
