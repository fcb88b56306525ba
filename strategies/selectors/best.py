"""Best of n: the attempt with the highest score, alone or with the votes of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import rank
from strategies.selectors.scores import ScoreOptions, scored_clusters


@dataclass(frozen=True, slots=True)
class Best(ScoreOptions):
    """Best of n, the attempt with the highest score; for reliable verifiers."""

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by their best attempt's score, which is their weight."""
        clusters = scored_clusters(traces, self.by)
        return rank(replace(cluster, weight=max(scores)) for cluster, scores in clusters)


@dataclass(frozen=True, slots=True)
class BestWeighted(ScoreOptions):
    """Weighted best of n, scores summed by answer; for verifiers that err.

    A cluster is shown in the words of its best attempt (Li et al., arXiv 2206.02336).
    """

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by summed score."""
        answers = {t.ordinal: t.answer for t in traces}
        clusters = []
        for cluster, scores in scored_clusters(traces, self.by):
            answer = answers[cluster.ordinals[scores.index(max(scores))]]
            assert answer is not None
            clusters.append(replace(cluster, answer=answer, weight=sum(scores)))
        return rank(clusters)
