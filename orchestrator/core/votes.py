"""Clusters of equivalent answers and weighted tallies, with the tie rule. Pure functions over a pool of traces.

The tie rule, everywhere: larger weight, then larger count, then the lower lowest ordinal. A tie in weight is reported by `tied`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from orchestrator.core.types import Cluster, Finish, Purpose, Trace

VOTING = (Purpose.SOLVE, Purpose.AGGREGATE)  # what attempts at the problem are for; nothing else votes
_CUT = (Finish.FAILED, Finish.CANCELLED)


def voters(traces: Iterable[Trace]) -> list[Trace]:
    """Return the traces that may vote, by ordinal: attempts at the problem that stated an answer.

    Probes, verdicts and judgements do not vote, nor do failed traces. A cancelled or truncated one votes if it stated an answer.
    A trace that was continued does not vote beside its continuation: its answer is the continuation's. A continuation that failed,
    or was cancelled before it stated one, takes nothing from it.
    """
    solving = [t for t in traces if t.purpose in VOTING]
    continued = {t.parent for t in solving if t.parent is not None and (t.answer is not None or t.finish not in _CUT)}
    chosen = (t for t in solving if t.answer is not None and t.finish is not Finish.FAILED and t.ordinal not in continued)
    return sorted(chosen, key=lambda t: t.ordinal)


def tally(traces: Iterable[Trace], weight: Callable[[Trace], float] = lambda trace: 1.0) -> list[Cluster]:
    """Return the clusters of those traces that stated an answer, ranked by the tie rule; a cluster's weight is the sum of its traces'.

    The answer shown for a cluster is that of its lowest ordinal. Weights must be finite and not negative: ValueError otherwise.
    """
    members: dict[str, list[Trace]] = {}
    for trace in sorted(traces, key=lambda t: t.ordinal):
        if trace.answer is not None:
            members.setdefault(trace.answer.key, []).append(trace)
    return rank(_cluster(group, weight) for group in members.values())


def _cluster(group: Sequence[Trace], weight: Callable[[Trace], float]) -> Cluster:
    total = 0.0
    for trace in group:
        one = weight(trace)
        if not 0.0 <= one < float("inf"):  # false for nan too
            raise ValueError(f"trace {trace.ordinal}: a vote's weight must be finite and not negative, not {one!r}")
        total += one
    first = group[0].answer
    assert first is not None
    return Cluster(first, tuple(t.ordinal for t in group), total)


def rank(clusters: Iterable[Cluster]) -> list[Cluster]:
    """Return clusters best first, by the tie rule."""
    return sorted(clusters, key=lambda c: (-c.weight, -c.count, c.ordinals[0]))


def tied(clusters: Sequence[Cluster]) -> bool:
    """Tell whether the leader's weight is also the runner-up's."""
    return len(clusters) > 1 and clusters[0].weight == clusters[1].weight


def agreement(traces: Sequence[Trace]) -> float:
    """Return the share of these traces that state the leading answer; 0 without any. Traces that state none count against it."""
    return max((cluster.count for cluster in tally(voters(traces))), default=0) / len(traces) if traces else 0.0


def beta_confidence(n_first: int, n_second: int) -> float:
    """Return P[X > 1/2] for X ~ Beta(n_first + 1, n_second + 1): how sure it is that the leader leads. Exact for whole counts.

    Adaptive-Consistency's rule (Aggarwal et al., arXiv 2305.11860), for votes of one kind.
    """
    # The regularised incomplete beta function at 1/2 with whole parameters is a binomial tail.
    n = n_first + n_second + 1
    return sum(math.comb(n, k) for k in range(n_first + 1)) / (1 << n)
