"""Evaluation of finished results and pools: accuracy, cost and savings, with intervals.

Only this module reads references, and intervals are computed here. Every number has its n,
and a 95% interval where the data allow one. The caller passes in the comparison of an answer
with a reference (`same`, which runs in killable processes). Everything else is a pure function of
results, pools and those comparisons. Nothing is printed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from orchestrator.core.protocols import Selector
from orchestrator.core.values import Problem, Result, Status, Trace, Usage
from orchestrator.core.votes import conclude
from orchestrator.jobs.rows import detect_format, iter_rows

CONFIDENCE = 0.95
_BATCH = 2_000_000  # numbers resampled at a time: 16 MB
_N_RESAMPLES = 9999  # scipy's default for the bootstrap
Table: TypeAlias = npt.NDArray[np.float64]

# (domain, answer, reference) -> whether they are equivalent
Same: TypeAlias = Callable[[str, str, str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` problems with its 95% interval.

    `low` and `high` are None where the data do not allow an interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Savings:
    """The shares of full sampling that were saved; negative when more was spent than full sampling.

    In traces, each attempt counts once, regardless of its stretches and probes, and a cancelled
    attempt counts in full. In output tokens, each attempt counts the tokens it used, and probes and
    comparisons count too. Both are ratios of totals over the problems with a known full cost.
    """

    traces: Estimate
    tokens: Estimate


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of a finished job.

    `accuracy` is None without references. `savings` is None where the full cost is unknown.
    """

    n_results: int
    n_by_status: Mapping[str, int]
    n_without_reference: int
    accuracy: Estimate | None
    usage: Mapping[str, Usage]
    total: Usage
    savings: Savings | None
    n_traces: int
    n_failed: int
    n_cancelled: int
    n_tied: int
    n_stopped_by: Mapping[str, int]
    wall_seconds: float


def read_references(path: str | Path) -> Mapping[str, str]:
    """Return the reference answers by id, from a problem file or a file of `id` and `answer`.

    Ids are those of `read_problems`. Rows without an answer and invalid rows are left out. An
    answer that is not a string is encoded as JSON: 42, 0.5, true, [1, 2].
    """
    path = Path(path)
    references = {}
    for row in iter_rows(path, detect_format(path)):
        answer = row.fields.get("answer")
        if not row.error and answer is not None and answer != "":
            references[row.id] = (
                answer
                if isinstance(answer, str)
                else msgspec.json.encode(answer).decode().strip('"')
            )
    return references


async def score(
    results: Iterable[Result], references: Mapping[str, str], domains: Mapping[str, str], same: Same
) -> dict[str, bool]:
    """Return whether each problem was answered correctly, by id, in the order of the results.

    Abstentions and failures are wrong. Invalid rows and problems without a reference are left out.
    `domains` maps problem ids to domain names.
    """
    counted = [r for r in results if r.status is not Status.INVALID and r.problem_id in references]

    async def right(result: Result) -> bool:
        if result.status is not Status.ANSWERED or result.answer is None:
            return False
        return await same(
            domains[result.problem_id], result.answer.text, references[result.problem_id]
        )

    verdicts = await asyncio.gather(*map(right, counted))
    return {result.problem_id: verdict for result, verdict in zip(counted, verdicts, strict=True)}


async def right_keys(
    pools: Mapping[str, Sequence[Trace]],
    references: Mapping[str, str],
    domains: Mapping[str, str],
    same: Same,
) -> dict[str, frozenset[str]]:
    """Return the keys of the right answers in each pool that has a reference.

    Each distinct answer is compared once.
    """

    async def keys(problem_id: str) -> frozenset[str]:
        texts: dict[str, str] = {}
        for trace in sorted(pools[problem_id], key=lambda t: t.ordinal):
            if trace.answer is not None:
                texts.setdefault(trace.answer.key, trace.answer.text)
        domain, reference = domains[problem_id], references[problem_id]
        equal = await asyncio.gather(*(same(domain, text, reference) for text in texts.values()))
        return frozenset(itertools.compress(texts, equal))

    known = [problem_id for problem_id in pools if problem_id in references]
    return dict(zip(known, await asyncio.gather(*map(keys, known)), strict=True))


