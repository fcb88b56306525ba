"""Means and shares over problems, with 95% intervals.

Every number has its n, and an interval where the data allow one. Resampling is from fixed seeds, so
the same data give the same interval. Pure functions of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
_BATCH = 2_000_000  # numbers resampled at a time: 16 MB
_N_RESAMPLES = 9999  # as scipy.stats.bootstrap
_N_RESAMPLED = 10_000  # rows at most, where all are different
_N_GROUPED, _N_KINDS = 1000, 500  # rows at least, and kinds of rows at most, that are grouped
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
Table: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` problems with its 95% interval.

    `low` and `high` are None where the data do not allow an interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def _repr_html_(self) -> str:
        """Return the value with its interval, as notebooks show it; numbers only."""
        if self.low is None or self.high is None:
            return f"<div>{self.value:.3g} (n = {self.n:,})</div>"
        return (
            f"<div>{self.value:.3g}, 95% interval {self.low:.3g} to {self.high:.3g} "
            f"(n = {self.n:,})</div>"
        )


def share_estimate(right: Sequence[bool]) -> Estimate | None:
    """Return the share of true values with its Wilson interval; None for an empty sequence."""
    return share_of(sum(right), len(right))


def share_of(n_right: int, n: int) -> Estimate | None:
    """Return a share by its counts, as `share_estimate` does."""
    if not n:
        return None
    share = n_right / n
    # Wilson (1927); scipy.stats has it too, and takes half a second to import
    middle = (share + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z * sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n)) / (1 + _Z * _Z / n)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), n)


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean over problems.

    The interval is a percentile bootstrap over problems with a fixed seed. It is None for fewer
    than two problems or when all values are equal, because resampling does not show their
    uncertainty. For more than 10,000 problems whose values are all different it is the normal one.
    """
    mean = float(np.mean(values))
    if len(set(values)) < 2:
        return Estimate(mean, None, None, len(values))
    column = np.asarray(values, dtype=float)
    if (totals := _resampled_totals(column[:, None])) is not None:
        return resampled_estimate(mean, totals[:, 0] / len(values), len(values))
    if len(values) > _N_RESAMPLED:
        return _normal_estimate(mean, column - mean)
    [sums] = _resampled_sums(column)
    return resampled_estimate(mean, sums / len(values), len(values))


def mean_estimates(values: Table) -> list[Estimate]:
    """Return the mean of each column of `values`, shape (n_problems, n_columns).

    Intervals are those of `mean_estimate`, but each resample uses the same problems for all
    columns, so that comparisons stay paired. scipy would gather the values of every column for
    every resample; weighting them by their counts takes half the time.
    """
    n = len(values)
    resamples = np.concatenate([counts @ values / n for counts in resample_counts(n, _N_RESAMPLES)])
    return [
        resampled_estimate(mean, rows if np.ptp(column) else (), n)
        for mean, column, rows in zip(values.mean(axis=0), values.T, resamples.T, strict=True)
    ]


def saved_estimate(pairs: Sequence[tuple[float, float]]) -> Estimate:
    """Return the share of a total that was not used, from (used, total) of each problem.

    Both are resampled together. Intervals are those of `mean_estimate`.
    """
    used, total = np.array(pairs, dtype=float).T
    value = float(1 - used.sum() / total.sum())
    if len(set(pairs)) < 2:
        return Estimate(value, None, None, len(pairs))
    if (totals := _resampled_totals(np.array(pairs, dtype=float))) is not None:
        return resampled_estimate(value, 1 - totals[:, 0] / totals[:, 1], len(pairs))
    if len(pairs) > _N_RESAMPLED:  # to first order, of a ratio of two means
        return _normal_estimate(value, (used - (1 - value) * total) / total.mean())
    all_used, all_total = _resampled_sums(used, total)
    return resampled_estimate(value, 1 - all_used / all_total, len(pairs))


class SavedShare:
    """The share of a total that was not used, of problems that are added one by one.

    It takes the same memory for any number of problems.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[float, float]] = []
        self._n = 0
        self._sums = np.zeros(5)  # of used, total, and their products

    def add(self, used: float, total: float) -> None:
        """Add a problem."""
        self._n += 1
        self._sums += (used, total, used * used, total * total, used * total)
        if self._n <= _N_RESAMPLED:
            self._pairs.append((used, total))

    def estimate(self) -> Estimate:
        """Return `saved_estimate`; for more than 10,000 problems with the normal interval."""
        if self._n <= _N_RESAMPLED:
            return saved_estimate(self._pairs)
        used, total, used2, total2, both = self._sums / self._n
        ratio = used / total
        variance = max(0.0, used2 - 2 * ratio * both + ratio * ratio * total2)
        half = float(_Z * np.sqrt(variance / self._n) / total)
        return Estimate(float(1 - ratio), float(1 - ratio) - half, float(1 - ratio) + half, self._n)


def _resampled_totals(rows: Table) -> Table | None:
    """Return the sums of the columns of each resample, shape (_N_RESAMPLES, n_columns).

    None unless there are many rows and few kinds of them: then how often each kind occurs is drawn,
    instead of each row, which takes a thousandth of the time and has the same distribution.
    """
    if len(rows) < _N_GROUPED:
        return None
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    if len(kinds) > _N_KINDS:
        return None
    draws = np.random.default_rng(0).multinomial(len(rows), counts / len(rows), size=_N_RESAMPLES)
    totals: Table = draws @ kinds
    return totals


def _normal_estimate(value: float, deviations: Table) -> Estimate:
    """Return an estimate with its normal interval; `deviations` of the problems have mean 0."""
    half = _Z * float(np.sqrt(np.square(deviations).mean() / len(deviations)))
    return Estimate(value, value - half, value + half, len(deviations))


def _resampled_sums(*samples: Table) -> Table:
    """Return the sums of resampled samples, shape (n_samples, _N_RESAMPLES), from a fixed seed.

    Each resample draws the same problems from all samples.
    """
    rng, n = np.random.default_rng(0), len(samples[0])
    step = max(1, _BATCH // n)
    batches = []
    for start in range(0, _N_RESAMPLES, step):
        chosen = rng.integers(0, n, (min(step, _N_RESAMPLES - start), n))
        batches.append([sample[chosen].sum(axis=1) for sample in samples])
    return np.concatenate(batches, axis=1)


def resample_counts(n: int, n_resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield how often each of n problems occurs in each resample, from a fixed seed.

    Shapes are (n_batch, n). For many columns at once, and for a statistic that is undefined on some
    resamples.
    """
    rng = np.random.default_rng(0)
    step = max(1, _BATCH // n)
    for start in range(0, n_resamples, step):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(step, n_resamples - start))


def resampled_estimate(value: float, resamples: Sequence[float] | Table, n: int) -> Estimate:
    """Return a value over n problems with the 95% percentile interval of its resamples."""
    if n < 2 or not len(resamples):
        return Estimate(float(value), None, None, n)
    low, high = np.quantile(resamples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(value), float(low), float(high), n)
