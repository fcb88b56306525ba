"""The vote of the last generation: which attempts supersede which.

An attempt (`purpose` SOLVE or AGGREGATE) whose request had `subjects` builds on those traces or
takes their place: a revision, an aggregation, the answer of a larger model where smaller ones
disagreed. Its generation is one more than the latest of theirs; an attempt without subjects is of
generation 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import VOTING, tally, voters


@dataclass(frozen=True, slots=True)
class Final:
    """Votes among the last generation only; for revision and aggregation.

    The last generation holds the last revisions, the last population, or the attempts of the last
    model of a cascade.
    """

    parts: ClassVar[Mapping[str, str]] = {"vote": "selectors"}

    vote: Annotated[
        Any,
        Meta(
            description='Selector that ranks the last generation, such as "best by=verdict:prm"; '
            "empty for a plurality vote."
        ),
    ] = None

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return the clusters of the last generation that states an answer."""
        last = last_generation(traces)
        if self.vote is None:
            return tally(last)
        superseded = {t.ordinal for t in voters(traces)} - {t.ordinal for t in last}
        ranked: list[Cluster] = self.vote([t for t in traces if t.ordinal not in superseded])
        return ranked


def generations(traces: Sequence[Trace]) -> dict[int, int]:
    """Return the generation of each attempt, by ordinal."""
    # subjects always precede, so one pass by ordinal is enough
    by_ordinal: dict[int, int] = {}
    for trace in sorted(traces, key=lambda t: t.ordinal):
        if trace.purpose in VOTING:
            earlier = (by_ordinal.get(s, 0) + 1 for s in trace.subjects)
            by_ordinal[trace.ordinal] = max(earlier, default=0)
    return by_ordinal


def last_generation(traces: Sequence[Trace]) -> list[Trace]:
    """Return the voters of the last generation that has any, by ordinal."""
    generation = generations(traces)
    pool = voters(traces)
    last = max((generation[t.ordinal] for t in pool), default=0)
    return [t for t in pool if generation[t.ordinal] == last]
