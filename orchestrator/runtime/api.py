"""The Python API: builds everything from a Plan and a Fleet, runs it, and hands out results as they
are concluded.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.protocols import EngineFactory
from orchestrator.core.values import Message, PluginSpec, Problem, Result, Trace
from orchestrator.core.votes import pruned
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.journal import Arrived, Journal
from orchestrator.plan import auto, registry
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.driver import Driver, Explorer, Progress
from orchestrator.runtime.verify import VerifierRunner

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Solution:
    """What `solve` returns: the result and every trace behind it, by ordinal."""

    result: Result
    traces: tuple[Trace, ...]

    @property
    def answer(self) -> str | None:
        """The winning answer's text, or None."""
        return self.result.answer.text if self.result.answer else None


async def arun(
    problems: Iterable[Problem | str | Mapping[str, object]],
    plan: Plan | None = None,
    execution: Execution | None = None,
    *,
    out: str | Path | None = None,
) -> AsyncGenerator[Result]:
    """Yield the results of problems as they finish (in order of conclusion).

    `out` is the job directory: with it an interrupted run goes on where it was, and problems that
    have a result are yielded from it at once. Without it the journal lies in a temporary directory.
    PlanError before anything starts when the plan cannot be carried out.
    """
    plan, execution = plan or Plan(), execution or Execution()
    plan = auto.resolve(
        plan, execution, None if plan.selector == Plan().selector else plan.selector
    )
    questions = as_problems(problems, plan)
    check_plan(plan, execution)
    with contextlib.ExitStack() as stack:
        directory = (
            Path(out)
            if out is not None
            else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leadline-")))
        )
        job = stack.enter_context(open_job(directory, plan, questions))
        for result in job.results():
            yield result
        async with contextlib.aclosing(run_job(job, plan, execution)) as results:
            async for result in results:
                yield result


def run(
    problems: Iterable[Problem | str | Mapping[str, object]],
    plan: Plan | None = None,
    execution: Execution | None = None,
    *,
    out: str | Path | None = None,
) -> list[Result]:
    """Return the results of problems, in the order of the problems.

    Works in scripts and notebooks alike; see `arun`.
    """
    questions = list(problems)

    async def collect() -> list[Result]:
        return [result async for result in arun(questions, plan, execution, out=out)]

    by_id = {r.problem_id: r for r in blocking(collect)}
    return [by_id[p.id] for p in as_problems(questions, plan or Plan())]


def solve(
    question: str | Sequence[Message],
    plan: Plan | None = None,
    execution: Execution | None = None,
    *,
    model: str | None = None,
    strategy: str | PluginSpec | None = None,
    selector: str | PluginSpec | None = None,
    domain: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    budget: Budget | None = None,
    out: str | Path | None = None,
) -> Solution:
    """Return the answer to one question, with all its traces.

    Keywords change the plan; `n` is the strategy's option of that name.
    """
    plan = replace(plan or Plan(), domain=domain or (plan or Plan()).domain)
    if model is not None:
        plan = replace(plan, models={"main": Model(model)})
    spec = PluginSpec(strategy) if isinstance(strategy, str) else strategy or plan.strategy
    plan = replace(
        plan, strategy=spec if n is None else PluginSpec(spec.name, {**spec.options, "n": n})
    )
    if selector is not None:
        plan = replace(
            plan, selector=PluginSpec(selector) if isinstance(selector, str) else selector
        )
    # else the plan given names a vote of its own
    elif strategy is not None and plan.selector == Plan().selector:
        plan = replace(plan, selector=registry.own_selector(plan.strategy))
    sampling = plan.sampling
    if temperature is not None:
        sampling = replace(sampling, temperature=temperature)
    if max_new_tokens is not None:
        sampling = replace(sampling, max_new_tokens=max_new_tokens)
    plan = replace(
        plan,
        sampling=sampling,
        seed=plan.seed if seed is None else seed,
        budget=budget or plan.budget,
    )
    prompt = question if isinstance(question, str) else tuple(question)
    with contextlib.ExitStack() as stack:
        directory = (
            Path(out)
            if out is not None
            else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leadline-")))
        )
        [result] = run([Problem("question", prompt, plan.domain)], plan, execution, out=directory)
        return Solution(result, tuple(traces(directory, "question")))


