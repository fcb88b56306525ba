"""Evaluation of finished results and pools: accuracy, cost and savings, with intervals.

Only this module reads references, and intervals are computed here. Every number has its n,
and a 95% interval where the data allow one. The caller passes in the comparison of an answer
with a reference (`accepts`, which runs in killable processes). Everything else is a pure function
of results, pools and those comparisons. Nothing is printed.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from orchestrator.core.values import Result, Status, Trace, Usage
from orchestrator.jobs.rows import Rows
from orchestrator.jobs.rows.stored import StoredDict
from orchestrator.runtime.annotate import Annotator

CONFIDENCE = 0.95
_BATCH = 2_000_000  # numbers resampled at a time: 16 MB
_N_RESAMPLES = 9999  # scipy's default for the bootstrap
_N_BOOTSTRAPPED = 20_000  # problems; with more, the normal distribution gives the interval
_NORMAL = 1.959964  # deviations of it on each side that hold 95%
_N_COMPARED = 1000  # answers that are compared at once
Table: TypeAlias = npt.NDArray[np.float64]

# (domain, answer, reference) -> whether the answer is right; None when that was not decided
Accepts: TypeAlias = Callable[[str, str, str], Awaitable[bool | None]]
# problem id -> the right answers, any of which is right
RightAnswers: TypeAlias = Mapping[str, tuple[str, ...]]


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
class ReferenceRow:
    """The `answer` of a row as it was written; `row` is the first line of the row in its file."""

    row: int
    answer: Any


@dataclass(frozen=True, slots=True)
class UnreadableReference:
    """A reference that its domain cannot read; `expects` is what the domain expects, or ""."""

    problem_id: str
    row: int
    text: str
    domain: str
    expects: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class References:
    """The references of some problems, as their domains read them."""

    answers: RightAnswers
    unreadable: tuple[UnreadableReference, ...] = ()


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

    `accuracy` is None without references, `savings` where the full cost is unknown. References that
    cannot be read (`n_unreadable`) do not count. The answers of the problems in `undecided` could
    not be compared with a reference: they are wrong, and so are the `n_failed_scored` problems that
    failed; `accuracy_of_others` leaves these out.
    """

    n_results: int
    n_by_status: Mapping[str, int]
    n_without_reference: int
    n_unreadable: int
    undecided: tuple[str, ...]
    accuracy: Estimate | None
    n_failed_scored: int
    accuracy_of_others: Estimate | None
    usage: Mapping[str, Usage]
    total: Usage
    savings: Savings | None
    n_traces: int
    n_failed: int
    n_cancelled: int
    n_tied: int
    n_stopped_by: Mapping[str, int]
    wall_seconds: float


def reference_rows(path: str | Path) -> Mapping[str, ReferenceRow]:
    """Return the reference answers by id, from a problem file or a file of `id` and `answer`.

    Ids are those of `read_problems`. Rows without an answer and invalid rows are left out.
    """
    references = StoredDict[ReferenceRow](ReferenceRow)
    for row in Rows(path):
        answer = row.fields.get("answer")
        if not row.error and answer not in (None, "", []):
            references[row.id] = ReferenceRow(row.line, answer)
    return references.settled()


async def read_references(
    rows: Mapping[str, ReferenceRow], domains: Mapping[str, str], annotator: Annotator
) -> References:
    """Return the references of the problems in `domains` (ids to domain names), in their order.

    A list is a list of aliases, except where the domain reads lists as values. Aliases that the
    domain cannot read are left out, because no answer of this domain can equal them. A reference of
    which nothing can be read is unreadable, and so is an object in any other domain.
    """
    answers = StoredDict[tuple[str, ...]](tuple[str, ...])
    unreadable = []
    for id, name in domains.items():
        if id not in rows:
            continue
        domain = annotator.domain(name)
        texts = _texts(rows[id].answer, getattr(domain, "lists_are_values", False))
        readings = [await annotator.read_reference(name, text) for text in texts]
        known = tuple(dict.fromkeys(answer for answer, _ in readings if answer is not None))
        if known:
            answers[id] = known
        else:
            expects = getattr(domain, "expects", "")
            note = next((note for _, note in readings if note), "")
            whole = " or ".join(texts) or text_of(rows[id].answer)
            unreadable.append(UnreadableReference(id, rows[id].row, whole, name, expects, note))
    return References(answers.settled(), tuple(unreadable))


def _texts(answer: Any, lists_are_values: bool) -> list[str]:
    """Return the texts of a reference: that of each alias, or one; none of an object."""
    if isinstance(answer, dict) and not lists_are_values:
        return []
    is_nested = isinstance(answer, list) and any(isinstance(one, list | dict) for one in answer)
    is_one = lists_are_values or is_nested or not isinstance(answer, list)
    return [text_of(item) for item in ([answer] if is_one else answer) if item is not None]


def text_of(answer: Any) -> str:
    """Return a reference as text: one that is no text as JSON."""
    return answer if isinstance(answer, str) else msgspec.json.encode(answer).decode().strip('"')


async def is_right(
    domain: str, answer: str, references: Iterable[str], accepts: Accepts
) -> bool | None:
    """Return whether an answer is right by any of the references; None when not decided."""
    right: bool | None = False
    for reference in references:
        accepted = await accepts(domain, answer, reference)
        if accepted:
            return True
        right = None if accepted is None else right
    return right


