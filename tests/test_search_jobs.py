"""Search strategies through the public seam, on the fake engine: what a verifier is shown, and whole jobs with judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import orchestrator
from orchestrator import registry
from orchestrator.backends.fake import problem_number
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.steps import Steps, next_trace, submit
from orchestrator.core.types import PluginSpec, Problem, Request, Trace, Verdict
from orchestrator.fleet import Fleet

QUESTIONS = [Problem(f"p{i}", f"Question {i}?", "number") for i in range(3)]


@registry.verifier("n-words")
@dataclass(frozen=True, slots=True)
class NWords:
    """Scores a text by its number of words: 20 and more are 1."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [Verdict("n-words", min(1.0, len(t.text.split()) / 20)) for t in traces]


@registry.verifier("knows")
@dataclass(frozen=True, slots=True)
class Knows:
    """Scores what states the right answer, the fake engine's `{hash}`, with .9 and everything else with .1."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [Verdict("knows", 0.9 if t.text.endswith(f" {problem_number(problem.id)}.") else 0.1) for t in traces]


@registry.strategy("two-steps")
@dataclass(frozen=True, slots=True)
class TwoSteps:
    """Takes four tokens, then four more."""

    def explore(self, problem: Problem, rng: object) -> Steps:
        parent = None
        for _ in range(2):
            [parent] = yield from submit([Request(parent=parent, max_new_tokens=4)])
            yield from next_trace([parent])


def test_a_verifier_sees_a_continuation_from_its_beginning(tmp_path: Path) -> None:
    """The last step alone says nothing about a solution: four words score .2, the eight of both steps .4; the trace keeps its own four."""
    plan = Plan(strategy=PluginSpec("two-steps"), verifiers=(PluginSpec("n-words"),))
    orchestrator.run(QUESTIONS[:1], plan, Fleet(engine=PluginSpec("fake", {"n_tokens": 100})), out=tmp_path)
    first, second = orchestrator.traces(tmp_path, "p0")
    assert [t.verdicts[0].score for t in (first, second)] == [0.2, 0.4]
    assert len(second.text.split()) == 4


def test_best_of_n_is_consistency_with_a_verifier_and_a_selector() -> None:
    """The right answer comes once in ten: of 40 traces the majority is wrong, and the best by verdict right if it came at all.

    P(no right one among 40) = .9^40 = .015 for each problem; the seed is fixed.
    """
    fleet = Fleet(engine=PluginSpec("fake", {"weights": (1.0, 9.0, 0.0)}))
    answers = {}
    for selector in ("majority", "best"):
        by = {"by": "verdict:knows"} if selector == "best" else {}
        plan = Plan(
            strategy=PluginSpec("consistency", {"n": 40}), verifiers=(PluginSpec("knows"),), selector=PluginSpec(selector, by), seed=1
        )
        results = orchestrator.run(QUESTIONS, plan, fleet)
        answers[selector] = [r.answer.text if r.answer else None for r in results]
    assert answers["best"] == [problem_number(p.id) for p in QUESTIONS]
    assert answers["majority"] == ["0"] * 3


def test_a_pool_named_by_any_option_must_be_in_the_plan() -> None:
    """A judge that does not exist is refused before an engine starts, with the near match."""
    plan = Plan(models={"main": Model("smollm2"), "judge": Model("smollm2")}, strategy=PluginSpec("scrutinize", {"judge": "jugde"}))
    with pytest.raises(PlanError, match=r"'jugde' \(did you mean 'judge'\?\)"):
        orchestrator.run(QUESTIONS, plan, Fleet(engine=PluginSpec("fake")))
