"""Evaluation of finished results and pools against reference answers: the only reader of
references.

Every number comes with its n, and with a 95% interval where one can be had. Whether an answer
equals a reference is decided elsewhere (`same`, in killable processes) and passed in; here
everything else is a pure function of results, pools and those decisions. Numbers only: printing is
the command line's.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from orchestrator.core.protocols import Selector
from orchestrator.core.values import Finish, Problem, Purpose, Result, Status, Trace, Usage
from orchestrator.core.votes import conclude, intermediate
from orchestrator.jobs.rows import detect_format, iter_rows

CONFIDENCE = 0.95
_N_RESAMPLES = 9999  # scipy's own default for the bootstrap
# attempts up to which maj@k is exact: a second at worst, and far from overflow (C(1030, 515) >
# 1e308)
_EXACT_LIMIT = 512
_N_DRAWS = 20_000  # beyond it: a standard error below 0.5 / sqrt(20,000) = 0.0036

_Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

# (domain, answer, reference) -> whether they are equivalent
Same: TypeAlias = Callable[[str, str, str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` problems with its 95% interval; `low` and `high` are None where the data
    cannot give one.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Savings:
    """Shares of full sampling that were not spent; negative when more was spent than full sampling
    takes.

    In traces an attempt counts once, however many stretches and probes it took, and a cancelled one
    in full; in output tokens it counts what it had used, and probes and judgements count too. Both
    are ratios of totals over the problems whose full cost is known.
    """

    traces: Estimate
    tokens: Estimate


@dataclass(frozen=True, slots=True)
class Point:
    """One width of a scaling curve, over the problems that have at least `k` attempts (`n` of each
    estimate).
    """

    k: int
    pass_at_k: Estimate
    maj_at_k: Estimate


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of a finished job.

    `accuracy` is None without references, `savings` where full cost is unknown.
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

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens over wall-clock seconds."""
        return self.total.output_tokens / self.wall_seconds if self.wall_seconds > 0 else None


def read_references(path: str | Path) -> Mapping[str, str]:
    """Return the reference answers of a problem file, or of a file of `id` and `answer`, by the ids
    that `read_problems` gives.

    Rows without an answer, and bad rows, are left out. An answer that is not a text is taken as
    JSON: 42, 0.5, true, [1, 2].
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
    """Return whether each problem was answered rightly, by id, in the order of the results.

    Abstentions and failures are wrong; invalid rows and problems without a reference are left out.
    `domains` maps problem ids to the names of their domains.
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
    """Return, for each pool with a reference, the keys of the answers that equal it: one comparison
    a distinct answer.
    """
    asked = []
    for problem_id in pools.keys() & references.keys():
        texts: dict[str, str] = {}
        for trace in sorted(pools[problem_id], key=lambda t: t.ordinal):
            if trace.answer is not None:
                texts.setdefault(trace.answer.key, trace.answer.text)
        asked += [(problem_id, key, text) for key, text in texts.items()]
    verdicts = await asyncio.gather(
        *(same(domains[id], text, references[id]) for id, _, text in asked)
    )
    right: dict[str, set[str]] = {
        problem_id: set() for problem_id in pools if problem_id in references
    }
    for (problem_id, key, _), verdict in zip(asked, verdicts, strict=True):
        if verdict:
            right[problem_id].add(key)
    return {problem_id: frozenset(keys) for problem_id, keys in right.items()}


