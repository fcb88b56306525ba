"""Another try at a problem whose verifier failed: the verdicts alone are asked for again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import orchestrator
from orchestrator.core.errors import EngineError
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.protocols import Engine
from orchestrator.core.steps import Steps, ask, sample
from orchestrator.core.values import (
    Capability,
    Finish,
    PluginSpec,
    Problem,
    Request,
    Result,
    Status,
    Trace,
)
from orchestrator.engines.fake.engine import Fake
from orchestrator.engines.reply import trace_for
from orchestrator.jobs.job import open_job
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution, Supervision
from orchestrator.runtime.api import run_job

MODELS = {"main": Model("fake"), "judge": Model("fake"), "rm": Model("fake", task="classify")}
JUDGE, REWARD = PluginSpec("llm-judge", {"model": "judge"}), PluginSpec("reward", {"model": "rm"})
PLAN = Plan(
    models=MODELS,
    strategy=PluginSpec("consistency", {"n": 4}),
    selector=PluginSpec("best", {"by": "verdict:llm-judge"}),
    verifiers=(REWARD, JUDGE),
)
PROBLEMS = [Problem(f"v{i}", f"Question {i}?", "number") for i in range(5)]


@dataclass
class Judges:
    """The fake engine, and its factory, with models that are down; `dies_at` ends a run."""

    down: Collection[str] = ()
    dies_at: int = 0
    sent: list[str] = field(default_factory=list)

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Engine]:
        async with Fake(answers=("{hash}", "0"), weights=(3.0, 7.0)).open(models) as self._engine:
            yield self

    async def generate(self, request: Request) -> Trace:
        self.sent.append(request.model)
        if len(self.sent) == self.dies_at:
            raise EngineError("on purpose")
        if request.model in self.down:
            return trace_for(request, Finish.FAILED, error="the server is down")
        return await self._engine.generate(request)

    def abort(self, request: Request) -> None:
        self._engine.abort(request)


async def results(
    directory: Path, engine: Judges, plan: Plan = PLAN, *, retry_failed: bool = True
) -> list[Result]:
    allowing = Execution(PluginSpec("fake"), supervision=Supervision(max_failed=1.0))
    with open_job(directory, plan, PROBLEMS, retry_failed=retry_failed) as job:
        async for _ in run_job(job, plan, allowing, factory=engine):
            pass
        return job.results()


def pools(directory: Path) -> list[list[Trace]]:
    return [
        sorted(orchestrator.traces(directory, one.id), key=lambda trace: trace.ordinal)
        for one in PROBLEMS
    ]


async def test_only_the_verdicts_that_failed_are_asked_for_again(tmp_path: Path) -> None:
    """Attempts and other verdicts are paid for; the job comes out as a fresh one does."""
    failed = await results(tmp_path / "a", Judges(down={"judge"}))
    assert {one.status for one in failed} == {Status.FAILED}
    again = Judges()
    mended = await results(tmp_path / "a", again)
    assert again.sent == ["judge"] * 20
    fresh = await results(tmp_path / "b", Judges())
    assert [(one.answer, one.clusters, one.usage) for one in mended] == [
        (one.answer, one.clusters, one.usage) for one in fresh
    ]
    assert pools(tmp_path / "a") == pools(tmp_path / "b")
    assert not [one.note for pool in pools(tmp_path / "a") for one in pool if one.note]


async def test_a_verifier_that_fails_again_leaves_one_note(tmp_path: Path) -> None:
    """Neither notes nor verdicts heap up with every try."""
    for _ in range(2):
        failed = await results(tmp_path, Judges(down={"judge"}))
        assert {one.status for one in failed} == {Status.FAILED}
    for one in (one for pool in pools(tmp_path) for one in pool):
        assert one.note.count("verifier llm-judge: ") == 1
        assert [verdict.verifier for verdict in one.verdicts] == ["reward"]


async def test_nothing_is_asked_of_problems_that_are_not_to_be_tried_again(tmp_path: Path) -> None:
    await results(tmp_path, Judges(down={"judge"}))
    engine = Judges()
    failed = await results(tmp_path, engine, retry_failed=False)
    assert ({one.status for one in failed}, engine.sent) == ({Status.FAILED}, [])


@dataclass
class Endless(Judges):
    """Its judge answers nothing until it is aborted."""

    open_calls: dict[tuple[str, int], asyncio.Event] = field(default_factory=dict)

    async def generate(self, request: Request) -> Trace:
        if request.model != "judge":
            return await super().generate(request)
        await self.open_calls.setdefault(request.identity, asyncio.Event()).wait()
        return trace_for(request, Finish.CANCELLED)

    def abort(self, request: Request) -> None:
        self.open_calls.setdefault(request.identity, asyncio.Event()).set()


async def test_verdicts_that_never_come_take_no_longer_than_the_problem_may(tmp_path: Path) -> None:
    """The simulated history 2037582 had waited for one forever."""
    plan = replace(PLAN, budget=Budget(seconds=2.0))
    await results(tmp_path, Judges(down={"judge"}), plan)
    async with asyncio.timeout(60):
        failed = await results(tmp_path, Endless(), plan)
    assert {one.status for one in failed} == {Status.FAILED}


@pytest.mark.parametrize("dies_at", [1, 4, 11])
async def test_a_run_that_ends_among_verdicts_loses_nothing_else(
    dies_at: int, tmp_path: Path
) -> None:
    """The journal has the traces as they were until the problem has all of its verdicts."""
    await results(tmp_path / "a", Judges(down={"judge"}))
    before = pools(tmp_path / "a")
    with pytest.raises(EngineError):
        await results(tmp_path / "a", Judges(dies_at=dies_at))
    for old, new in zip(before, pools(tmp_path / "a"), strict=True):
        assert [one.text for one in new] == [one.text for one in old]
    again = Judges()
    mended = await results(tmp_path / "a", again)
    assert "main" not in again.sent
    assert {one.status for one in mended} == {Status.ANSWERED}
    await results(tmp_path / "b", Judges())
    assert pools(tmp_path / "a") == pools(tmp_path / "b")


@registry.strategy("test-continues-best")
@dataclass(frozen=True, slots=True)
class ContinuesBest:
    """Continues the better of two traces; without scores it continues the first, and fails."""

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        traces = yield from sample(2)
        scores = [
            next((v.score for v in t.verdicts if v.verifier == "llm-judge"), 0) for t in traces
        ]
        best = scores.index(max(scores))
        yield from ask(Request(parent=best, suffix=" wait", max_new_tokens=6))
        if not any(scores):
            raise RuntimeError("there are no scores")


async def test_what_the_new_verdicts_do_not_lead_to_is_gone(tmp_path: Path) -> None:
    """As with failed traces: the journal is that of a fresh job, also where the way is another."""
    plan = replace(PLAN, strategy=PluginSpec("test-continues-best"))
    await results(tmp_path / "a", Judges(down={"judge"}), plan)
    before = pools(tmp_path / "a")
    again = Judges()
    await results(tmp_path / "a", again, plan)
    await results(tmp_path / "b", Judges(), plan)
    assert pools(tmp_path / "a") == pools(tmp_path / "b")
    n_other_way = sum(new[2].parent != 0 for new in pools(tmp_path / "a"))
    assert 0 < n_other_way < len(PROBLEMS)
    assert again.sent.count("main") == n_other_way
    assert all(len(pool) == 3 and pool[2].parent == 0 for pool in before)
