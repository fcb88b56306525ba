"""The asyncio shell around Sessions: effects -> engine -> annotate -> journal -> session.

One loop journals arriving events in groups, delivers them to their sessions, and performs the
resulting effects. The one rule: an event reaches a session only when it is durable. The window
limits the requests in flight, and earlier problems have priority. Nothing here decides answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

from orchestrator.core.errors import BudgetSpent, JournalError, LeadlineError, describe
from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Engine
from orchestrator.core.session import Effect, Session, Start
from orchestrator.core.values import Finish, Problem, Request, Result, Status, Trace
from orchestrator.core.votes import VOTING
from orchestrator.engines.reply import trace_for
from orchestrator.jobs.growth import Growth, forget_failures
from orchestrator.jobs.journal import Arrived, Concluded, Event, Journal, Opened, Stopped, digest
from orchestrator.jobs.sessions import Explorer, request_of
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.progress import Progress
from orchestrator.runtime.verify import checked_reply
from orchestrator.runtime.watchdog import Overrun, Watchdog, calm_collector

_MEASURE_SECONDS = 0.5  # between two looks at the tokens of running requests
_PAUSE_CHECK_SECONDS = 0.05  # between two looks at a budget of time while requests are paused


@dataclass(slots=True, eq=False)
class _Open:
    """A problem being explored."""

    order: int
    session: Session
    classes: Classes
    began: float  # by the clock of the pauses, minus the time that earlier runs spent
    paused_before: float  # seconds of pauses until then
    stop_timer: asyncio.TimerHandle | None = None
    n_attempts: int = 0  # attempts that have arrived and are not being continued
    share: float = 0.0  # the share of its full sampling that has arrived
    attempts: Counter[str] = field(default_factory=Counter)  # as counted in the progress


class Driver:
    """Runs problems through an engine, with one `run` per Driver."""

    def __init__(
        self,
        plan: Plan,
        execution: Execution,
        explorer: Explorer,
        engine: Engine,
        annotator: Annotator,
        journal: Journal,
        growth: Growth | None = None,
    ) -> None:
        self.progress = Progress()
        self._last = growth.last if growth else {}
        self._again: set[tuple[str, int]] = set()  # journalled traces that arrive once more
        self._plan = plan
        self._execution = execution
        self._explorer = explorer
        self._engine = engine
        self._annotator = annotator
        self._journal = journal
        self._open: dict[str, _Open] = {}
        # a heap: earlier problems first, then order of submission
        self._waiting: list[tuple[int, int, _Open, Request]] = []
        self._n_submitted = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: set[tuple[str, int]] = set()
        self._events: list[Event] = []
        self._concluded: list[Result] = []
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._watchdog = Watchdog(execution.strategy_seconds)
        self._is_resumed = journal.has_begun()
        self._n_planned: int | None = getattr(explorer.strategy, "n_planned", None)

    async def run(self, problems: Iterable[Problem]) -> AsyncGenerator[Result]:
        """Yield the result of each problem once it is concluded and durable.

        `problems` must be in order of priority, and those with a result must have failed: they are
        tried again. EngineError, TooManyFailed or JournalError ends the run; no journalled event is
        lost, but what a new try replaces.
        """
        source = enumerate(problems)
        writer = ThreadPoolExecutor(1, thread_name_prefix="leadline-journal")
        loop, progress = asyncio.get_running_loop(), self.progress
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
                    if batch:
                        await loop.run_in_executor(writer, self._write, batch)
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
            writer.shutdown()
            if not isinstance(sys.exception(), JournalError):
                self._write(self._events)  # arrived traces have cost tokens: keep them
                self._events = []

    def _require_running(self) -> None:
        """Raise what ended the run; a spent budget once all that it paid for is journalled."""
        is_draining = isinstance(self._failure, BudgetSpent) and (self._tasks or self._events)
        if self._failure is not None and not is_draining:
            raise self._failure

    def _write(self, batch: Sequence[Event]) -> None:
        self._journal.append([e for e in batch if not self._arrives_again(e)])

    def _deliver(self, batch: Sequence[Event]) -> None:
        """Deliver durable events to their sessions, and perform the resulting effects."""
        for event in batch:
            if isinstance(event, Arrived):
                opened = self._open[event.problem_id]
                if not self._arrives_again(event):
                    self._count(opened, event.trace)
                self._perform(opened, self._receive(opened, event.trace))
            elif isinstance(event, Stopped):
                stopped = self._open.get(event.problem_id)
                # otherwise it has ended by itself in the meantime
                if stopped is not None and stopped.session.exploring:
                    self._perform(stopped, stopped.session.stop(event.reason))
            elif isinstance(event, Concluded):
                self._close(event.result)

    def _perform(self, opened: _Open, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Start):
                self._enqueue(opened, effect.request)
            elif effect.request.identity in self._running:
                self._engine.abort(effect.request)
            else:
                self._annotator.abort(effect.request)
        if opened.session.done:
            self._conclude(opened)

    def _receive(self, opened: _Open, trace: Trace) -> list[Effect]:
        self._note_state(opened, trace, 1)
        return self._guarded(opened, functools.partial(opened.session.receive, trace))

    def _guarded(self, opened: _Open, step: Callable[[], list[Effect]]) -> list[Effect]:
        """Run a step of a session, which calls plugin code, under the watchdog."""
        try:
            return self._watchdog.bounded(step)
        except Overrun:  # raised between the plugin's last instruction and here
            opened.session.error = "Overrun: the strategy computed for too long"
            return opened.session.stop("")

    def _conclude(self, opened: _Open) -> None:
        session = opened.session
        if opened.stop_timer is not None:
            opened.stop_timer.cancel()
        result = self._watchdog.bounded(
            lambda: self._explorer.result(session, self._elapsed(opened))
        )
        self._post(Concluded(result))

    def _close(self, result: Result) -> None:
        opened = self._open.pop(result.problem_id)
        self.progress.open_share -= opened.share
        self.progress.close(result, opened.attempts)
        self._concluded.append(result)

    def _fill(self, source: Iterator[tuple[int, Problem]]) -> bool:
        """Start waiting requests and open problems until the window is full.

        Returns False when no problem is left to open.
        """
        more = self._failure is None  # otherwise nothing new is begun
        limit = self._execution.open_problems or self._execution.window
        self._start_waiting()
        while more and len(self._open) < limit and (self._execution.open_problems or self._idle()):
            item = next(source, None)
            more = item is not None
            if item is not None:
                self._open_problem(*item)
                self._start_waiting()
        progress = self.progress
        progress.n_open, progress.n_running = len(self._open), len(self._running)
        return more

    def _idle(self) -> bool:
        return len(self._running) < self._execution.window and not self._waiting

    def _open_problem(self, order: int, problem: Problem) -> None:
        loop, outages = asyncio.get_running_loop(), self.progress.outages
        session = self._explorer.session(problem)
        opened = self._open[problem.id] = _Open(
            order, session, Classes(), outages.now(), outages.total_seconds()
        )
        if self._is_resumed and self._journal.digest_of(problem.id) is not None:
            effects = self._replay(opened)
        else:
            self._post(Opened(problem.id, digest(problem), self._explorer.fingerprint))
            effects = self._guarded(opened, session.start)
        if self._plan.budget.seconds and session.exploring:
            left = max(0.0, self._plan.budget.seconds - self._elapsed(opened))
            opened.stop_timer = loop.call_later(left, self._expire, opened)
        self._perform(opened, effects)

    def _replay(self, opened: _Open) -> list[Effect]:
        """Rebuild a session from its journalled events; return the effects it still requires."""
        session, problem_id = opened.session, opened.session.problem.id
        failed_before = self._journal.conclusion(problem_id)[1] is Status.FAILED
        if failed_before:
            self._forget_failures(session.problem)
        self._guarded(opened, session.start)
        events = list(self._journal.events(problem_id))
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
        self._note_attempts(
            opened, sum(t.purpose in VOTING and t.parent is None for t in session.traces.values())
        )
        for request in session.lost():
            if request.identity not in self._again:
                self._note_continuation(opened, request)
                note = "cancelled; its tokens were lost with the process that ran it"
                self._post_trace(opened, trace_for(request, Finish.CANCELLED, note=note))
        return [Start(request) for request in session.owed() if request.identity not in self._again]

    def _arrives_again(self, event: Event) -> bool:
        return isinstance(event, Arrived) and (event.problem_id, event.trace.ordinal) in self._again

    def _forget_failures(self, problem: Problem) -> None:
        old, new = (self._explorer.session(problem) for _ in range(2))
        with contextlib.suppress(Overrun):  # then it fails again, with the traces that it has
            forget_failures(self._journal, old, new, self._watchdog.bounded)

    def _enqueue(self, opened: _Open, request: Request) -> None:
        self._note_continuation(opened, request)
        heapq.heappush(self._waiting, (opened.order, self._n_submitted, opened, request))
        self._n_submitted += 1

    def _start_waiting(self) -> None:
        # The number of traces that wait for verdicts is also limited to the window: their tokens
        # count in budgets, which more of them would overshoot.
        while (
            self._waiting
            and self._failure is None
            and max(len(self._running), self._annotator.n_verifying) < self._execution.window
        ):
            _, _, opened, request = heapq.heappop(self._waiting)
            if opened.session.is_cancelled(request.ordinal):
                self._post_trace(opened, trace_for(request, Finish.CANCELLED))
                continue
            self._running.add(request.identity)
            self._tasks.add(asyncio.create_task(self._serve(opened, request)))

    async def _serve(self, opened: _Open, request: Request) -> None:
        """Generate, annotate and post one request's trace.

        An error that ends the run is stored, and the loop raises it.
        """
        try:
            trace = await self._generate(opened, request)
            self._running.discard(request.identity)
            self._start_waiting()  # the slot is free while this trace is annotated
            self._post_trace(opened, await self._annotate(opened, request, trace))
        except Exception as error:  # noqa: BLE001 - the loop raises it
            self._failure = self._failure or error
            self._wake.set()
        finally:
            self._running.discard(request.identity)
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _generate(self, opened: _Open, request: Request) -> Trace:
        # aborted before this task's first step, so the engine does not know the request
        if opened.session.is_cancelled(request.ordinal):
            return trace_for(request, Finish.CANCELLED)
        return await checked_reply(self._engine, request)

    async def _annotate(self, opened: _Open, request: Request, trace: Trace) -> Trace:
        session = opened.session
        is_cancelled = functools.partial(session.is_cancelled, request.ordinal)
        try:
            return await self._annotator.annotate(
                session.problem, request, trace, opened.classes, is_cancelled
            )
        except LeadlineError:
            raise
        except Exception as error:  # noqa: BLE001 - a domain plugin may raise anything; the trace abstains, with a note
            return replace(trace, answer=None, note=describe(error))

    def _count(self, opened: _Open, trace: Trace) -> None:
        progress = self.progress
        if trace.purpose in VOTING:
            self._note_attempts(opened, 1)
        n_tokens = trace.usage.output_tokens + trace.verification_usage.output_tokens
        progress.n_arrived += 1
        progress.output_tokens += n_tokens
        # it no longer runs; the engine is only read from time to time
        progress.running_tokens = max(0, progress.running_tokens - n_tokens)
        if trace.error:
            progress.last_error = trace.error

    def _note_continuation(self, opened: _Open, request: Request) -> None:
        if request.parent is not None and request.purpose in VOTING:
            self._note_attempts(opened, -1)
            self._note_state(opened, opened.session.traces[request.parent], -1)

    def _note_state(self, opened: _Open, trace: Trace, n: int) -> None:
        if state := self.progress.note_attempt(trace, n):
            opened.attempts[state] += n

    def _note_attempts(self, opened: _Open, n: int) -> None:
        opened.n_attempts += n
        if self._n_planned:
            share = min(1.0, max(0, opened.n_attempts) / self._n_planned)
            self.progress.open_share += share - opened.share
            opened.share = share

    def _post_trace(self, opened: _Open, trace: Trace) -> None:
        self._post(Arrived(opened.session.problem.id, trace, self._elapsed(opened)))

    def _post(self, event: Event) -> None:
        self._events.append(event)
        self._wake.set()

    def _expire(self, opened: _Open) -> None:
        if not opened.session.exploring:
            return
        left = self._plan.budget.seconds - self._elapsed(opened)
        if left > 0:  # there was a pause, whose time does not count
            wait = max(left, _PAUSE_CHECK_SECONDS)
            opened.stop_timer = asyncio.get_running_loop().call_later(wait, self._expire, opened)
        else:
            self._post(Stopped(opened.session.problem.id, "seconds", self._elapsed(opened)))

    def _elapsed(self, opened: _Open) -> float:
        outages = self.progress.outages
        paused = outages.total_seconds() - opened.paused_before
        return max(0.0, outages.now() - opened.began - paused)

    async def _measure(self) -> None:
        while True:
            self._read_tokens()
            await asyncio.sleep(_MEASURE_SECONDS)

    def _read_tokens(self) -> None:
        self.progress.running_tokens = getattr(self._engine, "running_tokens", lambda: 0)()
        self.progress.usd = getattr(self._engine, "usd", lambda: None)()

    async def _stop_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
