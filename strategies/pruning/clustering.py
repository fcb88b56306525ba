"""Online greedy clustering of attempts by similarity, as in DeepPrune (arXiv 2510.08483). Pure.

Contains only the rules: which cluster a new attempt joins, and which cluster is the largest. The
strategy decides what to compare and how to use the clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal


def mean_similarity(scores: Sequence[float | None]) -> float:
    """Return the mean of the scores that are not None; 0.0 if all are None.

    Without any score there is no evidence for the same answer.
    """
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if known else 0.0


def cluster_for(
    similarities: Sequence[float],
    tau: float,
    max_clusters: int,
    when_full: Literal["join", "leave"],
) -> int | None:
    """Return the cluster of a newcomer, `len(similarities)` for a new one, or None for none.

    DeepPrune's online greedy rule: the most similar cluster (the oldest among equals) if its
    similarity is above `tau`, or else a new one while there are fewer than `max_clusters`. The
    paper does not specify the remaining case: with `when_full` "join" it is the most similar one.
    """
    n = len(similarities)
    nearest = max(range(n), key=lambda i: (similarities[i], -i), default=None)
    if nearest is not None and similarities[nearest] > tau:
        return nearest
    if n < max_clusters:
        return n
    return nearest if when_full == "join" else None


def largest(sizes: Sequence[int], n_outstanding: int = 0) -> int | None:
    """Return the largest cluster, the oldest among equals; None while that may still change.

    It may change while `n_outstanding` new attempts could make another cluster the largest.
    """
    if not sizes:
        return None
    first = max(range(len(sizes)), key=lambda i: (sizes[i], -i))
    # A younger cluster must be larger to win, an older one only equally large; a cluster that does
    # not exist yet is the youngest.
    rivals = [size + n_outstanding + (i < first) for i, size in enumerate(sizes) if i != first]
    return first if max([*rivals, n_outstanding]) <= sizes[first] else None
