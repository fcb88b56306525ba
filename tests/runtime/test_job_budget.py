"""A job whose problems share a budget of tokens: what is spent, and what a resume finds."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.core.plan import Plan
from orchestrator.core.steps import Steps, sample
from orchestrator.core.values import Answer, PluginSpec, Problem, Result, Status, Trace
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.journal import Arrived, Stopped
from orchestrator.jobs.sessions import load_explorer
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution, JobBudget
from orchestrator.runtime import api
from orchestrator.runtime.driver.allocation.worth import vote_worth

N, LENGTH = 12, 20
PLAN = Plan(strategy=PluginSpec("consistency", {"n": 16}))


def execution(tokens: int, **options: object) -> Execution:
    engine = PluginSpec("fake", {"n_tokens": LENGTH, "spread_tokens": 0, **options})
    return Execution(engine=engine, window=4, budget=JobBudget(job_tokens=tokens))


def questions() -> list[Problem]:
    return [Problem(f"p{i}", f"Question {i}?", "number") for i in range(N)]


async def run(job: Job, plan: Plan, how: Execution, most: int = N) -> list[Result]:
    results = []
    work = api.run_job(job, plan, how)
    async for result in work:
        results.append(result)
        if len(results) == most:
            break
    await work.aclose()
    return results


def test_problems_share_the_tokens_and_all_have_an_answer(tmp_path: Path) -> None:
    """A third of the full sampling is not exceeded by more than a window of attempts.

    Every question has its attempt and its result, and says what ended it.
    """
    budget = N * 16 * LENGTH // 3
    with open_job(tmp_path, PLAN, questions()) as job:
        results = asyncio.run(run(job, PLAN, execution(budget)))
        spent = job.spent.usage
    assert sorted(r.problem_id for r in results) == sorted(p.id for p in questions())
    assert all(r.status is Status.ANSWERED and r.stopped_by == "job_tokens" for r in results)
    n_tokens = sum(u.output_tokens for u in spent.values())
    assert budget - 2 * LENGTH <= n_tokens <= budget + 4 * LENGTH


def test_a_journal_replays_what_a_shared_budget_decided(tmp_path: Path) -> None:
    """Sessions see only their own events, so each is rebuilt exactly from the journal."""
    with open_job(tmp_path, PLAN, questions()) as job:
        results = {r.problem_id: r for r in asyncio.run(run(job, PLAN, execution(900)))}
        explorer = load_explorer(PLAN)
        for problem in questions():
            session = explorer.session(problem)
            session.start()
            for event in job.journal.events(problem.id):
                if isinstance(event, Arrived):
                    session.receive(event.trace)
                elif isinstance(event, Stopped):
                    session.stop(event.reason)
            again = explorer.result(session, results[problem.id].seconds)
            assert session.done
            assert (again.clusters, again.usage, again.stopped_by) == (
                results[problem.id].clusters,
                results[problem.id].usage,
                "job_tokens",
            )


@pytest.mark.parametrize("n_traces", [1, 9, 30, 45])
def test_a_job_killed_at_any_point_keeps_to_its_budget_when_it_resumes(
    n_traces: int, tmp_path: Path
) -> None:
    """What the first run spent counts: no trace twice, none lost, and the same end."""

    async def killed(job: Job) -> None:
        seen = 0

        def watch(progress: object) -> None:
            nonlocal current
            current = progress

        current: object = None
        work = api.run_job(job, PLAN, execution(900, seconds_per_token=0.0001), watch)
        task = asyncio.ensure_future(anext(work))
        while not task.done() and seen < n_traces:
            await asyncio.sleep(0)
            seen = getattr(current, "n_arrived", 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await work.aclose()

    with open_job(tmp_path, PLAN, questions()) as job:
        asyncio.run(killed(job))
        before = {p.id: list(job.journal.events(p.id)) for p in questions()}
    with open_job(tmp_path, PLAN, questions()) as job:
        asyncio.run(run(job, PLAN, execution(900)))
        after = {p.id: list(job.journal.events(p.id)) for p in questions()}
        assert not job.unfinished()
        n_tokens = sum(u.output_tokens for u in job.spent.usage.values())
    for name, events in before.items():
        assert after[name][: len(events)] == events
        ordinals = Counter(e.trace.ordinal for e in after[name] if isinstance(e, Arrived))
        assert set(ordinals.values()) <= {1}
    assert n_tokens <= 900 + 8 * LENGTH  # two windows


def test_time_that_is_spent_ends_every_problem_with_a_result(tmp_path: Path) -> None:
    """A nanosecond is over before anything starts: all are stopped, and say by what."""
    how = Execution(engine=PluginSpec("fake"), budget=JobBudget(job_seconds=1e-9))
    with open_job(tmp_path, PLAN, questions()) as job:
        results = asyncio.run(run(job, PLAN, how))
    n_tokens = [sum(u.output_tokens for u in r.usage.values()) for r in results]
    assert n_tokens == [0] * N
    assert {r.stopped_by for r in results} == {"job_seconds"}


def test_later_problems_keep_their_share(tmp_path: Path) -> None:
    """With two open at once, the last problem still gets its attempts, and all have an answer."""
    how = replace(execution(N * 4 * LENGTH), open_problems=2)
    with open_job(tmp_path, PLAN, questions()) as job:
        results = asyncio.run(run(job, PLAN, how))
        n_tokens = sum(u.output_tokens for u in job.spent.usage.values())
    assert len(results) == N
    assert all(r.status is Status.ANSWERED for r in results)
    assert n_tokens <= (N * 4 + 4) * LENGTH


@registry.strategy("prefers")
@dataclass(frozen=True, slots=True)
class Prefers:
    """Finds nothing worth more than the first problem, whose worth it fails to say at the end."""

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(8)

    def worth(self, traces: Sequence[Trace], n_started: int) -> float:
        if len(traces) == 3:
            raise RuntimeError("on purpose")
        return float(len(traces) + n_started)


def test_a_strategy_that_fails_to_say_its_worth_fails_its_problem_only(tmp_path: Path) -> None:
    """The job continues, and a strategy's own worth decides who is next: here one at a time."""
    plan = Plan(strategy=PluginSpec("prefers"))
    with open_job(tmp_path, plan, questions()[:2]) as job:
        results = asyncio.run(run(job, plan, replace(execution(10**6), window=1)))
    assert {r.status for r in results} == {Status.FAILED}
    assert all("on purpose" in r.error for r in results)


def test_an_undecided_question_is_worth_more_than_a_decided_one() -> None:
    """The first attempt comes before all others, and votes that differ attract attempts."""
    assert vote_worth([]) == float("inf")
    assert vote_worth([], 1) > vote_worth([], 2) > vote_worth([], 3)

    def pool(keys: str) -> list[Trace]:
        return [Trace(i, answer=Answer(key, key)) for i, key in enumerate(keys)]

    assert vote_worth(pool("aabb")) > vote_worth(pool("aaab")) > vote_worth(pool("aaaa"))
