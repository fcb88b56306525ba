"""The probability that the runner-up of a weighted vote overtakes its leader. Pure."""

from __future__ import annotations

import math
from functools import lru_cache

_N_TERMS = 400  # of the continued fraction: 30 are enough for counts below a thousand
_TINY = 1e-300


@lru_cache(maxsize=65_536)  # the same few counts recur in every problem
def upset_probability(first: float, second: float) -> float:
    """Return P[X < 1/2] for X ~ Beta(first + 1, second + 1).

    This is the probability that the runner-up is ahead in the long run. It is the regularised
    incomplete beta function at 1/2, by its continued fraction (Abramowitz and Stegun 26.5.8,
    evaluated with Lentz's method). For whole counts it is Adaptive-Consistency's criterion (arXiv
    2305.11860). ValueError for negative weights.
    """
    if first < 0 or second < 0:
        raise ValueError(f"weights of votes must not be negative; got {first!r} and {second!r}")
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
