"""The vote in which an attempt counts as much as its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import tally
from strategies.selectors.scores import ScoreOptions, rankable, score


@dataclass(frozen=True, slots=True)
class Weighted(ScoreOptions):
    """Each attempt votes with its score, a confidence or a verdict."""

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by summed score."""
        return tally(rankable(traces, self.by), lambda trace: score(trace, self.by))
