"""Search strategies on the fake engine: the input of verifiers, and whole jobs with judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import orchestrator
from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.steps import Steps, next_trace, submit
from orchestrator.core.values import PluginSpec, Problem, Request, Trace, Verdict
from orchestrator.engines.fake.engine import problem_number
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution

QUESTIONS = [Problem(f"p{i}", f"Question {i}?", "number") for i in range(3)]


@registry.verifier("n-words")
@dataclass(frozen=True, slots=True)
class NWords:
    """Scores a text by its number of words: 20 or more are 1."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [Verdict("n-words", min(1.0, len(t.text.split()) / 20)) for t in traces]


@registry.verifier("knows")
@dataclass(frozen=True, slots=True)
class Knows:
    """Scores traces with the right answer, the fake engine's `{hash}`, with .9, others with .1."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [
            Verdict("knows", 0.9 if t.text.endswith(f" {problem_number(problem.id)}.") else 0.1)
            for t in traces
        ]


@registry.strategy("two-steps")
@dataclass(frozen=True, slots=True)
class TwoSteps:
    """Generates four tokens, then four more."""

    def explore(self, problem: Problem, rng: object) -> Steps:
        parent = None
        for _ in range(2):
            [parent] = yield from submit([Request(parent=parent, max_new_tokens=4)])
            yield from next_trace([parent])


def test_a_verifier_sees_a_continuation_from_its_beginning(tmp_path: Path) -> None:
    """A verifier must see the whole solution, not only the last step.

    Four words score .2, the eight of both steps .4; the trace keeps its own four.
    """
    plan = Plan(strategy=PluginSpec("two-steps"), verifiers=(PluginSpec("n-words"),))
    orchestrator.run(
        QUESTIONS[:1], plan, Execution(engine=PluginSpec("fake", {"n_tokens": 100})), out=tmp_path
    )
    first, second = orchestrator.traces(tmp_path, "p0")
    assert [t.verdicts[0].score for t in (first, second)] == [0.2, 0.4]
    assert len(second.text.split()) == 4


def test_best_of_n_is_consistency_with_a_verifier_and_a_selector() -> None:
    """The best by verdict is right if any trace is; the majority of the 40 is wrong.

    One in ten traces has the right answer.

    P(no right one among 40) = .9^40 = .015 for each problem; the seed is fixed.
    """
    execution = Execution(engine=PluginSpec("fake", {"weights": (1.0, 9.0, 0.0)}))
    answers = {}
    for selector in ("majority", "best"):
        by = {"by": "verdict:knows"} if selector == "best" else {}
        plan = Plan(
            strategy=PluginSpec("consistency", {"n": 40}),
            verifiers=(PluginSpec("knows"),),
            selector=PluginSpec(selector, by),
            seed=1,
        )
        results = orchestrator.run(QUESTIONS, plan, execution)
        answers[selector] = [r.answer.text if r.answer else None for r in results]
    assert answers["best"] == [problem_number(p.id) for p in QUESTIONS]
    assert answers["majority"] == ["0"] * 3


def test_a_pool_named_by_any_option_must_be_in_the_plan() -> None:
    """A judge that does not exist is refused before an engine starts, with the closest match."""
    plan = Plan(
        models={"main": Model("smollm2"), "judge": Model("smollm2")},
        strategy=PluginSpec("scrutinize", {"judge": "jugde"}),
    )
    with pytest.raises(PlanError, match=r"'jugde' \(did you mean 'judge'\?\)"):
        orchestrator.run(QUESTIONS, plan, Execution(engine=PluginSpec("fake")))


# --- whole jobs ---

JOBS: dict[
    str, tuple[dict[str, object], dict[str, object]]
] = {  # strategy -> its options, the selector's name and options
    "ab-mcts": (
        {"verifier": "knows", "n": 5, "parallel": 2},
        {"name": "best", "by": "verdict:knows"},
    ),
    "ab-mcts-m": (
        {"verifier": "knows", "n": 5, "parallel": 2, "models": ["main", "large"]},
        {"name": "best", "by": "verdict:knows"},
    ),
    "beam": (
        {"verifier": "knows", "n": 4, "width": 2, "steps": 3, "delimiter": " wait"},
        {"name": "best", "by": "verdict:knows"},
    ),
    "cascade": ({"models": ["main", "large"], "n": 2, "agreement": 1.0}, {"name": "final"}),
    "compute-optimal": (
        {
            "first": 3,
            "verifier": "knows",
            "medium": "consistency n=2",
            "hard": "refine inner='consistency n=2' rounds=1",
        },
        {"name": "best-weighted", "by": "verdict:knows"},
    ),
    "concise-hint": ({"n": 2, "interval": 3, "growth": 0.0, "end": " wait"}, {"name": "majority"}),
    "dvts": (
        {"verifier": "knows", "n": 4, "width": 2, "steps": 3, "delimiter": " wait"},
        {"name": "best-weighted", "by": "verdict:knows"},
    ),
    "early-answer": (
        {"n": 2, "warm_up": 0, "delimiter": " so", "variance": 1.0, "end": "</think>"},
        {"name": "majority"},
    ),
    "ensemble": ({"models": ["main", "large"], "n": 4}, {"name": "majority"}),
    "mind-evolution": (
        {"verifier": "knows", "islands": 2, "conversations": 2, "turns": 2, "generations": 2},
        {"name": "best", "by": "verdict:knows"},
    ),
    "mits": ({"n": 2, "beam": 2, "steps": 3, "delimiter": " wait"}, {"name": "pmi"}),
    "particles": (
        {"verifier": "knows", "n": 3, "steps": 3, "delimiter": " wait"},
        {"name": "best", "by": "verdict:knows"},
    ),
    "refine": (
        {
            "inner": {
                "name": "cascade",
                "models": ["main", "large"],
                "inner": "adaptive n=4 wave=2",
                "agreement": 1.0,
            },
            "rounds": 1,
        },
        {"name": "final", "vote": "majority"},
    ),
    "revise": ({"chains": 2, "revisions": 2}, {"name": "final"}),
    "rsa": ({"n": 3, "k": 2, "steps": 3}, {"name": "final"}),
    "scrutinize": (
        {"n": 3, "verdicts": 2, "preliminary": 1, "comparisons": 2},
        {"name": "scrutinized"},
    ),
    "staged": (
        {
            "stages": ["consistency n=2", "scrutinize n=2 verdicts=1 preliminary=0"],
            "agreement": 1.0,
        },
        {"name": "scrutinized"},
    ),
    "speculative-thinking": (
        {"large": "large", "n": 2, "tokens": 40, "delimiter": " wait"},
        {"name": "majority"},
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_died_half_way_goes_on_to_the_same_pool(name: str, tmp_path: Path) -> None:
    """A resumed job has the traces and results of an uninterrupted one.

    The engine dies after seven requests.
    """
    options, chosen = JOBS[name]
    selector = PluginSpec(str(chosen["name"]), {k: v for k, v in chosen.items() if k != "name"})
    models = {"main": Model("fake"), "large": Model("fake")}
    verifiers = (PluginSpec("knows"),) if "verifier" in options else ()
    plan = Plan(
        models=models, strategy=PluginSpec(name, options), selector=selector, verifiers=verifiers
    )

    def execution(crash_after: int = 0) -> Execution:
        return Execution(
            engine=PluginSpec(
                "fake", {"spread_tokens": 4, "judge_error": 0.2, "crash_after": crash_after}
            ),
            window=1,
        )

    with pytest.raises(EngineError):
        orchestrator.run(QUESTIONS, plan, execution(crash_after=7), out=tmp_path / "cut")
    resumed = orchestrator.run(QUESTIONS, plan, execution(), out=tmp_path / "cut")
    whole = orchestrator.run(QUESTIONS, plan, execution(), out=tmp_path / "whole")
    assert [(r.answer, r.clusters, r.usage) for r in resumed] == [
        (r.answer, r.clusters, r.usage) for r in whole
    ]
    assert all(r.answer is not None and not r.error for r in whole)
    for problem in QUESTIONS:
        assert orchestrator.traces(tmp_path / "cut", problem.id) == orchestrator.traces(
            tmp_path / "whole", problem.id
        )


def test_judges_find_on_the_fake_engine_what_the_vote_misses() -> None:
    """A verifier without error finds a right candidate if there is one.

    Right with .3, else 0 (.7); at least one of 4 candidates is right with 1 - .7^4 = .7599.

    60 problems: standard deviation .0551; five of those, P(false alarm) < 1e-6. The same pools by
    majority: about .1. Judges that always err choose a wrong candidate if there is one: right with
    .3^4 = .0081.
    """
    problems = [Problem(f"q{i}", f"Question {i}?", "number") for i in range(60)]

    def accuracy(selector: str, judge_error: float) -> float:
        options = {"weights": (3.0, 7.0, 0.0), "judge_error": judge_error}
        plan = Plan(
            strategy=PluginSpec("scrutinize", {"n": 4, "verdicts": 2, "preliminary": 0}),
            selector=PluginSpec(selector),
        )
        results = orchestrator.run(problems, plan, Execution(engine=PluginSpec("fake", options)))
        return (
            sum(
                r.answer is not None and r.answer.text == problem_number(r.problem_id)
                for r in results
            )
            / 60
        )

    assert accuracy("scrutinized", 0.0) == pytest.approx(1 - 0.7**4, abs=0.276)
    assert accuracy("pessimistic", 0.0) == pytest.approx(1 - 0.7**4, abs=0.276)
    assert accuracy("majority", 0.0) < 0.35
    assert accuracy("scrutinized", 1.0) < 0.1
