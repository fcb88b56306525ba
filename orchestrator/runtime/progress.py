"""The counts of a running job, for display and for the limit on failures.

The one rule: plain numbers, which another thread may read at any time. The driver changes them; the
view (`orchestrator.cli.view.live`) reads them. Tokens of running requests are as far as the engine
knows them (`running_tokens` of `core.protocols.Engine`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.errors import TooManyFailed
from orchestrator.core.values import Finish, Result, Status, Trace
from orchestrator.core.votes import VOTING, AttemptState, scattered, state_without_vote
from orchestrator.engines.supervised import Outages
from orchestrator.plan.execution import Supervision


@dataclass(slots=True)
class Progress:
    """Counts of a run, for display.

    Only the driver changes them. Tokens and traces from the journal are not counted again.
    """

    n_problems: int = 0
    n_done: int = 0
    n_resumed: int = 0  # problems that had a result when the run began
    n_failed: int = 0  # problems
    n_open: int = 0
    # the arrived shares of the full sampling of open problems, summed
    open_share: float = 0.0
    n_running: int = 0
    n_arrived: int = 0  # traces: those of attempts, probes and verdicts
    # attempts of the problems opened so far, by state (`core.votes`)
    attempts: Counter[str] = field(default_factory=Counter)
    n_tied: int = 0  # problems; those without agreement are not among them
    n_scattered: int = 0
    output_tokens: int = 0  # of traces that have arrived
    running_tokens: int = 0  # so far, of requests that run, as far as the engine knows
    usd: float | None = None  # what the job has spent, over all its runs; None without prices
    saved_tokens: float = 0.0  # against the plan's full sampling, over finished problems
    last_error: str = ""
    outages: Outages = field(default_factory=Outages)
    notices: tuple[str, ...] = ()  # what the engine lacks now, e.g. a place for a replica

    @property
    def n_tokens(self) -> int:
        """The output tokens of this run so far."""
        return self.output_tokens + self.running_tokens

    def note_attempt(self, trace: Trace, n: int) -> AttemptState | None:
        """Count an attempt by its last trace so far; with `n` = -1, count it no more.

        Returns its state; None for a trace that is no attempt, or was only interrupted.
        """
        if trace.purpose not in VOTING or (trace.finish is Finish.RULE and trace.answer is None):
            return None
        state = state_without_vote(trace)
        self.attempts[state] += n
        return state

    def close(self, result: Result, before: Mapping[str, int]) -> None:
        """Count a result; its attempts replace those that were counted before."""
        self.n_done += 1
        self.n_failed += result.status is Status.FAILED
        if result.error:
            self.last_error = f"{result.problem_id}: {result.error}"
        if result.full_tokens is not None:
            used = sum(u.output_tokens for u in result.usage.values())
            self.saved_tokens += result.full_tokens - used
        self.attempts.subtract(before)
        self.attempts.update(result.attempts)
        self.n_scattered += scattered(result.clusters)
        self.n_tied += result.tied and not scattered(result.clusters)

    def require_few_failed(self, supervision: Supervision) -> None:
        """Raise TooManyFailed if so many problems failed that the run ends early."""
        if supervision.ends_early(self.n_failed, self.n_problems):
            raise TooManyFailed(
                f"{self.n_failed:,} of {self.n_problems:,} problems failed, more than "
                f"supervision.max_failed = {supervision.max_failed:g} allows; the last error: "
                f"{self.last_error}"
            )
