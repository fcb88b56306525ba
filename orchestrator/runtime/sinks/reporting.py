"""The events of a job's run, made from what the driver sees, for the sinks of its execution.

The one rule: what an event says is what the journal has; an event is made after the write, and not
again for a trace that a resumed run only reads. Not covered: how events reach sinks (`delivery`).
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from orchestrator.core.errors import BudgetSpent
from orchestrator.core.plan import Plan
from orchestrator.core.session import Session
from orchestrator.core.values import (
    ConfidenceFloor,
    Delimiter,
    Finish,
    Request,
    Result,
    Status,
    Trace,
    Usage,
    WordLimit,
)
from orchestrator.jobs.job import Job
from orchestrator.plan import auto, registry
from orchestrator.plan.execution import Execution
from orchestrator.runtime.sinks.delivery import Delivery
from orchestrator.runtime.sinks.events import (
    Accuracy,
    ProblemFinished,
    RunEnded,
    RunStarted,
    TraceFinished,
)

_JOB_ID = "job id"  # in the journal
_RULES = {WordLimit: "word limit", ConfidenceFloor: "confidence floor", Delimiter: "delimiter"}


class Reporting:
    """Turns what happens in a run into events. The driver calls `arrived` and `concluded`.

    `reason`, `accuracy` and `right` are for the last event; whoever knows them sets them before the
    block of `reporting` ends.
    """

    def __init__(self, plan: Plan, delivery: Delivery) -> None:
        self.reason = ""
        self.accuracy: Accuracy | None = None
        self.right: Mapping[str, bool] = {}
        self.delivery = delivery
        is_auto = plan.strategy.name == auto.NAME
        self.totals = Totals()  # of this run
        self._strategy = (auto.chosen_strategy(plan) if is_auto else plan.strategy).name

    def arrived(self, session: Session, trace: Trace) -> None:
        """Report a durable trace, before its session receives it."""
        if not self.delivery.wants(TraceFinished):
            return
        self.delivery.hand_over(
            TraceFinished(
                session.problem.id,
                trace.ordinal,
                trace.purpose,
                trace.finish,
                trace.model,
                trace.depth,
                trace.parent,
                trace.usage,
                trace.answer is not None,
                self._dropped_by(session, trace),
                time.time(),
            )
        )

    def concluded(self, result: Result) -> None:
        """Report the result of a problem."""
        self.totals.add(result)
        if self.delivery.wants(ProblemFinished):
            dropped = dict.fromkeys(result.dropped, self._strategy)
            event = ProblemFinished(result, agreement_of(result), dropped, time.time())
            self.delivery.hand_over(event)

    def _dropped_by(self, session: Session, trace: Trace) -> str:
        if trace.ordinal in session.dropped:
            return self._strategy
        if trace.finish is Finish.CANCELLED:
            return f"budget.{session.stopped_by}" if session.stopped_by else self._strategy
        if trace.finish is Finish.RULE:
            return _rule(session.running[trace.ordinal], trace)
        return ""


class Totals:
    """What results add up to: their number by status, and their usage by purpose."""

    def __init__(self, results: Iterable[Result] = ()) -> None:
        self.n_by_status: Counter[str] = Counter()
        self.usage: dict[str, Usage] = {}
        for result in results:
            self.add(result)

    def add(self, result: Result) -> None:
        """Count one more result; an invalid row is no problem."""
        if result.status is Status.INVALID:
            return
        self.n_by_status[result.status.value] += 1
        for account, cost in result.usage.items():
            self.usage[account] = self.usage.get(account, Usage()) + cost


def agreement_of(result: Result) -> float:
    """Return the share of a problem's attempts that voted for its answer."""
    n_attempts = sum(result.attempts.values())
    return result.clusters[0].count / n_attempts if result.clusters and n_attempts else 0.0


def _rule(request: Request, trace: Trace) -> str:
    """Return which rule ended a trace; a checkpoint, or a rule that it has, if both may have."""
    rules = [_RULES[type(rule)] for rule in request.rules]
    # an engine may end a checkpoint up to half earlier
    at_checkpoint = request.checkpoint and 2 * trace.usage.output_tokens >= request.checkpoint
    return " or ".join([*rules, *(["checkpoint"] if at_checkpoint or not rules else [])])


@contextlib.contextmanager
def reporting(
    job: Job, plan: Plan, execution: Execution, name: str, report: Callable[[str], None]
) -> Iterator[Reporting | None]:
    """Yield what reports the run of a job in this block to the execution's sinks.

    None where there are no sinks, or nothing remains to be done. At the end of the block the sinks
    are waited for, within a limit. The job must still be open.
    """
    if not execution.sinks or not job.remaining():
        yield None
        return
    began, is_first = time.monotonic(), not job.journal.n_results()
    sinks = [(spec.name, registry.load("sinks", spec)) for spec in execution.sinks]
    with Delivery(sinks, _started(job, plan, name), report) as delivery:
        one = Reporting(plan, delivery)
        reason = "interrupted"
        try:
            yield one
            reason = "done"
        except BudgetSpent:
            reason = "budget"
            raise
        except Exception:  # whatever it is, the sinks learn that the job failed, and it goes on
            reason = "failed"
            raise
        finally:
            one.reason = one.reason or reason
            delivery.hand_over(_ended(job, one, is_first, time.monotonic() - began))


def _started(job: Job, plan: Plan, name: str) -> RunStarted:
    job_id = job.journal.meta(_JOB_ID)
    if job_id is None:
        job_id = uuid.uuid4().hex
        job.journal.set_meta(_JOB_ID, job_id)
    n_done = len(job.problems) - len(job.unfinished())
    return RunStarted(
        job_id,
        name,
        str(job.directory.resolve()),
        plan,
        job.fingerprint,
        len(job.problems),
        n_done,
        time.time(),
    )


def _ended(job: Job, one: Reporting, is_first: bool, seconds: float) -> RunEnded:
    """Return the last event; a first run has its totals without reading its results again."""
    totals = one.totals if is_first else Totals(job.iter_results())
    return RunEnded(
        one.reason,
        len(job.problems),
        totals.n_by_status,
        totals.usage,
        seconds,
        time.time(),
        one.accuracy,
        one.right,
    )
