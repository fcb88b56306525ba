"""Selectors that rank attempts by a score: a metric, or a verifier's verdict.

The one rule: an attempt without the score never gets a default. Without a metric it is an error;
without a verdict the attempt is left out, since its verifier may have failed at it alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias

import numpy as np
from msgspec import Meta

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import rank, tally, voters

_VERDICT = "verdict:"
ScoreName: TypeAlias = Annotated[
    str,
    Meta(
        description='Score of an attempt: a metric such as "mean_confidence", '
        '"tail_confidence@1024" or "mean_logprob" (which counts as a probability), or '
        '"verdict:NAME" for the verdict of the plan\'s verifier NAME.'
    ),
]


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """The score by which a selector ranks, and the metrics and verdicts that it requires."""

    by: ScoreName = "mean_confidence"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric that the selector ranks by, if the score is a metric."""
        return () if self.by.startswith(_VERDICT) else (self.by,)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier that the selector ranks by, if the score is a verdict."""
        return verifier_of(self.by)


@dataclass(frozen=True, slots=True)
class Weighted(ScoreOptions):
    """Each attempt votes with its score, a confidence or a verdict."""

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by summed score."""
        return tally(rankable(traces, self.by), lambda trace: score(trace, self.by))


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

    The answer is printed as its best attempt wrote it (Li et al., arXiv 2206.02336).
    """

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by summed score."""
        answers = {t.ordinal: t.answer for t in traces if t.answer is not None}
        return rank(
            replace(
                cluster,
                answer=answers[cluster.ordinals[scores.index(max(scores))]],
                weight=sum(scores),
            )
            for cluster, scores in scored_clusters(traces, self.by)
        )


@dataclass(frozen=True, slots=True)
class Filtered(ScoreOptions):
    """Keeps the most confident share of attempts; they vote by confidence.

    DeepConf offline (arXiv 2508.15260, section 3.2). The threshold is the (1 - `keep`) percentile
    with linear interpolation, and attempts at it are kept, as in the released code.
    """

    by: ScoreName = "bottom10_confidence"
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


def verifier_of(by: str) -> tuple[str, ...]:
    """Return the verifier that a score names, or ()."""
    return (by.removeprefix(_VERDICT),) if by.startswith(_VERDICT) else ()


def rankable(traces: Sequence[Trace], by: str) -> list[Trace]:
    """Return the voters that can be ranked: all for a metric; those with a verdict for a verdict.

    If no voter has a verdict, all are returned, and `score` raises the error.
    """
    pool = voters(traces)
    return [t for t in pool if any(v.verifier in verifier_of(by) for v in t.verdicts)] or pool


def score(trace: Trace, by: str) -> float:
    """Return a trace's score.

    ValueError, naming the trace, if the score is missing, negative or not finite.
    """
    if by.startswith(_VERDICT):
        scores = [v.score for v in trace.verdicts if v.verifier in verifier_of(by)]
    else:
        scores = [trace.metrics[by]] if by in trace.metrics else []
    if not scores:
        raise ValueError(f"trace {trace.ordinal} carries no {by!r}, by which the selector ranks")
    value = math.exp(scores[-1]) if by.endswith("_logprob") else scores[-1]
    if not 0.0 <= value < math.inf:  # false for nan too
        raise ValueError(
            f"trace {trace.ordinal} carries {by} = {value!r}; a score to rank by must be finite "
            "and not negative"
        )
    return value


def scored_clusters(traces: Sequence[Trace], by: str) -> list[tuple[Cluster, list[float]]]:
    """Return the clusters of the rankable voters, each with its members' scores, in order."""
    pool = rankable(traces, by)
    scores = {t.ordinal: score(t, by) for t in pool}
    return [(cluster, [scores[o] for o in cluster.ordinals]) for cluster in tally(pool)]
