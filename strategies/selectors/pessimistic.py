"""Pessimistic verification (Shi and Jin, Heimdall, arXiv 2504.10337): a lower bound of verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from msgspec import Meta

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import rank, tally, voters
from orchestrator.kit.options import LARGEST
from orchestrator.kit.verdicts import opinions
from strategies.selectors.by_score import rankable, score, verifier_of


@dataclass(frozen=True, slots=True)
class Pessimistic:
    """Takes the answer with the highest lower bound of its verdicts.

    The largest r(a) - alpha ln(T) / (n_a + 1) wins: r(a) the mean and n_a the number of verdicts on
    attempts that state a, T the number of all verdicts. In the paper T is N M and n_a is N_a M;
    counting verdicts is the same, and still holds where candidates were verified unequally often.
    A cluster's weight is that bound plus alpha ln(T): not negative, in the same order, and 0 for an
    answer without a verdict.
    """

    by: Annotated[
        str,
        Meta(
            pattern="^(judges$|verdict:)",
            description='Which verdicts count: "judges" for those of LLM judges in the pool (as '
            'strategy `scrutinize` leaves them), "verdict:NAME" for those of the plan\'s verifier '
            "NAME.",
        ),
    ] = "judges"
    alpha: Annotated[
        float,
        Meta(
            ge=0,
            le=LARGEST,
            description="Penalty of answers with few verdicts: 0 takes the best mean, a large "
            "value the majority.",
        ),
    ] = 0.1

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads, if it does."""
        return verifier_of(self.by)

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by their bound."""
        verdicts = (
            opinions(traces)
            if self.by == "judges"
            else {t.ordinal: [score(t, self.by)] for t in rankable(traces, self.by)}
        )
        clusters = tally(voters(traces))
        scores = [[s for o in c.ordinals for s in verdicts.get(o, ())] for c in clusters]
        width = self.alpha * math.log(max(1, sum(map(len, scores))))
        return rank(
            replace(cluster, weight=_bound(own, width))
            for cluster, own in zip(clusters, scores, strict=True)
        )


def _bound(scores: Sequence[float], width: float) -> float:
    n = len(scores)
    # r - width / (n + 1), and `width` added
    return sum(scores) / n + width * n / (n + 1) if scores else 0.0