async def score(
    results: Iterable[Result],
    references: RightAnswers,
    domains: Mapping[str, str],
    accepts: Accepts,
) -> Mapping[str, bool | None]:
    """Return whether each problem was answered correctly, by id, in the order of the results.

    None means that a limit was reached before this was decided; such answers count as wrong.
    Abstentions and failures are wrong. Invalid rows and problems without a reference are left out.
    `domains` maps problem ids to domain names.
    """

    async def right(result: Result) -> bool | None:
        if result.status is not Status.ANSWERED or result.answer is None:
            return False
        domain = domains[result.problem_id]
        return await is_right(domain, result.answer.text, references[result.problem_id], accepts)

    verdicts = StoredDict[bool | None](bool | None)
    counted = (r for r in results if r.status is not Status.INVALID and r.problem_id in references)
    while batch := list(itertools.islice(counted, _N_COMPARED)):
        for result, verdict in zip(batch, await asyncio.gather(*map(right, batch)), strict=True):
            verdicts[result.problem_id] = verdict
    return verdicts.settled()


async def right_keys(
    pools: Mapping[str, Sequence[Trace]],
    references: RightAnswers,
    domains: Mapping[str, str],
    accepts: Accepts,
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
        right = await asyncio.gather(
            *(is_right(domain, text, reference, accepts) for text in texts.values())
        )
        return frozenset(itertools.compress(texts, right))

    known = [problem_id for problem_id in pools if problem_id in references]
    return dict(zip(known, await asyncio.gather(*map(keys, known)), strict=True))


def share_estimate(right: Sequence[bool]) -> Estimate | None:
    """Return the share of true values with its Wilson interval; None for an empty sequence."""
    return _share_of(sum(right), len(right))


def _share_of(n_right: int, n: int) -> Estimate | None:
    from scipy import stats  # the import takes a second, and only evaluation needs it

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


class _Spending:
    """The spent and the full cost of problems, added one by one; enough of them for an interval."""

    def __init__(self) -> None:
        self._pairs: list[tuple[float, float]] = []
        self._n = 0
        self._sums = np.zeros(5)  # of spent, full, and their products

    def add(self, spent: float, full: float) -> None:
        """Add a problem."""
        self._n += 1
        self._sums += (spent, full, spent * spent, full * full, spent * full)
        if self._n <= _N_BOOTSTRAPPED:
            self._pairs.append((spent, full))

    def saved(self) -> Estimate:
        """Return the share that was saved.

        The interval is a bootstrap up to _N_BOOTSTRAPPED problems. Beyond, where the two agree, it
        is that of the normal distribution: the variance of a ratio r of means is that of
        spent - r full, over n and the squared mean of full (Cochran, Sampling Techniques, 6.4).
        """
        if self._n <= _N_BOOTSTRAPPED:
            return ratio_estimate(self._pairs, lambda used, full: 1 - used / full)
        spent, full, spent2, full2, both = self._sums / self._n
        ratio = spent / full
        variance = max(0.0, spent2 - 2 * ratio * both + ratio * ratio * full2)
        half = _NORMAL * math.sqrt(variance / self._n) / full
        value = float(1 - ratio)
        return Estimate(value, value - float(half), value + float(half), self._n)


def savings(results: Iterable[Result]) -> Savings | None:
    """Return the savings against full sampling of the same plan; None when no full cost is known.

    Intervals are over problems, with a fixed seed. Spent and full cost are resampled together.
    """
    traces, tokens, is_known = _Spending(), _Spending(), False
    for result in results:
        if result.n_planned and result.full_tokens:
            is_known = True
            n_spent = result.n_traces if result.n_attempts is None else result.n_attempts
            traces.add(n_spent, result.n_planned)
            tokens.add(sum(u.output_tokens for u in result.usage.values()), result.full_tokens)
    return Savings(traces.saved(), tokens.saved()) if is_known else None


def report(
    results: Iterable[Result],
    correctness: Mapping[str, bool | None],
    wall_seconds: float,
    unreadable: Collection[str] = (),
) -> Report:
    """Return the numbers of a finished job, with `score`'s correctness and the unreadable ids.

    `results` are taken once, one after another.
    """
    usage: dict[str, Usage] = {}
    n: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    stopped_by: Counter[str] = Counter()

    def valid() -> Iterator[Result]:
        for result in results:
            statuses[result.status.value] += 1
            for account, one in result.usage.items():
                usage[account] = usage.get(account, Usage()) + one
            if result.status is Status.INVALID:
                continue
            id, is_failed = result.problem_id, result.status is Status.FAILED
            if id in correctness:
                n["failed right" if correctness[id] else "failed wrong"] += is_failed
            else:
                n["unreadable" if id in unreadable else "unknown"] += 1
            n.update(traces=result.n_traces, failed=result.n_failed, cancelled=result.n_cancelled)
            n["tied"] += result.tied
            stopped_by.update([result.stopped_by] if result.stopped_by else [])
            yield result

    saved = savings(valid())
    right = Counter(map(bool, correctness.values()))
    others = right - Counter({True: n["failed right"], False: n["failed wrong"]})
    return Report(
        n_results=statuses.total(),
        n_by_status={status.value: statuses[status.value] for status in Status},
        n_without_reference=n["unknown"],
        n_unreadable=n["unreadable"],
        undecided=tuple(id for id, one in correctness.items() if one is None),
        accuracy=_share_of(right[True], right.total()),
        n_failed_scored=n["failed right"] + n["failed wrong"],
        accuracy_of_others=_share_of(others[True], others.total()),
        usage=usage,
        total=sum(usage.values(), Usage()),
        savings=saved,
        n_traces=n["traces"],
        n_failed=n["failed"],
        n_cancelled=n["cancelled"],
        n_tied=n["tied"],
        n_stopped_by=dict(stopped_by),
        wall_seconds=wall_seconds,
    )
