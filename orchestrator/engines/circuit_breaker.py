"""A circuit breaker: which requests may be sent while an engine refuses them. Knows no time.

Closed, it admits every request. After `MAX_IN_A_ROW` refusals without a completion in between it is
open: shut for a while, then it admits one probe, and twice as many with each sign that a probe is
served, until nobody waits. The one rule: waiting requests are admitted in order of arrival, and one
that was refused goes to the end, so no single request decides for all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable

MAX_IN_A_ROW = 5  # of independent refusals; the next request would most likely be refused too


class CircuitBreaker:
    """Admits requests; belongs to one event loop.

    An epoch is the time between two shuts. What comes of a request of an earlier epoch says nothing
    about the engine now.
    """

    def __init__(self, on_close: Callable[[], None]) -> None:
        """Start closed; `on_close` is called whenever it closes again."""
        self.failing_since: float | None = None  # the first refusal since the last completion
        self.n_probes = 0  # that were refused since the last completion
        self._on_close = on_close
        self._epoch = 0
        self._limit: int | None = None  # of requests in flight; None while closed
        self._is_shut = False
        self._n_in_flight = 0  # of this epoch
        self._n_in_a_row = 0
        self._refused: set[Hashable] = set()  # since the last completion
        self._queue: deque[asyncio.Future[int]] = deque()

    @property
    def is_closed(self) -> bool:
        """Whether every request is admitted."""
        return self._limit is None

    @property
    def n_refused(self) -> int:
        """The number of different requests that were refused since the last completion."""
        return len(self._refused)

    def enter_at_once(self) -> int:
        """Admit a request while closed; return the epoch."""
        self._n_in_flight += 1
        return self._epoch

    async def enter(self) -> int:
        """Wait to be admitted; return the epoch. Follow with one `leave`."""
        if self.is_closed:
            return self.enter_at_once()
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(turn.result())
            raise

    def leave(self, epoch: int) -> None:
        """Count a request as no longer in flight."""
        if epoch == self._epoch:
            self._n_in_flight -= 1
            if self._queue:
                self._admit()

    def succeeded(self, epoch: int) -> None:
        """Count a completion."""
        if self._limit is None and self.failing_since is None and not self.n_probes:
            return  # nearly always: nothing was refused
        self.failing_since, self._n_in_a_row = None, 0
        self._refused.clear()
        if epoch == self._epoch:
            self.n_probes = 0
            self.widen(epoch)

    def failed(self, epoch: int, request: Hashable, now: float, for_all: bool) -> float:
        """Count a refusal at the time `now`; return when the refusals began.

        `for_all` refusals open the breaker at once.
        """
        if self.failing_since is None:
            self.failing_since = now
        self._refused.add(request)
        if epoch == self._epoch:
            self._n_in_a_row += 1
            if self.is_closed and (for_all or self._n_in_a_row >= MAX_IN_A_ROW):
                self._limit = 1
        return self.failing_since

    def must_shut(self, epoch: int) -> bool:
        """Tell whether a refusal of this epoch is to be followed by `shut`."""
        return not self.is_closed and epoch == self._epoch

    def shut(self) -> int:
        """Admit nothing until `probe`; return the new epoch."""
        self.n_probes += 1
        self._epoch += 1
        self._limit, self._is_shut, self._n_in_flight = 1, True, 0
        return self._epoch

    def probe(self, epoch: int) -> None:
        """Admit one request, unless it has been shut again."""
        if epoch == self._epoch:
            self._is_shut = False
            self._admit()

    def widen(self, epoch: int) -> None:
        """Admit twice as many; close if nobody waits then."""
        if epoch != self._epoch or self._limit is None or self._is_shut:
            return
        self._limit *= 2
        self._admit()
        if not self._queue:
            self._limit = None
            self._on_close()

    def _admit(self) -> None:
        while (
            self._queue
            and not self._is_shut
            and (self._limit is None or self._n_in_flight < self._limit)
        ):
            turn = self._queue.popleft()
            if not turn.done():
                self._n_in_flight += 1
                turn.set_result(self._epoch)
