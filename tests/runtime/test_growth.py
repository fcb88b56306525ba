"""A job that grows ends as a fresh job of the larger plan, at no more than the missing requests.

On the fake engine, one request at a time: then a fresh job's traces arrive in one order only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.protocols import Engine
from orchestrator.core.values import (
    Capability,
    PluginSpec,
    Problem,
    Request,
    Result,
    Trace,
    Verdict,
)
from orchestrator.engines.fake.engine import Fake, problem_number
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Journal
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.runtime.api import run_job

PROBLEMS = [Problem(f"p{i}", f"Question {i}?", "number") for i in range(4)]


@registry.verifier("test-knows")
@dataclass(frozen=True, slots=True)
class Knows:
    """Scores traces with the fake engine's right answer with .9, others with .1."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        right = f" {problem_number(problem.id)}."
        return [Verdict("test-knows", 0.9 if t.text.endswith(right) else 0.1) for t in traces]


@dataclass
class Counted:
    """A fake engine, and its factory, that counts the requests it is sent."""

    sent: Counter[tuple[str, int]] = field(default_factory=Counter)
    engine: Engine | None = None

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Engine]:
        async with Fake(spread_tokens=4, judge_error=0.2).open(models) as self.engine:
            yield self

    async def generate(self, request: Request) -> Trace:
        self.sent[request.identity] += 1
        assert self.engine is not None
        return await self.engine.generate(request)

    def abort(self, request: Request) -> None:
        assert self.engine is not None
        self.engine.abort(request)


@dataclass(frozen=True)
class Ran:
    """What a run left: results, traces in order of arrival, rows of results.jsonl, requests."""

    results: list[Result]
    traces: dict[str, list[Trace]]
    rows: list[object]
    sent: Counter[tuple[str, int]]


async def run(
    directory: Path, plan: Plan, problems: Sequence[Problem] = PROBLEMS, *, window: int = 64
) -> Ran:
    engine = Counted()
    with open_job(directory, plan, problems) as job:
        async for _ in run_job(job, plan, Execution(window=window), factory=engine):
            pass
        results = [replace(result, seconds=0.0) for result in job.results()]
        traces = {p.id: list(job.journal.traces(p.id)) for p in problems}
    lines = (directory / "results.jsonl").read_text().splitlines()
    rows = [{**msgspec.json.decode(line), "seconds": 0.0} for line in lines]
    return Ran(results, traces, rows, engine.sent)


def plan_of(name: str, **options: object) -> Plan:
    case = CASES[name]
    options = {**case.options, **options}
    return Plan(
        models={"main": Model("fake"), "large": Model("fake")},
        strategy=PluginSpec(name, options),
        selector=PluginSpec(case.selector, case.vote),
        verifiers=(PluginSpec("test-knows"),) if "verifier" in options else (),
    )


@dataclass(frozen=True)
class Case:
    options: Mapping[str, object]
    more: Mapping[str, object]
    grows: bool = True
    selector: str = "majority"
    vote: Mapping[str, object] = field(default_factory=dict)


