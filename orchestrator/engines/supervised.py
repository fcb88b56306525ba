"""An engine that waits for one that refuses requests: retries with back-off, and pauses.

The one rule: a request fails only while the engine serves others. An `Unavailable` request is sent
again after a pause that doubles, with jitter, or that the engine requested; at once, if another
part of the engine can serve it, and then the refusal counts towards no pause. After several others
in a row nothing new is sent but probes (`circuit_breaker`); if nothing is served for the patience
of the plan, EngineError ends the run, and no trace has failed. Not covered: what counts as
unavailable, which each engine decides, and replicas that die (`ray`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchestrator.core.errors import EngineError, Unavailable
from orchestrator.core.protocols import Engine
from orchestrator.core.values import Finish, Request, Trace
from orchestrator.engines.circuit_breaker import CircuitBreaker
from orchestrator.engines.reply import trace_for
from orchestrator.plan.execution import Supervision

FIRST_BACKOFF_SECONDS = 0.5
LAST_BACKOFF_SECONDS = 30.0
LAST_PROBE_SECONDS = 10.0  # one request costs little, and the whole job waits for it
# Servers refuse at once. A probe that is open for this long is being served: without this, a window
# of reasoning models would fill again only after the first of them has finished, minutes later.
ACCEPTED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Clock:
    """How time passes, so that tests need not wait; `jitter` returns numbers in [0, 1)."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random  # not seeded: two jobs must not retry in step


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause that lasts, in times of the clock `Clock.now`."""

    began: float
    next_probe: float
    ends_run: float  # if no request has been served by then


@dataclass(slots=True)
class Outages:
    """What went wrong so far, for display and for budgets of time.

    Only the SupervisedEngine changes it.
    """

    now: Callable[[], float] = time.monotonic  # the clock of the pauses
    n_retries: int = 0
    n_pauses: int = 0
    seconds: float = 0.0  # of pauses that have ended
    lost_tokens: int = 0  # output tokens of requests that were sent again
    reason: str = ""  # of the last refusal
    pause: Pause | None = None  # if one lasts

    def total_seconds(self) -> float:
        """Return the length of all pauses so far, in seconds."""
        pause = self.pause
        return self.seconds + (max(0.0, self.now() - pause.began) if pause else 0.0)


@dataclass(slots=True)
class _Tries:
    """The tries of one request."""

    n: int = 0
    waited: float = 0.0  # seconds of its own back-off; pauses of all requests do not count


class SupervisedEngine:
    """Sends an engine's unavailable requests again. Safe to share between tasks of one loop."""

    def __init__(
        self, engine: Engine, supervision: Supervision, clock: Clock | None = None
    ) -> None:
        """Use an open engine."""
        self._engine = engine
        self._patience = supervision.patience_seconds
        self._clock = clock or Clock()
        self.outages = Outages(self._clock.now)
        self._breaker = CircuitBreaker(self._end_pause)
        self._waiting: dict[tuple[str, int], asyncio.Timeout] = {}
        self._wakers: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Stop waiting for the next probe."""
        for waker in self._wakers:
            waker.cancel()
        await asyncio.gather(*self._wakers, return_exceptions=True)

    async def generate(self, request: Request) -> Trace:
        """Return the trace; FAILED if the engine serves others but not this request.

        EngineError if it has served nothing for the patience of the plan.
        """
        tries, delay = None, 0.0
        while True:
            if self._breaker.is_closed and not delay:
                epoch: int | None = self._breaker.enter_at_once()
            else:
                epoch = await self._turn(request, delay)
            if epoch is None:
                return trace_for(request, Finish.CANCELLED)
            try:
                if self._breaker.is_closed:
                    trace = await self._engine.generate(request)
                else:
                    trace = await self._send(request, epoch)
            except Unavailable as error:
                tries = tries or _Tries()
                tries.n += 1
                self._count(error)
                delay = 0.0
                if not error.elsewhere:
                    reason = self._reason_to_end(request, epoch, error, tries)
                    if reason:
                        return trace_for(request, Finish.FAILED, error=reason)
                    delay = self._delay(epoch, error, tries)
                self.outages.n_retries += 1
            else:
                self._breaker.succeeded(epoch)
                return trace
            finally:
                self._breaker.leave(epoch)

    def abort(self, request: Request) -> None:
        """Stop a request, also one that waits: its `generate` returns a CANCELLED trace."""
        waiting = self._waiting.pop(request.identity, None)
        if waiting is None:
            self._engine.abort(request)
        else:
            waiting.reschedule(asyncio.get_running_loop().time())

    async def _turn(self, request: Request, delay: float) -> int | None:
        """Wait until the request may be sent; return its epoch, or None if it was aborted."""
        try:
            async with asyncio.timeout(None) as stop:  # no timeout: `abort` makes it expire
                self._waiting[request.identity] = stop
                if delay:
                    await self._clock.sleep(delay)
                epoch = await self._breaker.enter()
                if request.identity in self._waiting:
                    return epoch
                self._breaker.leave(epoch)  # it was aborted in this step of the loop
                return None
        except TimeoutError:
            if not stop.expired():
                raise
            return None
        finally:
            self._waiting.pop(request.identity, None)

    async def _send(self, request: Request, epoch: int) -> Trace:
        """Send a request while the breaker is open."""
        accepted = asyncio.create_task(self._accept(epoch))
        try:
            return await self._engine.generate(request)
        finally:
            accepted.cancel()

    async def _accept(self, epoch: int) -> None:
        await self._clock.sleep(ACCEPTED_SECONDS)
        self._breaker.widen(epoch)

    def _count(self, error: Unavailable) -> None:
        self.outages.reason = str(error)
        self.outages.lost_tokens += error.lost_tokens

    def _reason_to_end(
        self, request: Request, epoch: int, error: Unavailable, tries: _Tries
    ) -> str:
        """Count a refusal by all; return the reason to fail this request, "" to send it again.

        EngineError if it is time to end the run.
        """
        now, requested = self._clock.now(), error.retry_after_seconds or 0.0
        breaker, for_all = self._breaker, error.exhausted or requested > self._patience
        since = breaker.failed(epoch, request.identity, now, for_all)
        if not breaker.is_closed and now - since + (requested if for_all else 0) >= self._patience:
            if for_all or breaker.n_refused > 1:
                raise EngineError(self._end_of_patience(error, now - since))
            return f"{error}; sent {tries.n} times, while nothing else was sent"
        if tries.waited >= self._patience:
            return (
                f"{error}; sent {tries.n} times with {tries.waited:.0f} s of pauses "
                "(supervision.patience_seconds)"
            )
        return ""

    def _end_of_patience(self, error: Unavailable, seconds: float) -> str:
        requested = error.retry_after_seconds or 0.0
        if requested > self._patience:
            return (
                f"{error}; it asks to wait for {requested:.0f} s, longer than "
                f"supervision.patience_seconds = {self._patience:g}"
            )
        return (
            f"{error}; no request was served for {seconds:.0f} s "
            f"(supervision.patience_seconds = {self._patience:g})"
        )

    def _delay(self, epoch: int, error: Unavailable, tries: _Tries) -> float:
        """Return the seconds that a request waits on its own before it is sent again."""
        breaker = self._breaker
        if breaker.is_closed:
            delay = self._back_off(error, tries.n - 1, LAST_BACKOFF_SECONDS)
            tries.waited += delay
            return delay
        if breaker.must_shut(epoch):
            self._shut(self._back_off(error, breaker.n_probes, LAST_PROBE_SECONDS))
        return 0.0

    def _back_off(self, error: Unavailable, n: int, longest: float) -> float:
        """Return a pause with jitter after `n` earlier ones; never less than was requested."""
        jitter = self._clock.jitter()
        if error.retry_after_seconds:
            return error.retry_after_seconds * (1 + jitter / 4)
        most = min(longest, FIRST_BACKOFF_SECONDS * 2.0 ** min(n, 16))
        return min(most * (1 + jitter) / 2, max(self._patience, FIRST_BACKOFF_SECONDS))

    def _shut(self, seconds: float) -> None:
        """Send nothing for some seconds, then one probe."""
        now, outages, since = self._clock.now(), self.outages, self._breaker.failing_since
        assert since is not None
        ends_run = since + self._patience
        seconds = max(0.0, min(seconds, ends_run - now))
        began = outages.pause.began if outages.pause else now
        outages.n_pauses += outages.pause is None
        outages.pause = Pause(began, now + seconds, ends_run)
        epoch = self._breaker.shut()
        waker = asyncio.create_task(self._reopen(seconds, epoch))
        self._wakers.add(waker)
        waker.add_done_callback(self._wakers.discard)

    async def _reopen(self, seconds: float, epoch: int) -> None:
        await self._clock.sleep(seconds)
        self._breaker.probe(epoch)

    def _end_pause(self) -> None:
        self.outages.seconds = self.outages.total_seconds()
        self.outages.pause = None