def accuracy(correctness: Mapping[str, bool]) -> Estimate | None:
    """Return the share of problems answered rightly with Wilson's interval; None without problems."""
    from scipy import stats  # a second to import, and only evaluation needs it

    n, n_right = len(correctness), sum(correctness.values())
    if not n:
        return None
    interval = stats.binomtest(n_right, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(n_right / n, float(interval.low), float(interval.high), n)


def attempts(pool: Iterable[Trace]) -> list[Trace]:
    """Return the independent attempts in a pool, each as its last trace, by ordinal: neither
    cancelled nor cut on the way.

    A failed attempt is one, without an answer; one that was asked for its last answer ends with
    that. A pool that was stopped early is not a fair sample: its size depends on its answers.
    """
    pool = list(pool)
    unfinished = intermediate(pool)
    solving = [
        t
        for t in pool
        if t.purpose is Purpose.SOLVE or (t.purpose is Purpose.AGGREGATE and t.parent is not None)
    ]
    return sorted(
        (t for t in solving if t.finish is not Finish.CANCELLED and t.ordinal not in unfinished),
        key=lambda t: t.ordinal,
    )


def pass_at_k(n: int, n_right: int, k: int) -> float:
    """Return the probability that k of n attempts, drawn without replacement, hold a right one.

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1). ValueError unless 1
    <= k <= n and 0 <= n_right <= n.
    """
    if not (1 <= k <= n and 0 <= n_right <= n):
        raise ValueError(
            f"pass@{k} of {n} attempts, {n_right} right: 1 <= k <= n and 0 <= n_right <= n are needed"
        )
    return 1.0 - math.comb(n - n_right, k) / math.comb(n, k)


def majority_at_k(
    counts: Mapping[str, int], n: int, right: Collection[str], ks: Sequence[int]
) -> list[float]:
    """Return, for each k, the probability that the majority of k of n attempts, drawn in random
    order, is right.

    `counts` are attempts by answer key; the other attempts abstain. A tie goes to the answer drawn
    first, which is `core.votes`'s rule when ordinals follow the draw: among t tied answers each is
    first with probability 1 / t. Exact up to 512 attempts; beyond, the mean of 20,000 draws from a
    fixed seed, whose standard error is `majority_error`'s. ValueError unless 1 <= k <= n.
    """
    if not all(1 <= k <= n for k in ks) or sum(counts.values()) > n:
        raise ValueError(
            f"maj@k of {n} attempts, {sum(counts.values())} with answers, for k = {list(ks)}: 1 <= k <= n is needed"
        )
    if n > _EXACT_LIMIT:
        return [float(_drawn(counts, n, right, k).mean()) for k in ks]
    ways = sum((_winning_ways(counts, n, key) for key in right if key in counts), np.zeros(n + 1))
    return [float(ways[k] / math.comb(n, k)) for k in ks]


def majority_error(counts: Mapping[str, int], n: int, right: Collection[str], k: int) -> float:
    """Return the standard error that `majority_at_k` has from drawing: 0.0 where it is exact."""
    if n <= _EXACT_LIMIT:
        return 0.0
    return float(_drawn(counts, n, right, k).std(ddof=1) / math.sqrt(_N_DRAWS))


def _winning_ways(counts: Mapping[str, int], n: int, key: str) -> _Floats:
    """Return the number of subsets in which `key` wins, by their size, shape (n + 1,); a tie among
    t counts 1 / t.

    For each count x of the key, the other answers' counts must stay below x or tie with it. Their
    subsets are counted by a product of polynomials: powers of z are attempts drawn, rows are
    answers tied. No term is negative, so floats lose only their last digits.
    """
    others = [count for other, count in counts.items() if other != key]
    total: _Floats = np.zeros(n + 1)
    for x in range(1, counts[key] + 1):
        rivals = [count for count in others if count >= x]
        # abstentions, and answers too rare to tie: they may be drawn at will
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


def _drawn(counts: Mapping[str, int], n: int, right: Collection[str], k: int) -> _Floats:
    """Return the share of a right majority in each of 20,000 draws of k attempts, ties shared out,
    shape (20,000,).
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
    shares: _Floats = (leads & is_right).sum(axis=1) / np.maximum(1, leads.sum(axis=1))
    return shares


def scaling(
    pools: Mapping[str, Sequence[Trace]], right: Mapping[str, frozenset[str]], ks: Sequence[int]
) -> list[Point]:
    """Return pass@k and maj@k for each k from pools sampled in full, without bias and without
    sampling anew.

    Problems in `right` (see `right_keys`) count. Those with fewer than k attempts are left out at
    that k, and a k for which no problem has enough is left out; so compare only points of equal n.
    Intervals: see `mean_estimate`.
    """
    passes: dict[int, list[float]] = {k: [] for k in ks}
    majorities: dict[int, list[float]] = {k: [] for k in ks}
    for problem_id, keys in right.items():
        tried = attempts(pools[problem_id])
        counts = Counter(
            t.answer.key for t in tried if t.answer is not None and t.finish is not Finish.FAILED
        )
        able = [k for k in ks if k <= len(tried)]
        n_right = sum(counts[key] for key in keys)
        for k, value in zip(able, majority_at_k(counts, len(tried), keys, able), strict=True):
            passes[k].append(pass_at_k(len(tried), n_right, k))
            majorities[k].append(value)
    return [
        Point(k, mean_estimate(passes[k]), mean_estimate(majorities[k])) for k in ks if passes[k]
    ]


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean over problems with the percentile bootstrap's interval over problems, from a
    fixed seed.

    No interval for fewer than two problems or when all values are equal: resampling cannot tell how
    certain those are.
    """
    mean = float(np.mean(values))
    if len(set(values)) < 2:
        return Estimate(mean, None, None, len(values))
    low, high = _bootstrap((np.asarray(values),), lambda sample, axis: np.mean(sample, axis=axis))
    return Estimate(mean, low, high, len(values))


def usage_by_account(results: Iterable[Result]) -> dict[str, Usage]:
    """Return what all results spent, by the account (`Purpose`) it was charged to."""
    totals: dict[str, Usage] = {}
    for result in results:
        for account, usage in result.usage.items():
            totals[account] = totals.get(account, Usage()) + usage
    return totals


def savings(results: Iterable[Result]) -> Savings | None:
    """Return what was saved against full sampling of the same plan; None when no result knows its
    full cost.

    Intervals: percentile bootstrap over problems, spent and full resampled together, from a fixed
    seed.
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
    return Savings(_saved(traces), _saved(tokens)) if traces else None


def _saved(pairs: Sequence[tuple[float, float]]) -> Estimate:
    spent, full = np.array(pairs, dtype=float).T
    value = float(1 - spent.sum() / full.sum())
    if len(set(pairs)) < 2:
        return Estimate(value, None, None, len(pairs))
    low, high = _bootstrap(
        (spent, full), lambda s, f, axis: 1 - s.sum(axis=axis) / f.sum(axis=axis)
    )
    return Estimate(value, low, high, len(pairs))


def _bootstrap(
    samples: tuple[_Floats, ...], statistic: Callable[..., object]
) -> tuple[float, float]:
    from scipy import stats  # a second to import, and only evaluation needs it

    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=_N_RESAMPLES,
        batch=max(1, 2_000_000 // len(samples[0])),  # 16 MB at a time
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def reselect(
    results: Iterable[Result], pools: Mapping[str, Sequence[Trace]], selector: Selector
) -> list[Result]:
    """Return the results that `selector` gives on the same finished pools, what was spent
    unchanged. Invalid rows stay as they are.

    The pool decides alone: a problem that failed in its strategy or in another selector is answered
    if its pool holds an answer. KeyError when a result's pool is missing.
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
    """Return the numbers of a finished job; `correctness` is `score`'s, empty without references."""
    usage = usage_by_account(results)
    valid = [r for r in results if r.status is not Status.INVALID]
    return Report(
        n_results=len(results),
        n_by_status={status.value: sum(r.status is status for r in results) for status in Status},
        n_without_reference=sum(r.problem_id not in correctness for r in valid),
        accuracy=accuracy(correctness),
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
