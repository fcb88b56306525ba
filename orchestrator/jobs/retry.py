"""Another try at a problem that failed: what of its journal can be used again.

The one rule: a completed trace is kept wherever its request is certainly submitted again, because
it has been paid for.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.session import Session
from orchestrator.core.values import Finish
from orchestrator.jobs.journal import Arrived, Journal, Stopped


def usable(journal: Journal, session: Session) -> Iterator[Arrived]:
    """Yield the traces to replay in `session`, which must receive each before the next is taken.

    When they are exhausted, the other traces, the stops and the result have left the journal. What
    the strategy did after the first failed trace, or a stop, may rest on it: of what came later,
    only completed traces of requests submitted before remain.
    """
    problem_id = session.problem.id
    n_submitted: int | None = None  # at the first failure
    useless: list[int] = []
    for event in list(journal.events(problem_id)):
        if isinstance(event, Stopped):
            n_submitted = session.n_submitted if n_submitted is None else n_submitted
            continue
        trace = event.trace
        if trace.finish is Finish.FAILED and n_submitted is None:
            n_submitted = session.n_submitted
        if n_submitted is not None and (trace.lost or trace.ordinal >= n_submitted):
            useless.append(trace.ordinal)
        else:
            yield event
    journal.retract(problem_id, useless)