BY = {"by": "verdict:test-knows"}
STEPS = {"verifier": "test-knows", "n": 4, "width": 2, "steps": 3, "delimiter": " wait"}
CASES = {
    "ab-mcts": Case({"verifier": "test-knows", "n": 5, "parallel": 2}, {"n": 9}, True, "best", BY),
    "ab-mcts-m": Case(
        {"verifier": "test-knows", "n": 5, "parallel": 2, "models": ["main", "large"]},
        {"n": 9},
        True,
        "best",
        BY,
    ),
    "adaptive": Case({"n": 8}, {"n": 16}),
    "auto": Case({"chosen": "adaptive n=8"}, {"chosen": "adaptive n=16"}),
    "beam": Case(STEPS, {"n": 8}, True, "best", BY),
    "budget-forcing": Case({"n": 3, "end": " wait", "thinking": 6, "answer": 6}, {"n": 6}),
    "cascade": Case(
        {"models": ["main", "large"], "n": 2, "agreement": 1.0},
        {"models": ["main", "large", "main"]},
        True,
        "final",
    ),
    "compute-optimal": Case(
        {
            "first": 3,
            "verifier": "test-knows",
            "medium": "consistency n=2",
            "hard": "refine inner='consistency n=2' rounds=1",
        },
        {"hard": "refine inner='consistency n=2' rounds=2"},
        True,
        "best-weighted",
        BY,
    ),
    "concise-hint": Case({"n": 2, "interval": 3, "growth": 0.0, "end": " wait"}, {"n": 4}),
    "consistency": Case({"n": 8}, {"n": 16}),
    "deepconf": Case(
        {"n": 7, "n_init": 4, "window_tokens": 6, "wave": 2},
        {"n": 14},
        True,
        "weighted",
        {"by": "lowest_confidence@6"},
    ),
    "deepen": Case(
        {"depths": [1, 2], "n": 8, "wave": 3, "confidence": 0.99}, {"n": 16}, True, "depth-weighted"
    ),
    "deepprune": Case(
        {
            "n": 4,
            "n_words": 2,
            "words": ["so"],
            "prefix_tokens": 3,
            "tau": 0.3,
            "similarity": "lexical",
        },
        {"n": 8},
    ),
    "dvts": Case(STEPS, {"n": 8}, True, "best-weighted", BY),
    "dynasor": Case({"n": 3, "stable": 2, "interval": 3, "probe_tokens": 3}, {"n": 6}),
    "early-answer": Case(
        {"n": 2, "warm_up": 0, "delimiter": " so", "variance": 1.0, "end": "</think>"}, {"n": 4}
    ),
    "ensemble": Case({"models": ["main", "large"], "n": 4}, {"n": 8}),
    "mind-evolution": Case(
        {"verifier": "test-knows", "islands": 2, "conversations": 2, "turns": 2, "generations": 2},
        {"generations": 3},
        True,
        "best",
        BY,
    ),
    "mits": Case({"n": 2, "beam": 2, "steps": 3, "delimiter": " wait"}, {"n": 4}, True, "pmi"),
    "parallel-probe": Case(
        {"n": 3, "interval": 3, "stable": 2, "warm_up": 1, "patience": 1, "probe_tokens": 2},
        {"n": 6},
    ),
    "particles": Case(
        {"verifier": "test-knows", "n": 3, "steps": 3, "delimiter": " wait"},
        {"n": 6},
        True,
        "best",
        BY,
    ),
    "refine": Case({"inner": "consistency n=3", "rounds": 1}, {"rounds": 2}, True, "final"),
    "revise": Case({"chains": 2, "revisions": 2}, {"revisions": 3}, True, "final"),
    "rsa": Case({"n": 3, "k": 2, "steps": 3}, {"steps": 4}, True, "final"),
    "scrutinize": Case(
        {"n": 3, "verdicts": 2, "preliminary": 1, "comparisons": 2}, {"n": 6}, True, "scrutinized"
    ),
    "short-m@k": Case({"m": 3, "k": 6}, {"k": 12}),
    "sounding": Case(
        {"n": 4, "width": 2, "interval": 4, "patience": 1, "probe_tokens": 2, "risk": 0.01},
        {"n": 8},
        True,
        "discounted",
    ),
    "speculative-thinking": Case(
        {"large": "large", "n": 2, "tokens": 40, "delimiter": " wait"}, {"n": 4}
    ),
    "staged": Case(
        {
            "stages": ["consistency n=2", "scrutinize n=2 verdicts=1 preliminary=0"],
            "agreement": 1.0,
        },
        {
            "stages": [
                "consistency n=2",
                "scrutinize n=2 verdicts=1 preliminary=0",
                "consistency n=4",
            ]
        },
        True,
        "scrutinized",
    ),
}
