"""The shell through its public seam: a job on the fake engine, from problems to results."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

import orchestrator
from orchestrator.core.errors import EngineError, JobBusyError, JournalError, PlanError
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.steps import Steps, next_trace, submit
from orchestrator.core.values import (
    Capability,
    Finish,
    Message,
    PluginSpec,
    Problem,
    Request,
    Result,
    Sampling,
    Status,
    Trace,
)
from orchestrator.engines.fake.engine import Fake, FakeEngine, problem_number
from orchestrator.jobs.job import open_job
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.runtime import api
from orchestrator.runtime.progress import Progress


def fake(**options: object) -> Execution:
    return Execution(engine=PluginSpec("fake", options), window=32)


def questions(n: int) -> list[Problem]:
    return [Problem(f"p{i}", f"Question {i}?", "number") for i in range(n)]


def spec(name: str, **options: object) -> PluginSpec:
    return PluginSpec(name, options)


@registry.strategy("raises")
@dataclass(frozen=True, slots=True)
class Raises:
    after: int = 1

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request()] * (self.after + 1))
        for _ in range(self.after):
            yield from next_trace()
        if problem.id.endswith("1"):
            raise RuntimeError("on purpose")


@registry.strategy("stuck")
@dataclass(frozen=True, slots=True)
class Stuck:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request()])
        while problem.id == "p0":
            pass
        yield from next_trace()


@registry.strategy("endless")
@dataclass(frozen=True, slots=True)
class Endless:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        while True:
            yield from submit([Request()])
            yield from next_trace()


@registry.strategy("continues")
@dataclass(frozen=True, slots=True)
class Continues:
    """Generates one trace in steps of `step` tokens."""

    step: int = 3

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        parent: int | None = None
        while True:
            [ordinal] = yield from submit([Request(parent=parent, max_new_tokens=self.step)])
            if (yield from next_trace([ordinal])).finish is not Finish.LENGTH:
                return
            parent = ordinal


@registry.strategy("guards")
@dataclass(frozen=True, slots=True)
class Guards:
    """Starts more requests than the window allows and stops at the first trace."""

    n: int = 100

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request()] * self.n)
        yield from next_trace()


def test_every_problem_gets_its_own_result() -> None:
    """Each trace must contain its own problem's number.

    Completions paired with the wrong prompt are the worst silent bug.
    """
    plan = Plan(strategy=spec("consistency", n=5))
    results = orchestrator.run(questions(200), plan, fake(answers=("{hash}",), spread_tokens=9))
    assert [r.problem_id for r in results] == [f"p{i}" for i in range(200)]
    assert all(
        r.answer is not None and r.answer.text == problem_number(r.problem_id) for r in results
    )
    assert all(r.clusters[0].count == 5 and r.status is Status.ANSWERED for r in results)


def test_the_same_plan_gives_the_same_results() -> None:
    """Seeds derive from (run, problem, ordinal), so a run on a deterministic engine repeats.

    Another seed gives other results.
    """
    plan = Plan(strategy=spec("consistency", n=7))
    first, second = (orchestrator.run(questions(30), plan, fake(), out=None) for _ in range(2))
    strip = [replace(r, seconds=0.0) for r in first]
    assert strip == [replace(r, seconds=0.0) for r in second]
    other = orchestrator.run(questions(30), replace(plan, seed=1), fake())
    assert [r.clusters for r in other] != [r.clusters for r in first]


def test_a_strategy_that_raises_fails_its_problem_only() -> None:
    results = orchestrator.run(questions(12), Plan(strategy=spec("raises")), fake())
    failed = [r for r in results if r.status is Status.FAILED]
    assert [r.problem_id for r in failed] == ["p1", "p11"]
    assert all(
        "RuntimeError: on purpose" in r.error and "test_driver.py" in r.error for r in failed
    )


def test_a_strategy_that_computes_for_ever_is_interrupted() -> None:
    execution = replace(fake(), strategy_seconds=0.5)
    stuck, fine = orchestrator.run(questions(2), Plan(strategy=spec("stuck")), execution)
    assert stuck.status is Status.FAILED
    assert "Overrun" in stuck.error
    assert fine.status is Status.ANSWERED


def test_a_strategy_that_never_ends_is_ended_by_each_budget() -> None:
    for budget, reason in (
        (Budget(traces=6), "traces"),
        (Budget(tokens=40), "tokens"),
        (Budget(seconds=1.0), "seconds"),
    ):
        [result] = orchestrator.run(
            questions(1),
            Plan(strategy=spec("endless"), budget=budget),
            fake(seconds_per_token=0.002),
        )
        assert (result.status, result.stopped_by) == (Status.ANSWERED, reason)
        assert result.n_traces == 6 or reason != "traces"
        # tokens: the budget is 40 and traces have 8, so the fifth reaches it and none follows
        assert sum(u.output_tokens for u in result.usage.values()) == 40 or reason != "tokens"


def test_cancelled_traces_arrive_and_are_charged() -> None:
    """A strategy stops at the first of a hundred traces.

    Running ones are cut; those that have not started cost nothing.
    """
    [result] = orchestrator.run(
        questions(1), Plan(strategy=spec("guards")), fake(seconds_per_token=0.001, spread_tokens=60)
    )
    assert result.n_traces == 100
    # 68 or more wait for the window of 32; a few running ones may end before the abort
    assert 60 <= result.n_cancelled <= 99
    assert result.usage["pruned"].output_tokens > 0
    assert result.usage["solve"].output_tokens >= 8


def test_continuing_at_checkpoints_equals_not_stopping(tmp_path: Path) -> None:
    """A continuation uses token ids: pieces of three tokens give the same text and answer."""
    execution = fake(n_tokens=20)
    orchestrator.run(
        questions(3), Plan(strategy=spec("consistency", n=1)), execution, out=tmp_path / "whole"
    )
    orchestrator.run(
        questions(3), Plan(strategy=spec("continues")), execution, out=tmp_path / "pieces"
    )
    for i in range(3):
        [whole], pieces = (
            orchestrator.traces(tmp_path / name, f"p{i}") for name in ("whole", "pieces")
        )
        assert len(pieces) == 7
        assert "".join(p.text for p in pieces) == whole.text
        assert pieces[-1].answer == whole.answer is not None


def test_failed_traces_are_data_and_a_problem_of_only_failures_is_a_row() -> None:
    some = orchestrator.run(
        questions(20), Plan(strategy=spec("consistency", n=8)), fake(failure_rate=0.3)
    )
    assert sum(r.n_failed for r in some) > 0
    assert all(r.status is Status.ANSWERED for r in some if r.n_failed < 8)
    [every] = orchestrator.run(questions(1), Plan(), fake(failure_rate=1.0))
    assert every.status is Status.FAILED
    assert "fails this trace on purpose" in every.error


def test_an_engine_that_dies_ends_the_job_with_its_reason_and_loses_nothing(tmp_path: Path) -> None:
    plan = Plan(strategy=spec("consistency", n=4))
    with pytest.raises(EngineError, match="dies on purpose after 50"):
        orchestrator.run(
            questions(30), plan, fake(crash_after=50, seconds_per_token=0.001), out=tmp_path
        )
    with open_job(tmp_path, plan, questions(30)) as job:
        n_kept = job.journal.n_traces()
    results = orchestrator.run(questions(30), plan, fake(), out=tmp_path)
    assert 0 < n_kept < 120
    assert sum(r.n_traces for r in results) == 120


def test_a_changed_plan_is_refused_naming_what_changed(tmp_path: Path) -> None:
    plan = Plan(strategy=spec("consistency", n=2))
    orchestrator.run(questions(2), plan, fake(), out=tmp_path)
    with pytest.raises(PlanError, match=r"sampling\.temperature: 0\.7 -> 0\.9"):
        orchestrator.run(
            questions(2), replace(plan, sampling=Sampling(temperature=0.9)), fake(), out=tmp_path
        )
    changed = [replace(questions(1)[0], prompt="Another question?")]
    with pytest.raises(PlanError, match="'p0'"):
        orchestrator.run(changed, plan, fake(), out=tmp_path)


def test_a_second_process_on_one_job_directory_is_refused(tmp_path: Path) -> None:
    with (
        open_job(tmp_path, Plan(), questions(1)),
        pytest.raises(JobBusyError, match="another process"),
    ):
        orchestrator.run(questions(1), Plan(), fake(), out=tmp_path)


def test_a_finished_job_starts_nothing_and_returns_the_same(tmp_path: Path) -> None:
    plan = Plan(strategy=spec("consistency", n=3))
    first = orchestrator.run(questions(5), plan, fake(), out=tmp_path)
    # its engine would die at once
    again = orchestrator.run(questions(5), plan, fake(crash_after=1), out=tmp_path)
    assert again == first
    more = orchestrator.run(questions(7), plan, fake(), out=tmp_path)
    assert more[:5] == first
    assert len(more) == 7


@registry.strategy("edited")
@dataclass(frozen=True, slots=True)
class Edited:
    """Its code changes between two runs."""

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        ordinals = yield from submit([Request()] * N_OF_EDITED)
        for _ in ordinals:
            yield from next_trace()


N_OF_EDITED = 4


def test_a_strategy_whose_code_changed_is_refused_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To continue would mix two experiments.

    The journal has trace 2, but the strategy of the same name now starts only two.
    """
    plan = Plan(strategy=spec("edited"))
    with pytest.raises(EngineError):
        orchestrator.run(questions(1), plan, replace(fake(crash_after=3), window=1), out=tmp_path)
    monkeypatch.setattr(f"{__name__}.N_OF_EDITED", 2)
    with pytest.raises(JournalError, match="has trace 2, which the strategy did not start"):
        orchestrator.run(questions(1), plan, fake(), out=tmp_path)


