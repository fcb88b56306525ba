"""Who watches a driver at work: the sinks of a job, or the requests that a service answers.

The one rule: what an observer is called with is durable, and it changes nothing of it.
"""

from __future__ import annotations

from typing import Protocol

from orchestrator.core.session import Session
from orchestrator.core.values import Result, Trace


class Observer(Protocol):
    """Receives what happens in a run, in the order in which it happens."""

    def arrived(self, session: Session, trace: Trace) -> None:
        """Take a durable trace, before its session receives it."""

    def concluded(self, result: Result) -> None:
        """Take the result of a problem."""
