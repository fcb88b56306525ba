"""The asyncio shell around Sessions: effects -> engine -> annotate -> journal -> session.

One loop journals arriving events in groups, delivers them to their sessions, and performs the
resulting effects. The one rule: an event reaches a session only when it is durable. The window
limits the requests in flight, and earlier problems have priority. Nothing here decides answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import cast

from orchestrator.core.errors import BudgetSpent, JournalError
from orchestrator.core.protocols import Engine
from orchestrator.core.session import Effect, Start
from orchestrator.core.values import Finish, Problem, Request, Result, Status, Trace
from orchestrator.core.votes import VOTING
from orchestrator.engines.reply import trace_for
from orchestrator.jobs.growth import Growth, forget_failures
from orchestrator.jobs.journal import Arrived, Concluded, Event, Journal, Opened, Stopped, digest
from orchestrator.jobs.journal.writer import BatchWriter
from orchestrator.jobs.sessions import Explorer, request_of
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.driver.allowance import (
    N_COMPARED,
    is_new_attempt,
    job_allowance,
    least_worthy,
    revalued,
)
from orchestrator.runtime.driver.counting import Counting
from orchestrator.runtime.driver.observer import Observer
from orchestrator.runtime.driver.problem import OpenProblem
from orchestrator.runtime.driver.serving import served
from orchestrator.runtime.driver.source import Listed, Source
from orchestrator.runtime.driver.waiting import WaitingRequests
from orchestrator.runtime.progress import Progress
from orchestrator.runtime.watchdog import Overrun, Watchdog, calm_collector

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
        self._last = growth.last if growth else {}
        self._again: set[tuple[str, int]] = set()  # journalled traces that arrive once more
        self._execution = execution
        self._explorer = explorer
        self._engine = engine
        self._annotator = annotator
        self._journal = journal
        self._open: dict[str, OpenProblem] = {}
        self._waiting = WaitingRequests()
        self._n_opened = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: set[tuple[str, int]] = set()
        self._events: list[Event] = []
        self._concluded: list[Result] = []
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._watchdog = Watchdog(execution.strategy_seconds)
        self._resumed = journal if journal and journal.has_begun() else None
        n_planned: int | None = getattr(explorer.strategy, "n_planned", None)
        self._counting = Counting(self.progress, n_planned)
        self._allowance = job_allowance(execution, self.progress, engine)

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
        source: Source = Listed(problems) if isinstance(problems, Iterable) else problems
        source.on_change = self._wake.set
        writer, progress = BatchWriter(self._write), self.progress
        measuring = asyncio.create_task(self._measure())
        try:
            with self._watchdog, calm_collector():
                more = self._fill(source)
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
                    more = self._fill(source)
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
            new = [e for e in batch if not self._arrives_again(e)] if self._again else batch
            self._journal.append(new)

    def _deliver(self, batch: Sequence[Event]) -> None:
        """Deliver durable events to their sessions, and perform the resulting effects."""
        for event in batch:
            if isinstance(event, Arrived):
                opened = self._open[event.problem_id]
                if not self._arrives_again(event):
                    self._counting.arrival(opened, event.trace)
                    if self._observer is not None:
                        self._observer.arrived(opened.session, event.trace)
                effects = self._receive(opened, event.trace)
                if self._allowance is not None:
                    self._allowance.receive(event.trace, opened)
                self._perform(opened, effects)
                self._value(opened)
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
                self._enqueue(opened, effect.request)
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

    def _receive(self, opened: OpenProblem, trace: Trace) -> list[Effect]:
        self._counting.state(opened, trace, 1)
        return self._guarded(opened, functools.partial(opened.session.receive, trace))

    def _guarded(self, opened: OpenProblem, step: Callable[[], list[Effect]]) -> list[Effect]:
        """Run a step of a session, which calls plugin code, under the watchdog."""
        try:
            return self._watchdog.bounded(step)
        except Overrun:  # raised between the plugin's last instruction and here
            opened.session.error = "Overrun: the strategy computed for too long"
            return opened.session.stop("")

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

    def _fill(self, source: Source) -> bool:
        """Start waiting requests and open problems until the window is full.

        Returns False when no problem is left to open, and none will come.
        """
        if self._failure is not None:  # nothing new is begun
            return False
        least = N_COMPARED if self._allowance else 0
        limit = self._execution.open_problems or max(self._execution.window, least)
        self._start_waiting()
        while len(self._open) < limit and self._wants_problem():
            problem = source.take()
            if problem is None:
                break
            self._open_problem(problem)
            if not self._allowance:  # else they are compared when all are open
                self._start_waiting()
        self._keep_within_allowance(source)
        self.progress.n_open, self.progress.n_running = len(self._open), len(self._running)
        return not source.is_over

    def _wants_problem(self) -> bool:
        if self._allowance or self._execution.open_problems:
            return True
        return len(self._running) < self._execution.window and not self._waiting

    def _keep_within_allowance(self, source: Source) -> None:
        """Start what the job can afford; where it cannot go on, stop problems."""
        if self._allowance is None:
            return
        self._start_waiting()
        is_stuck = bool(self._waiting) and not (self._tasks or self._events)
        key = self._allowance.spent_key(len(self._open), is_stuck)
        for opened in least_worthy(self._open.values(), source.is_over) if key else ():
            self.stop(opened.session.problem.id, key)

    def _value(self, opened: OpenProblem) -> None:
        """Compute again what another attempt at a problem is worth; plugin code may do it."""
        if self._allowance is None or not opened.session.exploring:
            return
        strategy = self._explorer.of(opened.session.problem).strategy
        if not revalued(opened, strategy, self._waiting, self._watchdog.bounded):
            self.stop(opened.session.problem.id, "")

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
        if self._resumed is not None and self._resumed.digest_of(problem.id) is not None:
            effects = self._replay(opened, self._resumed)
        else:
            self._post(Opened(problem.id, digest(problem), self._explorer.fingerprint))
            effects = self._guarded(opened, session.start)
        if opened.seconds and session.exploring:
            left = max(0.0, opened.seconds - opened.elapsed(self.progress.outages))
            opened.stop_timer = loop.call_later(left, self._expire, opened)
        self._value(opened)
        self._perform(opened, effects)

    def _replay(self, opened: OpenProblem, journal: Journal) -> list[Effect]:
        """Rebuild a session from its journalled events; return the effects it still requires."""
        session, problem_id = opened.session, opened.session.problem.id
        status = journal.conclusion(problem_id)[1]
        failed_before = status is Status.FAILED or (
            status is None and _all_failed(journal, problem_id)
        )
        if failed_before:
            old, new = (self._explorer.session(session.problem) for _ in range(2))
            with contextlib.suppress(Overrun):  # then it fails again, with the traces that it has
                forget_failures(journal, old, new, self._watchdog.bounded)
        self._guarded(opened, session.start)
        events = list(journal.events(problem_id))
        n_last = 0 if failed_before else self._last.get(problem_id, 0)
        for number, event in enumerate(events, n_last - len(events)):
            if not failed_before:
                opened.began = min(opened.began, self.progress.outages.now() - event.elapsed)
            if isinstance(event, Stopped):
                if number <= 0:  # a later one ended nothing
                    session.stop(event.reason)
                continue
            if event.trace.answer is not None:
                opened.classes.restore(event.trace.answer)
            if number < 0:
                request_of(session, event.trace)
                self._receive(opened, event.trace)
            else:
                self._again.add((problem_id, event.trace.ordinal))
                self._post(event)
        self._counting.attempts(
            opened, sum(t.purpose in VOTING and t.parent is None for t in session.traces.values())
        )
        for request in session.lost():
            if request.identity not in self._again:
                self._counting.continuation(opened, request)
                note = "cancelled; its tokens were lost with the process that ran it"
                self._post_trace(opened, trace_for(request, Finish.CANCELLED, note=note))
        return [Start(request) for request in session.owed() if request.identity not in self._again]

    def _arrives_again(self, event: Event) -> bool:
        return (
            bool(self._again)
            and isinstance(event, Arrived)
            and (event.problem_id, event.trace.ordinal) in self._again
        )

    def _enqueue(self, opened: OpenProblem, request: Request) -> None:
        self._counting.continuation(opened, request)
        if self._allowance is None or is_new_attempt(request):
            self._waiting.put(opened, request)
        else:
            self._waiting.put_first(opened, request)

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
            and self._affords_next()
        )

    def _next_request(self) -> tuple[OpenProblem, Request]:
        opened, request = self._waiting.take()
        self._begin(opened, request)
        self._running.add(request.identity)
        return opened, request

    def _affords_next(self) -> bool:
        if self._allowance is None:
            return True
        if self._waiting.has_first:
            return not self._allowance.spent_key(len(self._open))
        return self._allowance.affords_attempt(len(self._open))

    def _begin(self, opened: OpenProblem, request: Request) -> None:
        if self._allowance is not None and is_new_attempt(request):
            self._allowance.begin(request, opened)
            self._value(opened)

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
                if not (has_place and self._may_start()):
                    return
                opened, request = self._next_request()
                await asyncio.sleep(0)  # an engine may reply at once
        except Exception as error:  # noqa: BLE001 - the loop raises it
            self._failure = self._failure or error
            self._wake.set()
        finally:
            self._running.discard(request.identity)
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

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
            if self._allowance is not None:
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


def _all_failed(journal: Journal, problem_id: str) -> bool:
    """Tell whether all that arrived of a problem failed: its run ended before it was concluded."""
    traces = [e.trace for e in journal.events(problem_id) if isinstance(e, Arrived)]
    return bool(traces) and all(trace.finish is Finish.FAILED for trace in traces)
