"""Which of the waiting requests of a job starts next, whether it is affordable, and what stops.

The one rule: a live job and its simulation (`studies.replay`) are decided by this code alone.
Without a budget that problems share, all are of equal worth, and every request is affordable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.core.protocols import Strategy
from orchestrator.core.values import Problem, Request, Trace
from orchestrator.runtime.driver.allocation.allowance import (
    Allowance,
    Bounded,
    is_new_attempt,
    least_worthy,
    revalued,
)
from orchestrator.runtime.driver.allocation.waiting import WaitingRequests
from orchestrator.runtime.driver.problem import OpenProblem


class Allocation:
    """The waiting requests of a job, and what its problems may spend."""

    def __init__(
        self,
        allowance: Allowance | None,
        opened: Mapping[Any, OpenProblem],
        strategy: Callable[[Problem], Strategy],
        bounded: Bounded = lambda call: call(),
        fail: Callable[[OpenProblem], None] = lambda opened: None,
    ) -> None:
        """Allocate to the problems `opened`, which the caller adds and removes.

        `bounded` runs code of a problem's strategy, and `fail` is called if that fails.
        """
        self.waiting = WaitingRequests()
        self.is_shared = allowance is not None
        self._allowance = allowance
        self._opened = opened
        self._strategy = strategy
        self._bounded = bounded
        self._fail = fail

    def put(self, opened: OpenProblem, request: Request) -> None:
        """Add a request; what belongs to an attempt that has begun comes before new attempts."""
        if self._allowance is None or is_new_attempt(request):
            self.waiting.put(opened, request)
        else:
            self.waiting.put_first(opened, request)

    def affords_next(self) -> bool:
        """Tell whether the next request is affordable; one must wait."""
        if self._allowance is None:
            return True
        if self.waiting.has_first:
            return not self._allowance.spent_key(len(self._opened))
        return self._allowance.affords_attempt(len(self._opened))

    def take(self) -> tuple[OpenProblem, Request]:
        """Remove the request that is next and return it with its problem; one must wait."""
        opened, request = self.waiting.take()
        if self._allowance is not None and is_new_attempt(request):
            self._allowance.begin(request, opened)
            self.value(opened)
        return opened, request

    def receive(self, opened: OpenProblem, trace: Trace) -> None:
        """Count what a trace has cost that its session has received."""
        if self._allowance is not None:
            self._allowance.receive(trace, opened)

    def value(self, opened: OpenProblem) -> None:
        """Compute again what another attempt at a problem is worth; plugin code may do it."""
        if self._allowance is None or not opened.session.exploring:
            return
        strategy = self._strategy(opened.session.problem)
        if not revalued(opened, strategy, self.waiting, self._bounded):
            self._fail(opened)

    def to_stop(self, is_last: bool, is_idle: bool) -> tuple[Sequence[OpenProblem], str]:
        """Return the problems to stop, and the key of the budget that is spent.

        `is_last`: no other problem comes. `is_idle`: no request runs.
        """
        if self._allowance is None:
            return (), ""
        key = self._allowance.spent_key(len(self._opened), is_idle and bool(self.waiting))
        return (least_worthy(self._opened.values(), is_last) if key else ()), key
