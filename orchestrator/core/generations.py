"""Which attempts go beyond which: revisions, aggregations, and what a larger model said where smaller ones disagreed. Pure.

An attempt (`purpose` SOLVE or AGGREGATE) whose request had `subjects` builds on those traces or takes their place. Its generation is one
more than the latest of theirs; an attempt without subjects is of generation 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.types import Trace
from orchestrator.core.votes import VOTING, voters


def generations(traces: Sequence[Trace]) -> dict[int, int]:
    """Return the generation of each attempt, by ordinal. Subjects always precede, so one pass by ordinal is enough."""
    found: dict[int, int] = {}
    for trace in sorted(traces, key=lambda t: t.ordinal):
        if trace.purpose in VOTING:
            found[trace.ordinal] = max((found.get(s, 0) + 1 for s in trace.subjects), default=0)
    return found


def latest(traces: Sequence[Trace]) -> list[Trace]:
    """Return the voters of the last generation that has any, by ordinal."""
    of = generations(traces)
    pool = voters(traces)
    last = max((of[t.ordinal] for t in pool), default=0)
    return [t for t in pool if of[t.ordinal] == last]