def share_estimate(right: Sequence[bool]) -> Estimate | None:
    """Return the share of true values with its Wilson interval; None for an empty sequence."""
    from scipy import stats  # the import takes a second, and only evaluation needs it

    n, n_right = len(right), sum(right)
    if not n:
        return None
    interval = stats.binomtest(n_right, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(n_right / n, float(interval.low), float(interval.high), n)


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean over problems.

    The interval is a percentile bootstrap over problems with a fixed seed. It is None for fewer
    than two problems or when all values are equal, because resampling does not show their
    uncertainty.
    """
    mean = float(np.mean(values))
    if len(set(values)) < 2:
        return Estimate(mean, None, None, len(values))
    return Estimate(mean, *_bootstrap((np.asarray(values, dtype=float),), np.mean), len(values))


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


def ratio_estimate(
    pairs: Sequence[tuple[float, float]], ratio: Callable[[Table, Table], Table]
) -> Estimate:
    """Return a ratio of two totals over problems.

    Both totals are resampled together. Intervals are those of `mean_estimate`.
    """
    first, second = np.array(pairs, dtype=float).T
    value = float(ratio(first.sum(), second.sum()))
    if len(set(pairs)) < 2:
        return Estimate(value, None, None, len(pairs))
    low, high = _bootstrap(
        (first, second), lambda a, b, axis: ratio(a.sum(axis=axis), b.sum(axis=axis))
    )
    return Estimate(value, low, high, len(pairs))


def _bootstrap(samples: tuple[Table, ...], statistic: Callable[..., object]) -> tuple[float, float]:
    from scipy import stats  # the import takes a second, and only evaluation needs it

    interval = stats.bootstrap(
        samples,
        statistic,
        n_resamples=_N_RESAMPLES,
        batch=max(1, _BATCH // len(samples[0])),
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def resample_counts(n: int, n_resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield how often each of n problems occurs in each resample, from a fixed seed.

    Shapes are (n_batch, n). Used where scipy's bootstrap does not fit: for many columns at once,
    and for a statistic that is undefined on some resamples.
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


def savings(results: Iterable[Result]) -> Savings | None:
    """Return the savings against full sampling of the same plan; None when no full cost is known.

    Intervals are a percentile bootstrap over problems with a fixed seed. Spent and full cost are
    resampled together.
    """
    traces: list[tuple[float, float]] = []
    tokens: list[tuple[float, float]] = []
    for result in results:
        if result.n_planned and result.full_tokens:
            traces.append(
                (
                    result.n_traces if result.n_attempts is None else result.n_attempts,
                    result.n_planned,
                )
            )
            tokens.append((sum(u.output_tokens for u in result.usage.values()), result.full_tokens))
    if not traces:
        return None
    return Savings(
        *(ratio_estimate(pairs, lambda used, full: 1 - used / full) for pairs in (traces, tokens))
    )


def reselect(
    results: Iterable[Result], pools: Mapping[str, Sequence[Trace]], selector: Selector
) -> list[Result]:
    """Return the results of `selector` on the same finished pools, at unchanged cost.

    Invalid rows are unchanged. Only the pool decides: a problem that failed in its strategy or in
    another selector is answered if its pool contains an answer. Raises KeyError when the pool of a
    result is missing.
    """
    return [
        r if r.status is Status.INVALID else _reselected(r, pools[r.problem_id], selector)
        for r in results
    ]


def _reselected(result: Result, pool: Sequence[Trace], selector: Selector) -> Result:
    return conclude(
        Problem(result.problem_id, "", tags=result.tags),
        pool,
        selector,
        n_planned=result.n_planned,
        stopped_by=result.stopped_by,
        seconds=result.seconds,
        fingerprint=result.fingerprint,
        dropped=result.dropped,
    )


def report(
    results: Sequence[Result], correctness: Mapping[str, bool], wall_seconds: float
) -> Report:
    """Return the numbers of a finished job; `correctness` is the result of `score`, or {}."""
    usage: dict[str, Usage] = {}
    for account, one in (item for r in results for item in r.usage.items()):
        usage[account] = usage.get(account, Usage()) + one
    valid = [r for r in results if r.status is not Status.INVALID]
    return Report(
        n_results=len(results),
        n_by_status={status.value: sum(r.status is status for r in results) for status in Status},
        n_without_reference=sum(r.problem_id not in correctness for r in valid),
        accuracy=share_estimate(list(correctness.values())),
        usage=usage,
        total=sum(usage.values(), Usage()),
        savings=savings(valid),
        n_traces=sum(r.n_traces for r in valid),
        n_failed=sum(r.n_failed for r in valid),
        n_cancelled=sum(r.n_cancelled for r in valid),
        n_tied=sum(r.tied for r in valid),
        n_stopped_by=dict(Counter(r.stopped_by for r in valid if r.stopped_by)),
        wall_seconds=wall_seconds,
    )
