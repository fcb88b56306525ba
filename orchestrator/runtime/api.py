"""The Python API: runs problems under a Plan and an Execution, and yields results as they finish.

The one rule: a plan that cannot run is rejected before any engine starts. `orchestrator` re-exports
the public names. The command line uses `run_job`.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.core.errors import JournalError, PlanError
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.protocols import EngineFactory
from orchestrator.core.values import Message, PluginSpec, Problem, Result, Trace
from orchestrator.engines.metered import MeteredEngine, Terms
from orchestrator.engines.supervised import Clock, SupervisedEngine
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.sessions import load_explorer
from orchestrator.plan import auto, registry
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.driver import Driver
from orchestrator.runtime.isolated_verifiers import IsolatedVerifiers, check_isolated
from orchestrator.runtime.progress import Progress
from orchestrator.runtime.verify import VerifierRunner

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Solution:
    """The return value of `solve`: the result and all its traces, by ordinal."""

    result: Result
    traces: tuple[Trace, ...]

    @property
    def answer(self) -> str | None:
        """The text of the winning answer, or None."""
        return self.result.answer.text if self.result.answer else None


async def arun(
    problems: Iterable[Problem | str | Mapping[str, object]],
    plan: Plan | None = None,
    execution: Execution | None = None,
    *,
    out: str | Path | None = None,
    retry_failed: bool = True,
) -> AsyncGenerator[Result]:
    """Yield the results of problems as they finish, in order of conclusion.

    `out` is the job directory. With it, an interrupted run continues where it stopped, and existing
    results are yielded at once, except those of problems that failed: with `retry_failed`, these
    are tried again. A finished job grows: with more problems, a larger n, another selector or
    another budget, its traces are used again. Without `out`, the journal is in a temporary
    directory. Raises PlanError, before anything starts, when the plan cannot run or the job cannot
    grow to it.
    """
    plan, execution = plan or Plan(), execution or Execution()
    selector = None if plan.selector == Plan().selector else plan.selector
    plan = auto.resolve(plan, execution, selector)
    checked = as_problems(problems, plan)
    check_plan(plan, execution)
    await check_isolated(plan.verifiers)
    with (
        _directory(out) as directory,
        open_job(directory, plan, checked, retry_failed=retry_failed) as job,
    ):
        open_ids = {problem.id for problem in job.remaining()}
        for result in job.results():
            if result.problem_id not in open_ids:
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
    retry_failed: bool = True,
) -> list[Result]:
    """Return the results of problems, in the order of the problems.

    Works in scripts and in notebooks; see `arun`.
    """
    problems = list(problems)

    async def collect() -> list[Result]:
        results = arun(problems, plan, execution, out=out, retry_failed=retry_failed)
        return [result async for result in results]

    by_id = {r.problem_id: r for r in blocking(collect)}
    return [by_id[p.id] for p in as_problems(problems, plan or Plan())]


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
    plan = plan or Plan()
    plan = replace(
        plan,
        domain=domain or plan.domain,
        models=plan.models if model is None else {"main": Model(model)},
        seed=plan.seed if seed is None else seed,
        budget=budget or plan.budget,
    )
    spec = PluginSpec(strategy) if isinstance(strategy, str) else strategy or plan.strategy
    plan = replace(
        plan, strategy=spec if n is None else PluginSpec(spec.name, {**spec.options, "n": n})
    )
    if selector is not None:
        selector = PluginSpec(selector) if isinstance(selector, str) else selector
        plan = replace(plan, selector=selector)
    elif strategy is not None and plan.selector == Plan().selector:  # the plan names no selector
        plan = replace(plan, selector=registry.own_selector(plan.strategy))
    wanted = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    changes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    plan = replace(plan, sampling=replace(plan.sampling, **changes))
    prompt = question if isinstance(question, str) else tuple(question)
    with _directory(out) as directory:
        [result] = run([Problem("question", prompt, plan.domain)], plan, execution, out=directory)
        return Solution(result, tuple(traces(directory, "question")))


def traces(directory: str | Path, problem_id: str) -> list[Trace]:
    """Return one problem's traces from a job directory, by ordinal, for inspection or another vote.

    Dropped traces are left out once the problem has its result.
    """
    with Journal.for_reading(Path(directory) / "journal.db") as journal:
        return sorted(journal.traces(problem_id), key=lambda t: t.ordinal)


async def run_job(
    job: Job,
    plan: Plan,
    execution: Execution,
    progress: Callable[[Progress], None] = lambda progress: None,
    factory: EngineFactory | None = None,
    clock: Clock | None = None,
) -> AsyncGenerator[Result]:
    """Yield the results of a job's remaining problems.

    `progress` is called once, with the counts to watch while the job runs. Nothing starts when no
    problem remains. `factory` replaces the execution's engine, for example with a SharedEngine;
    `clock` the clock by which refused requests wait.
    """
    remaining = job.remaining()
    if not remaining:
        return
    explorer = load_explorer(plan)
    factory = factory or registry.load("engines", execution.engine)
    async with contextlib.AsyncExitStack() as stack:
        workers = await stack.enter_async_context(
            contextlib.aclosing(
                AnswerWorkers(n_workers=execution.checkers, limit_seconds=execution.checker_seconds)
            )
        )
        isolated = await stack.enter_async_context(
            contextlib.aclosing(IsolatedVerifiers(plan.verifiers))
        )
        await isolated.load()
        began = time.monotonic()
        opened = await stack.enter_async_context(factory.open(plan.models))
        supervised = await stack.enter_async_context(
            contextlib.aclosing(SupervisedEngine(opened, execution.supervision, clock))
        )
        terms = Terms(execution.prices, execution.budget, job.spent, time.monotonic() - began)
        engine = MeteredEngine(supervised, terms, opened, supervised.outages)
        verifiers = VerifierRunner(plan, engine, isolated, execution.window)
        annotator = Annotator(plan, workers, verifiers)
        driver = Driver(plan, execution, explorer, engine, annotator, job.journal, job.growth)
        driver.progress.outages = supervised.outages
        n_done = len(job.problems) - len(job.unfinished())
        driver.progress.n_problems = n_done + len(remaining)
        failed = job.journal.failed()
        retried = {p.id for p in remaining if p.id in failed} if failed else set()
        driver.progress.n_failed = len(failed - retried)
        driver.progress.n_resumed = driver.progress.n_done = n_done
        progress(driver.progress)
        try:
            async with contextlib.aclosing(driver.run(remaining)) as results:
                async for result in results:
                    if job.export_if_old():
                        job.record_spent(engine.spent())
                    yield result
        finally:
            with contextlib.suppress(JournalError):  # a full disk already ended the run
                job.record_spent(engine.spent(driver.progress.running_tokens))


def as_problems(
    problems: Iterable[Problem | str | Mapping[str, object]], plan: Plan
) -> list[Problem]:
    """Return Problems from plain questions (named "1", "2", ...), rows of a file, or Problems.

    Raises PlanError when a problem is invalid or when two have the same id.
    """
    from orchestrator.jobs.problems import problem_from_row

    checked: list[Problem] = []
    ids: set[str] = set()
    for position, row in enumerate(problems, 1):
        if isinstance(row, Problem):
            problem = row
        elif isinstance(row, str):
            problem = Problem(str(position), row, plan.domain)
        else:
            problem = problem_from_row(row, plan.domain, plan.domains)
        if problem.id in ids:
            raise PlanError(f"two problems have the id {problem.id!r}; ids must differ")
        ids.add(problem.id)
        checked.append(problem)
    return checked


def blocking(work: Callable[[], Coroutine[object, object, T]]) -> T:
    """Return a coroutine's result; runs in a separate thread if a loop is already running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(1, thread_name_prefix="leadline") as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


@contextlib.contextmanager
def _directory(out: str | Path | None) -> Iterator[Path]:
    """Yield the job directory, or a temporary one if `out` is None."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="leadline-") as directory:
        yield Path(directory)
