"""The steps of sessions, which call plugin code: under the watchdog, and counted.

The one rule: code of a plugin that computes for too long fails its problem alone. What the effects
of a step lead to is up to the driver.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.session import Effect
from orchestrator.core.values import Trace
from orchestrator.runtime.driver.counting import Counting
from orchestrator.runtime.driver.problem import OpenProblem
from orchestrator.runtime.watchdog import Overrun, Watchdog


@dataclass(frozen=True, slots=True)
class Steps:
    """Starts the sessions of a run and passes them their traces."""

    watchdog: Watchdog
    counting: Counting

    def start(self, opened: OpenProblem) -> list[Effect]:
        """Start a session; return its effects."""
        try:
            return self.watchdog.bounded(opened.session.start)
        except Overrun:  # raised between the plugin's last instruction and here
            return _given_up(opened)

    def receive(self, opened: OpenProblem, trace: Trace) -> list[Effect]:
        """Pass a trace to its session; return the effects that follow."""
        self.counting.state(opened, trace, 1)
        try:
            return self.watchdog.bounded(opened.session.receive, trace)
        except Overrun:  # as above
            return _given_up(opened)


def _given_up(opened: OpenProblem) -> list[Effect]:
    opened.session.error = "Overrun: the strategy computed for too long"
    return opened.session.stop("")
