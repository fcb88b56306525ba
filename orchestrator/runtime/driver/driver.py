"""The asyncio shell around Sessions: effects -> engine -> annotate -> journal -> session.

One loop journals arriving events in groups, delivers them to their sessions, and performs the
resulting effects. The one rule: an event reaches a session only when it is durable. The window
limits the requests in flight, and earlier problems have priority. Nothing here decides answers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import cast

from orchestrator.core.errors import BudgetSpent, JournalError
from orchestrator.core.protocols import Engine
from orchestrator.core.session import Effect, Start
from orchestrator.core.values import Finish, Problem, Request, Result, Trace
from orchestrator.engines.reply import trace_for
from orchestrator.jobs.growth import Growth
from orchestrator.jobs.journal import Arrived, Concluded, Event, Journal, Opened, Stopped, digest
from orchestrator.jobs.journal.writer import BatchWriter
from orchestrator.jobs.sessions import Explorer
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.driver.allocation.allocation import Allocation
from orchestrator.runtime.driver.allocation.allowance import N_COMPARED, job_allowance
from orchestrator.runtime.driver.counting import Counting
from orchestrator.runtime.driver.observer import Observer
from orchestrator.runtime.driver.problem import OpenProblem
from orchestrator.runtime.driver.resumption import Resumption
from orchestrator.runtime.driver.serving import served
from orchestrator.runtime.driver.source import Listed, Source
from orchestrator.runtime.driver.steps import Steps
from orchestrator.runtime.progress import Progress
from orchestrator.runtime.watchdog import Watchdog, calm_collector

_MEASURE_SECONDS = 0.5  # between two looks at the tokens of running requests
_PAUSE_CHECK_SECONDS = 0.05  # between two looks at a budget of time while requests are paused


class Driver:
    """Runs problems through an engine, with one `run` per Driver."""

    def __init__(
        self,
        execution: Execution,
        explorer: Explorer,
        engine: Engine,
        annotator: Annotator,
        journal: Journal | None,
        growth: Growth | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Prepare a run. Without a journal nothing is kept, so nothing can be resumed."""
        self.progress = Progress()
        self._observer = observer
        self._execution = execution
        self._explorer = explorer
        self._engine = engine
        self._annotator = annotator
        self._journal = journal
        self._open: dict[str, OpenProblem] = {}
        self._n_opened = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: set[tuple[str, int]] = set()
        self._events: list[Event] = []
        self._concluded: list[Result] = []
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._watchdog = Watchdog(execution.strategy_seconds)
        self._counting = Counting(self.progress, getattr(explorer.strategy, "n_planned", None))
        self._steps = Steps(self._watchdog, self._counting)
        self._resumption: Resumption | None = None
        if journal is not None and journal.has_begun():
            last = growth.last if growth else {}
            self._resumption = Resumption(
                journal, explorer, self._steps, annotator, self.progress, last
            )
        self._allocation = Allocation(
            job_allowance(execution, self.progress, engine),
            self._open,
            lambda problem: explorer.of(problem).strategy,
            self._watchdog.bounded,
            lambda opened: self.stop(opened.session.problem.id, ""),
        )
        self._waiting = self._allocation.waiting
        least = N_COMPARED if self._allocation.is_shared else 0
        self._most_open = execution.open_problems or max(execution.window, least)
        self._source: Source = Listed(())

    def stop(self, problem_id: str, reason: str) -> None:
        """End the exploration of an open problem; its running requests are aborted."""
        opened = self._open.get(problem_id)
        if opened is not None and opened.session.exploring:
            self._post(Stopped(problem_id, reason, opened.elapsed(self.progress.outages)))

    async def run(self, problems: Iterable[Problem] | Source) -> AsyncGenerator[Result]:
        """Yield the result of each problem once it is concluded and durable.

        `problems` must be in order of priority, and those with a result must have failed: they are
        tried again. EngineError, TooManyFailed or JournalError ends the run; no journalled event is
        lost, but what a new try replaces.
        """
        self._source = Listed(problems) if isinstance(problems, Iterable) else problems
        self._source.on_change = self._wake.set
        writer, progress = BatchWriter(self._write), self.progress
        measuring = asyncio.create_task(self._measure())
        try:
            with self._watchdog, calm_collector():
                more = self._fill()
                while more or self._open or self._events:
                    self._require_running()
                    progress.require_few_failed(self._execution.supervision)
                    await self._wake.wait()
                    self._wake.clear()
                    self._require_running()
                    batch, self._events = self._events, []
                    if self._journal is not None:
                        await writer.write(batch)
                    self._deliver(batch)
                    more = self._fill()
                    done, self._concluded = self._concluded, []
                    for result in done:
                        yield result
                self._require_running()
        finally:
            measuring.cancel()
            self._read_tokens()
            await self._stop_tasks()
            progress.n_running = 0
            self._events = [*writer.close(), *self._events]
            if not isinstance(sys.exception(), JournalError):
                self._write(self._events)  # arrived traces have cost tokens: keep them
                self._events = []

    def _require_running(self) -> None:
        """Raise what ended the run; a spent budget once all that it paid for is journalled."""
        is_draining = isinstance(self._failure, BudgetSpent) and (self._tasks or self._events)
        if self._failure is not None and not is_draining:
            raise self._failure

    def _write(self, batch: Sequence[Event]) -> None:
        if self._journal is not None:
            self._journal.append([event for event in batch if not self._arrives_again(event)])

    def _deliver(self, batch: Sequence[Event]) -> None:
        """Deliver durable events to their sessions, and perform the resulting effects."""
        for event in batch:
            if isinstance(event, Arrived):
                opened = self._open[event.problem_id]
                if not self._arrives_again(event):
                    self._counting.arrival(opened, event.trace)
                    if self._observer is not None:
                        self._observer.arrived(opened.session, event.trace)
                effects = self._steps.receive(opened, event.trace)
                self._allocation.receive(opened, event.trace)
                self._perform(opened, effects)
                self._allocation.value(opened)
            elif isinstance(event, Stopped):
                stopped = self._open.get(event.problem_id)
                # otherwise it has ended by itself in the meantime
                if stopped is not None and stopped.session.exploring:
                    self._perform(stopped, stopped.session.stop(event.reason))
            elif isinstance(event, Concluded):
                self._close(event.result)

    def _perform(self, opened: OpenProblem, effects: Sequence[Effect]) -> None:
        n_aborted = 0
        for effect in effects:
            if isinstance(effect, Start):
                self._counting.continuation(opened, effect.request)
                self._allocation.put(opened, effect.request)
                continue
            n_aborted += 1
            if effect.request.identity in self._running:
                self._engine.abort(effect.request)
            else:
                self._annotator.abort(effect.request)
        if n_aborted:
            for request in self._waiting.withdraw_cancelled(opened):
                self._post_trace(opened, trace_for(request, Finish.CANCELLED))
        if opened.session.done:
            self._conclude(opened)

    def _conclude(self, opened: OpenProblem) -> None:
        session = opened.session
        if opened.stop_timer is not None:
            opened.stop_timer.cancel()
        result = self._watchdog.bounded(
            lambda: self._explorer.result(session, opened.elapsed(self.progress.outages))
        )
        self._post(Concluded(result))

    def _close(self, result: Result) -> None:
        opened = self._open.pop(result.problem_id)
        self.progress.open_share -= opened.share
        self.progress.close(result, opened.attempts)
        if self._observer is not None:
            self._observer.concluded(result)
        self._concluded.append(result)

    def _fill(self) -> bool:
        """Start waiting requests and open problems until the window is full.

        Returns False when no problem is left to open, and none will come.
        """
        if self._failure is not None:  # nothing new is begun
            return False
        self._start_waiting()
        while (problem := self._next_problem()) is not None:
            self._open_problem(problem)
            if not self._allocation.is_shared:  # else they are compared when all are open
                self._start_waiting()
        is_over = self._source.is_over and not (self._resumption and self._resumption.n_held)
        self._start_waiting()
        stopped, key = self._allocation.to_stop(is_over, not (self._tasks or self._events))
        for opened in stopped:
            self.stop(opened.session.problem.id, key)
        self.progress.n_open, self.progress.n_running = len(self._open), len(self._running)
        return not is_over

    def _open_ahead(self) -> None:
        """Open a problem for a place that became free while the events before it are written.

        The journal cannot be read meanwhile. Problems that share a budget are compared later.
        """
        is_begun = self._resumption is not None and self._resumption.n_left
        if is_begun or self._allocation.is_shared or self._failure is not None:
            return
        while not self._waiting and (problem := self._next_problem()) is not None:
            self._open_problem(problem)

    def _next_problem(self) -> Problem | None:
        resumption = self._resumption
        if resumption is not None and (problem := resumption.released()) is not None:
            return problem
        while self._wants_problem():
            problem = self._source.take()
            if problem is None or resumption is None:
                return problem
            unverified = resumption.hold(problem)
            if not unverified:
                return problem
            for request, trace in unverified:
                self._tasks.add(asyncio.create_task(self._verify(problem, request, trace)))
        return None

    def _wants_problem(self) -> bool:
        n_held = self._resumption.n_held if self._resumption is not None else 0
        if len(self._open) + n_held >= self._most_open:
            return False
        if self._allocation.is_shared or self._execution.open_problems:
            return True
        return len(self._running) < self._execution.window and not self._waiting

    def _open_problem(self, problem: Problem) -> None:
        loop, outages = asyncio.get_running_loop(), self.progress.outages
        session = self._explorer.session(problem)
        self._n_opened += 1
        opened = self._open[problem.id] = OpenProblem(
            self._n_opened,
            session,
            Classes(),
            outages.now(),
            outages.total_seconds(),
            self._explorer.of(problem).plan.budget.seconds,
        )
        if self._resumption is not None and self._resumption.has_begun(problem.id):
            effects = self._resume(opened, self._resumption)
        else:
            self._post(Opened(problem.id, digest(problem), self._explorer.fingerprint))
            effects = self._steps.start(opened)
        if opened.seconds and session.exploring:
            left = max(0.0, opened.seconds - opened.elapsed(self.progress.outages))
            opened.stop_timer = loop.call_later(left, self._expire, opened)
        self._allocation.value(opened)
        self._perform(opened, effects)

    def _resume(self, opened: OpenProblem, resumption: Resumption) -> list[Effect]:
        """Rebuild a session that was begun; return the effects that it still requires."""
        resumed = resumption.take_up(opened)
        for event in resumed.arriving:
            self._post(event)
        for request in resumed.lost:
            self._counting.continuation(opened, request)
            note = "cancelled; its tokens were lost with the process that ran it"
            self._post_trace(opened, trace_for(request, Finish.CANCELLED, note=note))
        return [Start(request) for request in resumed.owed]

    def _arrives_again(self, event: Event) -> bool:
        return self._resumption is not None and self._resumption.arrives_again(event)

    def _start_waiting(self) -> None:
        while self._may_start():
            self._tasks.add(asyncio.create_task(self._serve(*self._next_request())))

    def _may_start(self) -> bool:
        # The number of traces that wait for verdicts is also limited to the window: their tokens
        # count in budgets, which more of them would overshoot.
        return (
            bool(self._waiting)
            and self._failure is None
            and len(self._running) < self._execution.window
            and self._annotator.n_verifying < self._execution.window
            and self._allocation.affords_next()
        )

    def _next_request(self) -> tuple[OpenProblem, Request]:
        opened, request = self._allocation.take()
        self._running.add(request.identity)
        return opened, request

    async def _serve(self, opened: OpenProblem, request: Request) -> None:
        """Serve a request, and then those that wait for its place in the window.

        An error that ends the run is stored, and the loop raises it.
        """
        try:
            while True:
                trace = await served(self._engine, self._annotator, opened, request, self._free)
                # else it was freed while the trace was annotated, whose tokens count first
                has_place = request.identity in self._running
                self._running.discard(request.identity)
                self._post_trace(opened, trace)
                if has_place and not self._waiting:
                    self._open_ahead()
                if not (has_place and self._may_start()):
                    return
                opened, request = self._next_request()
                await asyncio.sleep(0)  # an engine may reply at once
        except Exception as error:  # noqa: BLE001 - the loop raises it
            self._fail(error)
        finally:
            self._running.discard(request.identity)
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _verify(self, problem: Problem, request: Request, trace: Trace) -> None:
        """Verify a journalled trace again; its problem is opened once all of its traces are."""
        assert self._resumption is not None
        try:
            await self._resumption.verify_again(problem, request, trace)
            self._wake.set()
        except Exception as error:  # noqa: BLE001 - the loop raises it
            self._fail(error)
        finally:
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake.set()

    def _free(self, request: Request) -> None:
        """Let others start while a request's trace is annotated, which takes time."""
        self._running.discard(request.identity)
        self._start_waiting()

    def _post_trace(self, opened: OpenProblem, trace: Trace) -> None:
        self._post(Arrived(opened.session.problem.id, trace, opened.elapsed(self.progress.outages)))

    def _post(self, event: Event) -> None:
        self._events.append(event)
        self._wake.set()

    def _expire(self, opened: OpenProblem) -> None:
        if not opened.session.exploring:
            return
        left = opened.seconds - opened.elapsed(self.progress.outages)
        if left > 0:  # there was a pause, whose time does not count
            wait = max(left, _PAUSE_CHECK_SECONDS)
            opened.stop_timer = asyncio.get_running_loop().call_later(wait, self._expire, opened)
        else:
            self._post(
                Stopped(opened.session.problem.id, "seconds", opened.elapsed(self.progress.outages))
            )

    async def _measure(self) -> None:
        while True:
            self._read_tokens()
            if self._allocation.is_shared:
                self._wake.set()
            await asyncio.sleep(_MEASURE_SECONDS)

    def _read_tokens(self) -> None:
        self.progress.running_tokens = getattr(self._engine, "running_tokens", lambda: 0)()
        self.progress.usd = getattr(self._engine, "usd", lambda: None)()
        self.progress.notices = getattr(self._engine, "notices", tuple)()

    async def _stop_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
