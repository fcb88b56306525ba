"""A vote in which longer attempts count less. Pure.

In recorded reasoning traces of one question, a right trace is shorter than a wrong one four times
in five; `slope` sets how strongly length counts. The strategy `sounding` decides when to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from msgspec import Meta

from orchestrator.core.lineage import lineage, output_tokens
from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import tally, voters

Slope: TypeAlias = Annotated[
    float,
    Meta(
        ge=0,
        description="Strength of the preference for short attempts: a vote's weight is (length of "
        "the shortest / its length) to this power; 0 gives all votes equal weight.",
    ),
]


@dataclass(frozen=True, slots=True)
class Discounted:
    """Plurality in which longer attempts count less; for reasoning models.

    An attempt's weight is (length of the shortest voter / its length) ** `slope`. Lengths are in
    tokens, over all continuations of the attempt.
    """

    slope: Slope = 0.5

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by summed weight."""
        by_ordinal = {t.ordinal: t for t in traces}
        pool = voters(traces)
        lengths = [output_tokens(lineage(t, by_ordinal)) for t in pool]
        ordinals = [t.ordinal for t in pool]
        weight_of = dict(zip(ordinals, length_weights(lengths, self.slope), strict=True))
        return tally(pool, lambda trace: weight_of[trace.ordinal])


def length_weights(lengths: Sequence[int], slope: float) -> list[float]:
    """Return one weight in (0, 1] for each length in tokens: (shortest / length) ** slope."""
    shortest = max(1, min(lengths, default=1))
    return [(shortest / max(1, length)) ** slope for length in lengths]
