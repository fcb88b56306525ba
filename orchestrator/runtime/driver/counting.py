"""How a driver's progress counts the attempts and tokens of its open problems.

The one rule: counts for display and for budgets; nothing here decides what happens to a problem.
"""

from __future__ import annotations

from orchestrator.core.values import Request, Trace
from orchestrator.core.votes import VOTING
from orchestrator.runtime.driver.problem import OpenProblem
from orchestrator.runtime.progress import Progress


class Counting:
    """Keeps the counts of a run; `n_planned` is the number of attempts of full sampling."""

    def __init__(self, progress: Progress, n_planned: int | None) -> None:
        """Count into `progress`."""
        self._progress = progress
        self._n_planned = n_planned

    def arrival(self, opened: OpenProblem, trace: Trace) -> None:
        """Count a trace that arrived for the first time."""
        progress = self._progress
        if trace.purpose in VOTING:
            self.attempts(opened, 1)
        n_tokens = trace.usage.output_tokens + trace.verification_usage.output_tokens
        progress.n_arrived += 1
        progress.output_tokens += n_tokens
        # it no longer runs; the engine is only read from time to time
        progress.running_tokens = max(0, progress.running_tokens - n_tokens)
        if trace.error:
            progress.last_error = trace.error

    def continuation(self, opened: OpenProblem, request: Request) -> None:
        """Count no more the attempt that a request continues, if it does."""
        if request.parent is not None and request.purpose in VOTING:
            self.attempts(opened, -1)
            self.state(opened, opened.session.traces[request.parent], -1)

    def state(self, opened: OpenProblem, trace: Trace, n: int) -> None:
        """Count an attempt by its last trace so far, `n` times."""
        if state := self._progress.note_attempt(trace, n):
            opened.attempts[state] += n

    def attempts(self, opened: OpenProblem, n: int) -> None:
        """Count `n` more attempts of a problem that arrived."""
        opened.n_attempts += n
        if self._n_planned:
            share = min(1.0, max(0, opened.n_attempts) / self._n_planned)
            self._progress.open_share += share - opened.share
            opened.share = share
