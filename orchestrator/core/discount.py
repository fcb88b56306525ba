"""Votes that count less the longer a trace is, and how sure a leader's lead is. Pure formulas over finished attempts.

Among recorded reasoning traces of one question a right one is shorter than a wrong one four times in five; `slope` says how much that is
worth (0: nothing, every vote counts alike). What decides to stop, and by which risk, is a strategy's; see `strategies.sounding`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from orchestrator.core.types import Trace

_N_TERMS = 400  # of the continued fraction: 30 suffice for counts below a thousand
_TINY = 1e-300


def chain_tokens(traces: Mapping[int, Trace], ordinal: int) -> int:
    """Return the output tokens of an attempt: a trace and all that it continues."""
    total, link = 0, traces.get(ordinal)
    while link is not None:
        total += link.usage.output_tokens
        link = None if link.parent is None else traces.get(link.parent)
    return total


def weights(lengths: Sequence[int], slope: float) -> list[float]:
    """Return one weight in (0, 1] per attempt of these lengths in tokens: (shortest / length) ** slope."""
    shortest = max(1, min(lengths, default=1))
    return [(shortest / max(1, length)) ** slope for length in lengths]


def shares(keys: Iterable[str], weight: Iterable[float]) -> tuple[str, float, float, float]:
    """Return the leading key, its weight, the runner-up's and the total; ("", 0, 0, 0) for no votes. The key seen first wins a tie."""
    totals: dict[str, float] = {}
    for key, one in zip(keys, weight, strict=True):
        totals[key] = totals.get(key, 0.0) + one
    if not totals:
        return "", 0.0, 0.0, 0.0
    leader = max(totals, key=lambda key: totals[key])  # max keeps the first of equals
    second = max((w for key, w in totals.items() if key != leader), default=0.0)
    return leader, totals[leader], second, sum(totals.values())


@lru_cache(maxsize=65_536)  # the same few counts come up in every problem
def upset_probability(first: float, second: float) -> float:
    """Return P[X < 1/2] for X ~ Beta(first + 1, second + 1): how likely the runner-up is ahead in the long run.

    The regularised incomplete beta function at 1/2, by its continued fraction (Abramowitz and Stegun 26.5.8, evaluated by Lentz's method).
    For whole counts this is Adaptive-Consistency's criterion (arXiv 2305.11860). ValueError for negative weights.
    """
    if first < 0 or second < 0:
        raise ValueError(f"weights of votes are not negative; got {first!r} and {second!r}")
    a, b = first + 1.0, second + 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - (a + b) * math.log(2.0))
    if a < b:  # the fraction converges fast below the mean only
        return 1.0 - front * _fraction(b, a) / b
    return front * _fraction(a, b) / a


def _fraction(a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * 0.5 / (a + 1.0))
    value = d
    for m in range(1, _N_TERMS):
        even = m * (b - m) * 0.5 / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * 0.5 / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