@pytest.mark.slow
def test_stopping_at_any_event_and_going_on_gives_the_pool_of_an_uninterrupted_run(
    tmp_path: Path,
) -> None:
    """No trace is repeated or lost at 25 interruption points.

    With a fixed n the results are identical.
    """
    plan = Plan(strategy=spec("consistency", n=4))
    whole = orchestrator.run(questions(20), plan, fake())
    for n_before in range(1, 76, 3):
        out = tmp_path / str(n_before)
        with pytest.raises(EngineError):
            orchestrator.run(questions(20), plan, fake(crash_after=n_before), out=out)
        resumed = orchestrator.run(questions(20), plan, fake(), out=out)
        assert [(r.answer, r.clusters, r.n_traces) for r in resumed] == [
            (r.answer, r.clusters, r.n_traces) for r in whole
        ]


async def test_results_come_as_they_finish_and_may_be_abandoned(tmp_path: Path) -> None:
    """Leaving the async iterator early stops the engine's work and leaves a resumable job."""
    plan = Plan(strategy=spec("consistency", n=2))
    seen: list[Result] = []
    slow = fake(seconds_per_token=0.002, spread_tokens=30)
    async with contextlib.aclosing(
        orchestrator.arun(questions(50), plan, slow, out=tmp_path)
    ) as results:
        async for result in results:
            seen.append(result)
            if len(seen) == 5:
                break
    full = [r async for r in orchestrator.arun(questions(50), plan, fake(), out=tmp_path)]
    assert len(full) == 50
    assert {r.problem_id for r in seen} <= {r.problem_id for r in full}


