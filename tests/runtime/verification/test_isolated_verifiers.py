"""Verifiers that run in a worker process: a user's class, in whole jobs and alone."""

from __future__ import annotations

import asyncio
import importlib
from contextlib import aclosing
from pathlib import Path

import pytest

import orchestrator
from orchestrator.core.errors import NoVerdict, PluginError
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Problem, Trace
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.runtime.isolated_verifiers import IsolatedVerifiers
from orchestrator.runtime.verify import VerifierRunner
from orchestrator.testing import check_verifier

MODULE = """
import dataclasses, os
from orchestrator.core.errors import NoVerdict
from orchestrator.core.values import Verdict

@dataclasses.dataclass(frozen=True)
class Obedient:
    "Does what the text says."
    seconds: float = 60.0
    memory_mib: int = 512

    def check(self, problem, trace):
        if trace.text == "refuse":
            raise NoVerdict("it will not say")
        if trace.text == "number":
            return 0.5
        if trace.text == "exit":
            os._exit(3)
        if trace.text == "too much":
            return Verdict("obedient", 1.5)
        return Verdict("obedient", 0.25, (0.25, 0.5), note=str(os.getpid()))
"""
SPEC = PluginSpec("obedient")
PROBLEM = Problem("p", "?", "number")


@pytest.fixture(autouse=True)
def obedient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """Register a class of a user's module, from which worker processes import it."""
    (tmp_path / "obedient_verifier.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    cls: type = importlib.import_module("obedient_verifier").Obedient
    monkeypatch.setitem(registry._decorated["verifiers"], "obedient", cls)
    return cls


async def test_a_verdict_comes_back_whole_from_another_process() -> None:
    """Score, steps and note are returned; the process is kept for the next trace."""
    async with aclosing(IsolatedVerifiers([SPEC])) as verifiers:
        first, second = [await verifiers.verdict("obedient", PROBLEM, Trace(0)) for _ in range(2)]
    assert (first.score, first.steps) == (0.25, (0.25, 0.5))
    assert first == second
    assert first.note != ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("refuse", "^it will not say$"),
        ("number", "raised TypeError: it returned 0.5, not a Verdict"),
        ("exit", "the worker process exited with status 3"),
    ],
)
async def test_what_gives_no_verdict_says_why(text: str, reason: str) -> None:
    async with aclosing(IsolatedVerifiers([SPEC])) as verifiers:
        with pytest.raises(NoVerdict, match=reason):
            await verifiers.verdict("obedient", PROBLEM, Trace(0, text))
        assert (await verifiers.verdict("obedient", PROBLEM, Trace(0))).score == 0.25


async def test_a_hundred_traces_at_once_each_get_their_verdict() -> None:
    async with aclosing(IsolatedVerifiers([SPEC])) as verifiers:
        calls = [verifiers.verdict("obedient", PROBLEM, Trace(n)) for n in range(100)]
        assert [v.score for v in await asyncio.gather(*calls)] == [0.25] * 100


def test_a_job_has_its_verdicts(tmp_path: Path) -> None:
    plan = Plan(strategy=PluginSpec("consistency", {"n": 2}), verifiers=(SPEC,))
    orchestrator.run([PROBLEM], plan, Execution(engine=PluginSpec("fake")), out=tmp_path)
    for trace in orchestrator.traces(tmp_path, "p"):
        assert [v.score for v in trace.verdicts] == [0.25]
        assert trace.note == ""


async def test_a_score_out_of_range_is_refused_like_that_of_any_other_verifier() -> None:
    async with aclosing(IsolatedVerifiers([SPEC])) as isolated:
        runner = VerifierRunner(Plan(verifiers=(SPEC,)), FakeEngine(Fake()), isolated, 1)
        outcome = await runner.run("obedient", PROBLEM, Trace(0, "too much"))
    assert outcome.verdict is None
    assert "scores are in [0, 1]" in outcome.note


def test_a_class_that_other_processes_cannot_import_is_refused(
    obedient: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before an engine starts, with the remedy."""
    monkeypatch.setattr(obedient, "__module__", "__main__")
    with pytest.raises(PluginError, match="move the class to a module"):
        orchestrator.run([PROBLEM], Plan(verifiers=(SPEC,)), Execution(engine=PluginSpec("fake")))


async def test_the_contract_suite_knows_this_form(obedient: type) -> None:
    """It checks the verifier in its own process, and with effective limits."""
    await check_verifier(obedient(), name="obedient")
    with pytest.raises(AssertionError, match="limits"):
        await check_verifier(obedient(seconds=0.0), name="obedient")
