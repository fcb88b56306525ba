"""Scaling of finished pools: their independent attempts, and pass@k and maj@k from them.

Every width is evaluated on the same fully sampled pool, without bias and without further sampling.
Functions here are pure functions of pools and of the keys of right answers. Intervals come from
`orchestrator.studies.evaluate`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.core.values import Finish, Purpose, Trace
from orchestrator.core.votes import attempt_ends
from orchestrator.studies.estimates import Estimate, Table, mean_estimate

# maj@k is exact up to this number of attempts: at most a second, and far from overflow
# (C(1030, 515) > 1e308)
_EXACT_LIMIT = 512
_N_DRAWS = 20_000  # above the limit: a standard error below 0.5 / sqrt(20,000) = 0.0036


@dataclass(frozen=True, slots=True)
class Point:
    """One width of a scaling curve, over the problems with at least `k` attempts.

    The number of these problems is the `n` of each estimate.
    """

    k: int
    pass_at_k: Estimate
    maj_at_k: Estimate


@dataclass(frozen=True, slots=True)
class VoteCounts:
    """The votes in a pool of `n` attempts: of each right answer, and of each wrong one."""

    n: int
    right: tuple[int, ...]
    wrong: tuple[int, ...]


def attempts(pool: Iterable[Trace]) -> list[Trace]:
    """Return the independent attempts in a pool, each as its last trace, by ordinal.

    Independent attempts were neither cancelled nor cut off midway. A failed attempt is included,
    without an answer. An attempt that was forced to give a final answer ends with that trace. A
    pool that was stopped early is not a fair sample, because its size depends on its answers.
    """
    independent = (
        t for t in attempt_ends(list(pool)) if t.purpose is Purpose.SOLVE or t.parent is not None
    )
    return sorted(independent, key=lambda t: t.ordinal)


def votes(attempts: Iterable[Trace]) -> Counter[str]:
    """Return the votes of attempts by answer key."""
    return Counter(
        t.answer.key for t in attempts if t.answer is not None and t.finish is not Finish.FAILED
    )


def pass_at_k(n: int, n_right: int, k: int) -> float:
    """Return the probability that k of n attempts, drawn without replacement, include a right one.

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1). Raises ValueError
    unless 1 <= k <= n and 0 <= n_right <= n.
    """
    if not (1 <= k <= n and 0 <= n_right <= n):
        raise ValueError(
            f"pass@{k} of {n} attempts, {n_right} right: "
            "1 <= k <= n and 0 <= n_right <= n are needed"
        )
    return 1.0 - math.comb(n - n_right, k) / math.comb(n, k)


def majority_at_k(
    counts: Mapping[str, int], n: int, right: Collection[str], ks: Sequence[int]
) -> list[float]:
    """Return, for each k, the probability that the majority of k of n attempts is right.

    The attempts are drawn in random order. `counts` maps answer keys to numbers of attempts; all
    other attempts abstain. A tie goes to the answer drawn first, which is the rule of `core.votes`
    when ordinals follow the draw: each of t tied answers is first with probability 1 / t. The
    result is exact up to 512 attempts. Above that it is the mean of 20,000 draws from a fixed seed,
    with the standard error of `majority_error`. Raises ValueError unless 1 <= k <= n.
    """
    if not all(1 <= k <= n for k in ks) or sum(counts.values()) > n:
        raise ValueError(
            f"maj@k of {n} attempts, {sum(counts.values())} with answers, for k = {list(ks)}: "
            "1 <= k <= n is needed"
        )
    if n > _EXACT_LIMIT:
        return [float(_drawn(counts, n, right, k).mean()) for k in ks]
    ways = sum((_winning_ways(counts, n, key) for key in right if key in counts), np.zeros(n + 1))
    return [float(ways[k] / math.comb(n, k)) for k in ks]


def majority_error(counts: Mapping[str, int], n: int, right: Collection[str], k: int) -> float:
    """Return the standard error of `majority_at_k` due to sampling: 0.0 where it is exact."""
    if n <= _EXACT_LIMIT:
        return 0.0
    return float(_drawn(counts, n, right, k).std(ddof=1) / math.sqrt(_N_DRAWS))


def _winning_ways(counts: Mapping[str, int], n: int, key: str) -> Table:
    """Return the number of subsets in which `key` wins, by subset size, shape (n + 1,).

    A tie among t answers counts 1 / t. For each count x of the key, the counts of the other answers
    must be less than x or equal to it. A product of polynomials counts these subsets: the powers of
    z are attempts drawn, the rows are tied answers. No term is negative, so floats lose only their
    last digits.
    """
    others = [count for other, count in counts.items() if other != key]
    total: Table = np.zeros(n + 1)
    for x in range(1, counts[key] + 1):
        rivals = [count for count in others if count >= x]
        # abstentions and answers too rare to tie: any number of them may be drawn
        harmless = n - counts[key] - sum(rivals)
        table = np.zeros((len(rivals) + 1, n + 1))
        table[0, : harmless + 1] = [math.comb(harmless, i) for i in range(harmless + 1)]
        for count in rivals:
            grown = np.zeros_like(table)
            for i in range(x):
                grown[:, i:] += math.comb(count, i) * table[:, : n + 1 - i]
            grown[1:, x:] += math.comb(count, x) * table[:-1, : n + 1 - x]
            table = grown
        shares = 1.0 / np.arange(1, len(rivals) + 2)
        total[x:] += math.comb(counts[key], x) * (shares @ table)[: n + 1 - x]
    return total


def _drawn(counts: Mapping[str, int], n: int, right: Collection[str], k: int) -> Table:
    """Return the share of a right majority in each of 20,000 draws of k attempts, shape (20,000,).

    A tie among t answers gives each of them 1 / t.
    """
    keys = list(counts)
    if not keys:
        return np.zeros(_N_DRAWS)
    colours = [*counts.values(), n - sum(counts.values())]
    draws = np.random.default_rng(0).multivariate_hypergeometric(
        colours, k, size=_N_DRAWS, method="marginals"
    )[:, :-1]
    leads = (draws == draws.max(axis=1, keepdims=True)) & (draws > 0)
    is_right = np.array([key in right for key in keys])
    shares: Table = (leads & is_right).sum(axis=1) / np.maximum(1, leads.sum(axis=1))
    return shares


def vote_counts(pool: Iterable[Trace], right: Collection[str]) -> VoteCounts:
    """Return what scaling needs of a pool; `right` are the keys of the right answers."""
    tried = attempts(pool)
    counts = sorted(votes(tried).items(), key=lambda item: -item[1])
    return VoteCounts(
        len(tried),
        tuple(n for key, n in counts if key in right),
        tuple(n for key, n in counts if key not in right),
    )


def scaling(pools: Iterable[VoteCounts], ks: Sequence[int]) -> list[Point]:
    """Return unbiased estimates of pass@k and maj@k for each k from fully sampled pools.

    Without `ks`, for the powers of two up to the largest number of attempts. A problem with fewer
    than k attempts is left out at that k, and a k without any problem is left out. Therefore
    compare only points of equal n. Intervals are those of `mean_estimate`.
    """
    pools = list(pools)
    largest = max((pool.n for pool in pools), default=0)
    ks = ks or [2**i for i in range(largest.bit_length())]
    passes: dict[int, list[float]] = {k: [] for k in ks}
    majorities: dict[int, list[float]] = {k: [] for k in ks}
    known: dict[VoteCounts, tuple[list[int], list[float]]] = {}  # many problems have the same
    for pool in pools:
        if pool not in known:
            able = [k for k in ks if k <= pool.n]
            counts = {f"{i}": n for i, n in enumerate((*pool.right, *pool.wrong))}
            right = list(counts)[: len(pool.right)]
            known[pool] = able, majority_at_k(counts, pool.n, right, able)
        for k, value in zip(*known[pool], strict=True):
            passes[k].append(pass_at_k(pool.n, sum(pool.right), k))
            majorities[k].append(value)
    return [
        Point(k, mean_estimate(passes[k]), mean_estimate(majorities[k])) for k in ks if passes[k]
    ]
