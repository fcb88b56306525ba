"""Where a driver's problems come from: a list that is known, or arrivals one by one.

The one rule: a source is read in the order of priority, and by one driver. Not covered: how many
problems are open at once, which the driver decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from orchestrator.core.values import Problem


class Source(Protocol):
    """A source of problems; `on_change` is called when one came, or the last one did."""

    on_change: Callable[[], None]

    @property
    def is_over(self) -> bool:
        """Whether no problem is left and none will come."""

    def take(self) -> Problem | None:
        """Return the next problem; None if there is none now."""


class Listed:
    """Problems that are all known at the start, read one by one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.is_over = False
        self._problems = iter(problems)

    def take(self) -> Problem | None:
        """Return the next problem; after the last one, None."""
        problem = next(self._problems, None)
        self.is_over = problem is None
        return problem


class Arrivals:
    """Problems that come while the driver runs, which ends after `close` with the last of them."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._waiting: deque[Problem] = deque()
        self._is_closed = False

    def __len__(self) -> int:
        """Return how many problems wait to be opened."""
        return len(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether no problem is left and none will come."""
        return self._is_closed and not self._waiting

    def put(self, problem: Problem) -> None:
        """Add a problem, whose id no other one may have."""
        assert not self._is_closed
        self._waiting.append(problem)
        self.on_change()

    def withdraw(self, problem_id: str) -> bool:
        """Take a problem back; False if it does not wait any more."""
        problem = next((one for one in self._waiting if one.id == problem_id), None)
        if problem is None:
            return False
        self._waiting.remove(problem)
        self.on_change()
        return True

    def close(self) -> None:
        """Let the driver end once the problems that came are done."""
        self._is_closed = True
        self.on_change()

    def take(self) -> Problem | None:
        """Return the problem that has waited longest; None if none waits."""
        return self._waiting.popleft() if self._waiting else None
