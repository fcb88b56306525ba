"""What the open problems of a job may spend of its budget of tokens and seconds, and for which.

The one rule: problems that have not been opened yet keep their share, so that a long job does not
spend all its means on its first problems. These are decisions only; the driver starts and stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.core.errors import describe
from orchestrator.core.lineage import lineage, output_tokens
from orchestrator.core.protocols import Engine, Strategy
from orchestrator.core.values import Finish, Request, Trace
from orchestrator.core.votes import VOTING
from orchestrator.plan.execution import Execution, JobBudget, Spent
from orchestrator.runtime.driver.allocation.waiting import WaitingRequests
from orchestrator.runtime.driver.allocation.worth import vote_worth
from orchestrator.runtime.driver.problem import OpenProblem
from orchestrator.runtime.progress import Progress
from orchestrator.runtime.watchdog import Overrun

# problems that are open at once, if the execution does not say: their worth is compared
N_COMPARED = 256
Bounded: TypeAlias = Callable[[Callable[[], float]], float]  # runs code of a plugin


@dataclass(slots=True)
class Allowance:
    """The means of a job: its budget, and what it has spent.

    `tokens_before` were spent by earlier runs; `seconds` returns those of all runs. Until an
    attempt has ended, none can be priced, so no more than a `window` of them begin.
    """

    budget: JobBudget
    window: int
    progress: Progress
    tokens_before: int
    seconds: Callable[[], float]
    _n_open: int = 0  # attempts that have begun and not ended
    _open_tokens: int = 0  # of their stretches that have arrived
    _n_ended: int = 0
    _ended_tokens: int = 0

    def begin(self, request: Request, opened: OpenProblem) -> None:
        """Count an attempt that begins with this request."""
        self._n_open += 1
        opened.started.add(request.ordinal)

    def receive(self, trace: Trace, opened: OpenProblem) -> None:
        """Count a trace that its session has received, if it is of an attempt that began."""
        has_begun = trace.parent is not None or trace.ordinal in opened.started
        opened.started.discard(trace.ordinal)
        if trace.purpose not in VOTING or not has_begun:
            return
        n_tokens = trace.usage.output_tokens
        if trace.finish is Finish.RULE:  # it is to be continued
            self._open_tokens += n_tokens
            return
        n_before = (
            output_tokens(lineage(trace, opened.session.traces)) - n_tokens
            if trace.parent is not None
            else 0
        )
        self._n_open = max(0, self._n_open - 1)
        self._open_tokens = max(0, self._open_tokens - n_before)
        self._n_ended += 1
        self._ended_tokens += n_tokens + n_before

    def affords_attempt(self, n_open: int) -> bool:
        """Tell whether a new attempt fits, if all that have begun are of mean length."""
        if self.spent_key(n_open):
            return False
        if not self._n_ended:
            return self._n_open < self.window
        mean = self._ended_tokens / self._n_ended
        due = max(0.0, self._n_open * mean - self._open_tokens) + mean
        spent = self.tokens_before + self.progress.output_tokens
        limit = self.budget.job_tokens
        return not limit or spent + due <= limit * self._granted(n_open)

    def spent_key(self, n_open: int, is_stuck: bool = False) -> str:
        """Return the key of the budget that the problems opened so far have used up; "" if none.

        A job that is stuck, because no request is running and none is affordable, has used it up.
        """
        granted = self._granted(n_open)
        seconds, tokens = self.budget.job_seconds, self.budget.job_tokens
        if seconds and self.seconds() >= seconds * granted:
            return "job_seconds"
        spent = self.tokens_before + self.progress.n_tokens
        return "job_tokens" if tokens and (is_stuck or spent >= tokens * granted) else ""

    def _granted(self, n_open: int) -> float:
        n_problems = self.progress.n_problems
        return min(1.0, (self.progress.n_done + n_open) / n_problems) if n_problems else 1.0


def is_new_attempt(request: Request) -> bool:
    """Tell whether a request begins an attempt, and so is none that an earlier one led to."""
    return request.parent is None and request.purpose in VOTING


def job_allowance(execution: Execution, progress: Progress, engine: Engine) -> Allowance | None:
    """Return the means that a job's problems share; None without such a budget."""
    budget = execution.budget
    if not budget.is_shared_out:
        return None
    spent: Callable[[], Spent] = getattr(engine, "spent", Spent)
    n_tokens = sum(usage.output_tokens for usage in spent().usage.values())
    return Allowance(budget, execution.window, progress, n_tokens, lambda: spent().seconds)


def revalued(
    opened: OpenProblem, strategy: Strategy, waiting: WaitingRequests, bounded: Bounded
) -> bool:
    """Compute again what another attempt at a problem is worth, and order its requests by it.

    Its strategy says so, or else its votes do. False if the strategy's own code failed: the session
    then has the error. `bounded` runs plugin code.
    """
    worth = getattr(strategy, "worth", vote_worth)
    traces = list(opened.session.traces.values())
    try:
        value = bounded(lambda: float(worth(traces, len(opened.started))))
    except (Exception, Overrun) as error:  # noqa: BLE001 - a plugin may raise anything; its problem fails, the job continues
        opened.session.error = describe(error)
        return False
    waiting.value(opened, value)
    return True


def least_worthy(opened: Iterable[OpenProblem], is_last: bool) -> list[OpenProblem]:
    """Return the problems to stop when their means are spent.

    It is the one whose next attempt is worth least, of equals the latest: the next problem to be
    opened brings its share. None is stopped while another is about to close. If no problem comes,
    all are stopped.
    """
    problems = list(opened)
    exploring = [one for one in problems if one.session.exploring]
    if is_last:
        return exploring
    if len(exploring) < len(problems) or not exploring:
        return []
    return [min(exploring, key=lambda one: (one.worth, -one.order))]
