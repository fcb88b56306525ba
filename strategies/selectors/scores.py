"""The score by which selectors rank attempts: a metric, or a verifier's verdict.

The one rule: an attempt without the score never gets a default. Without a metric it is an error;
without a verdict the attempt is left out, since its verifier may have failed at it alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import tally, voters

_VERDICT = "verdict:"
SCORE = (
    'Score of an attempt: a metric such as "mean_confidence", "tail_confidence@1024" or '
    '"mean_logprob" (which counts as a probability), or "verdict:NAME" for the verdict of the '
    "plan's verifier NAME."
)


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """By which score a selector ranks, and what each attempt must carry for it."""

    by: Annotated[str, Meta(description=SCORE)] = "mean_confidence"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric it ranks by, if it is one."""
        return () if self.by.startswith(_VERDICT) else (self.by,)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it ranks by, if it does."""
        return verifier_of(self.by)


def verifier_of(by: str) -> tuple[str, ...]:
    """Return the verifier that a score names, or ()."""
    return (by.removeprefix(_VERDICT),) if by.startswith(_VERDICT) else ()


def rankable(traces: Sequence[Trace], by: str) -> list[Trace]:
    """Return the voters that can be ranked: by a metric all, by a verdict those that have one.

    When no voter has a verdict, all are returned, and `score` raises the error.
    """
    pool = voters(traces)
    with_verdict = [t for t in pool if any(v.verifier in verifier_of(by) for v in t.verdicts)]
    return with_verdict or pool


def score(trace: Trace, by: str) -> float:
    """Return a trace's score.

    ValueError naming the trace when it carries none, or one that is negative or not finite.
    """
    if by.startswith(_VERDICT):
        found = [v.score for v in trace.verdicts if v.verifier in verifier_of(by)]
    else:
        found = [trace.metrics[by]] if by in trace.metrics else []
    if not found:
        raise ValueError(f"trace {trace.ordinal} carries no {by!r}, by which the selector ranks")
    value = math.exp(found[-1]) if by.endswith("_logprob") else found[-1]
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
