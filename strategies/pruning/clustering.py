"""Online greedy clustering of attempts by similarity, as in DeepPrune (arXiv 2510.08483). Pure.

The rules alone: which cluster a newcomer joins, and which cluster is the largest. What is compared,
and what follows, is the strategy's to decide.
"""

import math
from collections.abc import Sequence
from typing import Literal


def mean_similarity(scores: Sequence[float | None]) -> float:
    """Return the mean of the scores that are not None; 0.0 where all are.

    Then nothing speaks for the same answer.
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

    DeepPrune's online greedy rule: the most similar cluster (the oldest among equals) if that is
    above `tau`, else a new one while there are fewer than `max_clusters`. What happens then is
    unspecified there: `when_full` "join" takes the most similar one nevertheless.
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

    It may while `n_outstanding` newcomers could make another one the largest.
    """
    if not sizes:
        return None
    first = max(range(len(sizes)), key=lambda i: (sizes[i], -i))
    # A younger cluster must be larger to win, an older one only as large; one not yet founded is
    # the youngest.
    rivals = [size + n_outstanding + (i < first) for i, size in enumerate(sizes) if i != first]
    return first if max([*rivals, n_outstanding]) <= sizes[first] else None