async def test_run_works_where_a_loop_is_already_running() -> None:
    """Notebooks have a running loop; the blocking call must work there too."""
    [result] = orchestrator.run(questions(1), Plan(), fake())
    assert result.status is Status.ANSWERED


def test_solve_answers_one_question() -> None:
    solution = orchestrator.solve(
        "What is it?", execution=fake(answers=("7",)), domain="number", n=3, seed=5, temperature=0.1
    )
    assert solution.answer == "7"
    assert [t.ordinal for t in solution.traces] == [0, 1, 2]
    chat = orchestrator.solve(
        [Message("user", "What is it?")], execution=fake(answers=("7",)), domain="number", n=1
    )
    assert chat.answer == "7"


def test_progress_counts_what_happened(tmp_path: Path) -> None:
    plan = Plan(strategy=spec("adaptive", n=16, wave=4))
    seen: list[Progress] = []

    async def work() -> list[Result]:
        with open_job(tmp_path, plan, questions(40)) as job:
            return [r async for r in api.run_job(job, plan, fake(answers=("1",)), seen.append)]

    results = asyncio.run(work())
    [progress] = seen
    assert (progress.n_done, progress.n_problems, progress.n_open, progress.n_running) == (
        40,
        40,
        0,
        0,
    )
    assert progress.n_arrived == sum(r.n_traces for r in results)
    assert +progress.attempts == {"voted": 160}
    # unanimous: four of sixteen traces are used, so three quarters of the plan's tokens are saved
    assert progress.saved_tokens == pytest.approx(40 * 12 * 8)


@orchestrator.engine("observed")
@dataclass(frozen=True, slots=True)
class Observed:
    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[ObservedEngine]:
        yield ObservedEngine(Fake(n_tokens=60))


class ObservedEngine(FakeEngine):
    progress: ClassVar[list[Progress]] = []
    shares: ClassVar[list[float]] = []

    async def generate(self, request: Request) -> Trace:
        self.shares.append(self.progress[0].open_share)
        return await super().generate(request)


