"""A vote in which an attempt counts less the longer it is. Pure.

Among recorded reasoning traces of one question a right one is shorter than a wrong one four times
in five; `slope` is how much that counts. When to stop is the strategy `sounding`'s to decide.
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
        description="How much shorter attempts weigh more: a vote counts (length of the shortest / "
        "its length) to this power; 0 counts all alike.",
    ),
]


@dataclass(frozen=True, slots=True)
class Discounted:
    """Plurality in which longer attempts count less; for reasoning models.

    An attempt counts (shortest voter / its length) ** `slope`; lengths are tokens, with
    continuations added up.
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