def traces(directory: str | Path, problem_id: str) -> list[Trace]:
    """Return one problem's traces from a job directory, by ordinal: to look at, or to vote on again
    without those that were dropped.
    """
    journal = Journal(Path(directory) / "journal.db")
    try:
        found = [e.trace for e in journal.events(problem_id) if isinstance(e, Arrived)]
        result = journal.result(problem_id)
    finally:
        journal.close()
    pool = found if result is None else pruned(found, result.dropped)
    return sorted(pool, key=lambda t: t.ordinal)


async def run_job(
    job: Job,
    plan: Plan,
    execution: Execution,
    progress: Callable[[Progress], None] = lambda progress: None,
    backend: EngineFactory | None = None,
) -> AsyncGenerator[Result]:
    """Yield the results of a job's remaining problems. `progress` is given, once, the counts to
    watch while it runs.

    Nothing is started when nothing remains. `backend` stands in for the fleet's own, for who keeps
    an engine open over several jobs.
    """
    remaining = job.remaining()
    if not remaining:
        return
    explorer = load_explorer(plan)
    backend = backend or registry.load("engines", execution.engine)
    async with contextlib.AsyncExitStack() as stack:
        checkers = await stack.enter_async_context(
            contextlib.aclosing(
                AnswerWorkers(n_workers=execution.checkers, limit_seconds=execution.checker_seconds)
            )
        )
        engine = await stack.enter_async_context(backend.open(plan.models))
        dresser = Annotator(plan, checkers, VerifierRunner(plan, engine, execution.window))
        driver = Driver(plan, execution, explorer, engine, dresser, job.journal)
        driver.progress.n_problems = len(job.problems)
        driver.progress.n_resumed = driver.progress.n_done = len(job.problems) - len(remaining)
        progress(driver.progress)
        async with contextlib.aclosing(driver.run(remaining)) as results:
            async for result in results:
                job.export_if_old()
                yield result


def load_explorer(plan: Plan) -> Explorer:
    """Return a plan's strategy and selector, and the metrics they need; PluginError when one does
    not load.
    """
    strategy, selector = (
        registry.load("strategies", plan.strategy),
        registry.load("selectors", plan.selector),
    )
    return Explorer(
        strategy,
        selector,
        tuple(dict.fromkeys((*registry.metrics(strategy), *registry.metrics(selector)))),
    )


def as_problems(
    problems: Iterable[Problem | str | Mapping[str, object]], plan: Plan
) -> list[Problem]:
    """Return problems from plain questions (named "1", "2", ...), rows as in a problem file, or
    Problems. PlanError on a bad one.
    """
    from orchestrator.jobs.problems import problem_from_row

    found: list[Problem] = []
    for position, given in enumerate(problems, 1):
        if isinstance(given, Problem):
            found.append(given)
        elif isinstance(given, str):
            found.append(Problem(str(position), given, plan.domain))
        else:
            found.append(problem_from_row(given, plan.domain, plan.domains))
    seen: set[str] = set()
    for problem in found:
        if problem.id in seen:
            raise PlanError(f"two problems have the id {problem.id!r}; ids must differ")
        seen.add(problem.id)
    return found


def blocking(make: Callable[[], Coroutine[object, object, T]]) -> T:
    """Return what a coroutine returns, from a script or, in a thread of its own, from within a
    running loop as notebooks have it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    with ThreadPoolExecutor(1, thread_name_prefix="leadline") as pool:
        return pool.submit(lambda: asyncio.run(make())).result()
