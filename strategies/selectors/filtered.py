"""DeepConf offline (arXiv 2508.15260, section 3.2): only the most confident attempts vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import tally
from strategies.selectors.scores import SCORE, ScoreOptions, rankable, score


@dataclass(frozen=True, slots=True)
class Filtered(ScoreOptions):
    """Keeps the most confident share of attempts; they vote by confidence.

    The threshold is the (1 - `keep`) percentile with linear interpolation, and attempts at it are
    kept, as in the released code.
    """

    by: Annotated[str, Meta(description=SCORE)] = "bottom10_confidence"
    keep: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Share of attempts that vote (the paper's eta): 0.1 is its aggressive, 0.9 "
            "its conservative setting.",
        ),
    ] = 0.1

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return the clusters of the attempts that are kept, by summed score."""
        pool = rankable(traces, self.by)
        if not pool:
            return []
        scores = {t.ordinal: score(t, self.by) for t in pool}
        threshold = float(np.percentile(list(scores.values()), 100 * (1 - self.keep)))
        # of 101 scores 0 to 100 the 56th percentile is 56.00000000000001: keep the attempt at it
        threshold *= 1 - 1e-12
        kept = [t for t in pool if scores[t.ordinal] >= threshold]
        return tally(kept, lambda trace: scores[trace.ordinal])