def test_progress_counts_attempts_not_stretches(tmp_path: Path) -> None:
    """While an attempt is unfinished, progress is that of the attempts before it.

    There are four attempts of four stretches.
    """
    plan = Plan(
        strategy=spec(
            "sounding", n=4, width=1, spare=0, interval=16, patience=0, tokens=10**6, risk=1e-9
        )
    )

    async def work() -> list[Result]:
        with open_job(tmp_path, plan, questions(1)) as job:
            return [
                r
                async for r in api.run_job(
                    job,
                    plan,
                    Execution(engine=PluginSpec("observed")),
                    ObservedEngine.progress.append,
                )
            ]

    [result] = asyncio.run(work())
    assert (result.n_attempts, result.n_traces) == (4, 16)
    assert ObservedEngine.shares == [0.0] * 4 + [0.25] * 4 + [0.5] * 4 + [0.75] * 4
    assert ObservedEngine.progress[0].open_share == 0


@orchestrator.engine("counting")
@dataclass(frozen=True, slots=True)
class Counting:
    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[CountingEngine]:
        yield CountingEngine(Fake(seconds_per_token=0.0005))


class CountingEngine(FakeEngine):
    n_now = 0
    peak = 0

    async def generate(self, request: Request) -> Trace:
        self.n_now += 1
        CountingEngine.peak = max(CountingEngine.peak, self.n_now)
        try:
            return await super().generate(request)
        finally:
            self.n_now -= 1


def test_the_window_bounds_what_is_in_flight() -> None:
    """The window is also filled: if it never were, something else would limit it."""
    orchestrator.run(
        questions(50),
        Plan(strategy=spec("consistency", n=10)),
        Execution(engine=PluginSpec("counting"), window=17),
    )
    assert CountingEngine.peak == 17


def test_a_full_disk_stops_the_job_with_a_remedy_and_keeps_what_was_written(tmp_path: Path) -> None:
    """SQLite is configured so that the file may not grow: the error is that of a full disk."""
    plan = Plan(strategy=spec("consistency", n=4))

    async def work() -> None:
        with open_job(tmp_path, plan, questions(300)) as job:
            job.journal._db.execute("PRAGMA max_page_count = 60")
            async for _ in api.run_job(job, plan, fake(spread_tokens=50)):
                pass

    with pytest.raises(JournalError, match="free some space"):
        asyncio.run(work())
    with open_job(tmp_path, plan, questions(300)) as job:
        assert 0 < job.journal.n_traces() < 1200
    assert len(orchestrator.run(questions(300), plan, fake(), out=tmp_path)) == 300


@pytest.mark.slow
def test_a_seconds_budget_goes_on_where_it_was(tmp_path: Path) -> None:
    """A problem's clock continues after interruptions: time spent by an earlier run counts.

    Traces run one after another and take at least 8 x 0.01 s, so 25 of them fill the budget; one
    more was lost with the engine, and one more is cut by the budget. If the clock restarted there
    would be up to 33.
    """
    plan = Plan(strategy=spec("endless"), budget=Budget(seconds=2.0))
    with pytest.raises(EngineError):
        # 8 x 0.08 s
        orchestrator.run(
            questions(1), plan, fake(seconds_per_token=0.01, crash_after=8), out=tmp_path
        )
    [result] = orchestrator.run(questions(1), plan, fake(seconds_per_token=0.01), out=tmp_path)
    assert result.stopped_by == "seconds"
    assert 8 <= result.n_traces <= 27
    assert result.seconds >= 2.0


class Slow(FakeEngine):
    """An engine whose requests run until somebody has looked at their tokens."""

    def __init__(self) -> None:
        super().__init__(Fake())
        self.looked = asyncio.Event()
        self.n_started = 0

    async def generate(self, request: Request) -> Trace:
        self.n_started += 1
        await self.looked.wait()
        return await super().generate(request)

    def running_tokens(self) -> int:
        if self.n_started:
            self.looked.set()
        return 5 * self.n_started


def test_tokens_of_running_requests_are_counted_before_they_arrive(tmp_path: Path) -> None:
    """On a slow engine a job would stand at 0 tokens for minutes. Here nothing else arrives."""

    class Factory(Fake):
        @asynccontextmanager
        async def open(self, models: Mapping[str, Model]) -> AsyncIterator[FakeEngine]:
            yield Slow()

    plan = Plan(strategy=spec("consistency", n=2))

    async def work() -> list[Result]:
        with open_job(tmp_path, plan, questions(1)) as job:
            return [r async for r in api.run_job(job, plan, fake(), factory=Factory())]

    assert len(asyncio.run(work())) == 1
