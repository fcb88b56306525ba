"""A problem that a driver explores, with the counts of its attempts. Changed only by the driver."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field

from orchestrator.core.session import Session
from orchestrator.core.values import Request
from orchestrator.engines.supervised import Outages
from orchestrator.runtime.annotate import Classes


@dataclass(slots=True, eq=False)
class OpenProblem:
    """A problem being explored."""

    order: int
    session: Session
    classes: Classes
    began: float  # by the clock of the pauses, minus the time that earlier runs spent
    paused_before: float  # seconds of pauses until then
    seconds: float  # its budget of time; 0: none
    stop_timer: asyncio.TimerHandle | None = None
    n_attempts: int = 0  # attempts that have arrived and are not being continued
    share: float = 0.0  # the share of its full sampling that has arrived
    attempts: Counter[str] = field(default_factory=Counter)  # as counted in the progress
    waiting: deque[Request] = field(default_factory=deque)  # for room in the window
    # new attempts of which no trace has been delivered, in a job that shares out a budget
    started: set[int] = field(default_factory=set)
    worth: float = 0.0  # of another attempt, in a job that shares out a budget
    listed: float | None = None  # the worth with which it is listed among those that wait

    def elapsed(self, outages: Outages) -> float:
        """Return the seconds since it began, over all runs, without pauses of an outage."""
        paused = outages.total_seconds() - self.paused_before
        return max(0.0, outages.now() - self.began - paused)
