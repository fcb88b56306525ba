"""Online greedy clustering of traces by similarity, as DeepPrune does it (arXiv 2510.08483, section on online pruning). Pure.

The rules alone: which cluster a newcomer goes to, and which cluster is the largest. Who compares, and what follows, is a strategy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal


def mean_similarity(scores: Sequence[float | None]) -> float:
    """Return the mean over the scores that the judge could give; 0.0 with none of them: nothing speaks for the same answer then."""
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if known else 0.0


def home(similarities: Sequence[float], tau: float, max_clusters: int, when_full: Literal["join", "leave"]) -> int | None:
    """Return the cluster that a newcomer goes to, or `len(similarities)` for one of its own; None when it stays outside.

    DeepPrune's online greedy rule: the most similar cluster (the oldest among equals) if that is above `tau`, else a new one while there
    are fewer than `max_clusters`. What happens then is unspecified there: `when_full` "join" takes the most similar one all the same.
    """
    n = len(similarities)
    nearest = max(range(n), key=lambda i: (similarities[i], -i), default=None)
    if nearest is not None and similarities[nearest] > tau:
        return nearest
    if n < max_clusters:
        return n
    return nearest if when_full == "join" else None


def leader(sizes: Sequence[int], n_outstanding: int = 0) -> int | None:
    """Return the largest cluster (the oldest among equals) once no `n_outstanding` newcomers can change which it is; None before."""
    if not sizes:
        return None
    first = max(range(len(sizes)), key=lambda i: (sizes[i], -i))
    # A younger cluster must be larger to win, an older one only as large; one not yet founded is the youngest.
    rivals = [size + n_outstanding + (i < first) for i, size in enumerate(sizes) if i != first]
    return first if max([*rivals, n_outstanding]) <= sizes[first] else None
