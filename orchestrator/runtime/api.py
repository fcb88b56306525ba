"""What starts a job and waits for it: for the command line, the Python API and studies.

The one rule: nothing is displayed here, and nothing but the journal remembers. Opening the job's
directory is left to the caller, and so is the check that its plan can run.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from typing import TypeVar

from orchestrator.core.errors import JournalError, PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.protocols import EngineFactory
from orchestrator.core.values import Result
from orchestrator.engines.metered import MeteredEngine, Terms
from orchestrator.engines.supervised import Clock, SupervisedEngine
from orchestrator.jobs.growth import Growth
from orchestrator.jobs.job import Job
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.sessions import load_explorer
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution, Spent
from orchestrator.runtime.annotate import Annotator
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.driver import Driver, Observer
from orchestrator.runtime.isolated_verifiers import IsolatedVerifiers
from orchestrator.runtime.progress import Progress
from orchestrator.runtime.verify import VerifierRunner

T = TypeVar("T")


async def run_job(
    job: Job,
    plan: Plan,
    execution: Execution,
    progress: Callable[[Progress], None] = lambda progress: None,
    factory: EngineFactory | None = None,
    clock: Clock | None = None,
    observer: Observer | None = None,
) -> AsyncGenerator[Result]:
    """Yield the results of a job's remaining problems.

    `progress` is called once, with the counts to watch while the job runs. Nothing starts when no
    problem remains. `factory` replaces the execution's engine, for example with a SharedEngine;
    `clock` the clock by which refused requests wait. `observer` learns what happens.
    """
    unfinished = job.unfinished()
    remaining = job.chosen_of(unfinished)
    if not remaining:
        return
    factory = factory or registry.load("engines", execution.engine)
    work = started_driver(
        plan, execution, job.journal, factory, job.spent, job.growth, clock, observer
    )
    async with work as (driver, engine):
        n_done = len(job.problems) - len(unfinished)
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
        except BaseException:  # a cancelled or interrupted run has spent its tokens as well
            with contextlib.suppress(JournalError):  # the first error is the one to report
                job.record_spent(engine.spent(driver.progress.running_tokens))
            raise
        job.record_spent(engine.spent())


@contextlib.asynccontextmanager
async def started_driver(
    plan: Plan,
    execution: Execution,
    journal: Journal | None,
    factory: EngineFactory,
    before: Spent,
    growth: Growth | None = None,
    clock: Clock | None = None,
    observer: Observer | None = None,
) -> AsyncIterator[tuple[Driver, MeteredEngine]]:
    """Yield a driver with everything it needs, and the engine that counts what it spends.

    `before` is what earlier runs on the same budget have spent.
    """
    if plan.few_shot.n and not plan.few_shot.examples:
        raise PlanError("the plan's examples were not read: jobs.rows.examples.with_examples")
    explorer = load_explorer(plan)
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
        clock = clock or Clock()
        began = clock.now()
        opened = await stack.enter_async_context(factory.open(plan.models))
        supervised = await stack.enter_async_context(
            contextlib.aclosing(SupervisedEngine(opened, execution.supervision, clock))
        )
        terms = Terms(execution.prices, execution.budget, before, clock.now() - began)
        engine = MeteredEngine(supervised, terms, opened, supervised.outages, clock.now)
        verifiers = VerifierRunner(plan, engine, isolated, execution.window)
        annotator = Annotator(plan, workers, verifiers)
        driver = Driver(execution, explorer, engine, annotator, journal, growth, observer)
        driver.progress.outages = supervised.outages
        yield driver, engine


def blocking(work: Callable[[], Coroutine[object, object, T]]) -> T:
    """Return a coroutine's result; runs in a separate thread if a loop is already running.

    Ctrl-C, or the interruption of a notebook's cell, cancels the coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Future[T]]] = Future()
    outcome: Future[T] = Future()

    async def run() -> T:
        task = asyncio.ensure_future(work())
        started.set_result((asyncio.get_running_loop(), task))
        return await task

    def run_in_thread() -> None:
        try:
            outcome.set_result(asyncio.run(run()))
        except BaseException as error:  # noqa: BLE001  # the waiting thread raises it
            outcome.set_exception(error)

    thread = threading.Thread(target=run_in_thread, name="leadline")
    try:
        thread.start()
        return outcome.result()
    except KeyboardInterrupt:
        loop, task = started.result()
        with contextlib.suppress(RuntimeError):  # the loop came to its end
            loop.call_soon_threadsafe(task.cancel)
        outcome.exception()
        raise
