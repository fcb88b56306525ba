"""The requests that wait for room in the window, by problem.

The one rule: the next request is one of the most valuable problem, of equals the earliest one, and
within a problem requests keep the order of submission. In a job that shares out a budget, all that
belongs to an attempt that has begun comes before new attempts, since its tokens are spent already;
in other jobs all problems are of equal worth. Not covered: what a problem is
worth (`worth.py`).
"""

from __future__ import annotations

import heapq
from collections import deque

from orchestrator.core.values import Request
from orchestrator.runtime.driver.problem import OpenProblem


class WaitingRequests:
    """Requests in the order in which they are to start."""

    def __init__(self) -> None:
        """Begin with none."""
        self._heap: list[tuple[float, int, OpenProblem]] = []
        self._first = deque[tuple[OpenProblem, Request]]()
        self._n_waiting = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._n_waiting + len(self._first)

    @property
    def has_first(self) -> bool:
        """Whether a request waits that comes before all problems' others."""
        return bool(self._first)

    def put_first(self, opened: OpenProblem, request: Request) -> None:
        """Add a request that comes before all others but those added in the same way."""
        self._first.append((opened, request))

    def put(self, opened: OpenProblem, request: Request) -> None:
        """Add a request behind those of its problem."""
        opened.waiting.append(request)
        self._n_waiting += 1
        self._list(opened)

    def take(self) -> tuple[OpenProblem, Request]:
        """Remove the request that is next and return it with its problem; one must wait."""
        if self._first:
            return self._first.popleft()
        while True:
            worth, _, opened = self._heap[0]
            is_current = opened.listed == -worth  # else it is listed again with another worth
            if is_current and opened.waiting:
                self._n_waiting -= 1
                return opened, opened.waiting.popleft()
            heapq.heappop(self._heap)
            if is_current:
                opened.listed = None

    def withdraw_cancelled(self, opened: OpenProblem) -> list[Request]:
        """Remove the cancelled requests of a problem and return them."""
        is_cancelled = opened.session.is_cancelled
        first = [r for one, r in self._first if one is opened and is_cancelled(r.ordinal)]
        if first:
            gone = {r.ordinal for r in first}
            rest_first = [e for e in self._first if e[0] is not opened or e[1].ordinal not in gone]
            self._first = deque(rest_first)
        cancelled = [r for r in opened.waiting if is_cancelled(r.ordinal)]
        if cancelled:
            rest = [r for r in opened.waiting if not is_cancelled(r.ordinal)]
            opened.waiting.clear()
            opened.waiting.extend(rest)
            self._n_waiting -= len(cancelled)
        return first + cancelled

    def value(self, opened: OpenProblem, worth: float) -> None:
        """Change what the next request of a problem is worth."""
        opened.worth = worth
        self._list(opened)

    def _list(self, opened: OpenProblem) -> None:
        if opened.waiting and opened.listed != opened.worth:
            opened.listed = opened.worth
            heapq.heappush(self._heap, (-opened.worth, opened.order, opened))
