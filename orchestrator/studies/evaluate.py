"""Evaluation of finished results and pools: accuracy, cost and savings.

Only this module reads references; intervals come from `orchestrator.studies.estimates`. The caller
passes in the comparison of an answer with a reference (`accepts`, which runs in killable
processes). Everything else is a pure function of results, pools and those comparisons. Nothing is
printed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from orchestrator.core.values import Result, Status, Trace, Usage
from orchestrator.core.votes import scattered
from orchestrator.jobs.rows import Rows
from orchestrator.jobs.rows.stored import StoredDict
from orchestrator.runtime.annotate import Annotator
from orchestrator.studies.estimates import Estimate, SavedShare, share_of

_N_COMPARED = 1000  # answers that are compared at once

# (domain, answer, reference) -> whether the answer is right; None when that was not decided
Accepts: TypeAlias = Callable[[str, str, str], Awaitable[bool | None]]
# problem id -> the right answers, any of which is right
RightAnswers: TypeAlias = Mapping[str, tuple[str, ...]]


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

    In `traces` each attempt counts once and in full, also a cancelled one. In `tokens` each attempt
    counts what it used, and probes and comparisons count too. Both are ratios of totals over the
    problems with a known full cost.
    """

    traces: Estimate
    tokens: Estimate


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of a finished job.

    `accuracy` is None without references, `savings` where the full cost is unknown. References that
    cannot be read (`n_unreadable`) do not count. The answers of the problems in `undecided` could
    not be compared with a reference: they are wrong, and so are the `n_failed_scored` problems that
    failed; `accuracy_of_others` leaves these out. `attempts` are by state (`core.votes`); in the
    `n_scattered` problems several attempts voted and no two agreed, in `n_tied` others the first
    two answers have the same weight.
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
    attempts: Mapping[str, int]
    n_tied: int
    n_scattered: int
    n_stopped_by: Mapping[str, int]
    wall_seconds: float


def reference_rows(path: str | Path) -> Mapping[str, ReferenceRow]:
    """Return the reference answers by id, from a problem file or a file of `id` and `answer`.

    Ids are those of `read_problems`. Rows without an answer and invalid rows are left out.
    """
    references = StoredDict[ReferenceRow](ReferenceRow)
    for id, row in _iter_references(path):
        references[id] = row
    return references.settled()


def reference_row(path: str | Path, id: str) -> ReferenceRow | None:
    """Return the reference answer of one problem, as in `reference_rows`; None without one."""
    return next((row for one, row in _iter_references(path) if one == id), None)


def _iter_references(path: str | Path) -> Iterator[tuple[str, ReferenceRow]]:
    for row in Rows(path):
        answer = None if row.error else row.fields.get("answer")
        if answer not in (None, "", []):
            yield row.id, ReferenceRow(row.line, answer)


async def read_references(
    rows: Mapping[str, ReferenceRow], domains: Mapping[str, str], annotator: Annotator
) -> References:
    """Return the references of the problems in `domains` (ids to domain names), in their order.

    A list is a list of aliases, except where the domain reads lists as values. Aliases that it
    cannot read are left out: no answer of this domain can equal them. A reference of which nothing
    can be read is unreadable, and so is an object in any other domain.
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


async def is_result_right(
    result: Result, references: RightAnswers, domains: Mapping[str, str], accepts: Accepts
) -> bool | None:
    """Return whether a result, whose problem has a reference, is right; None when not decided."""
    if result.status is not Status.ANSWERED or result.answer is None:
        return False
    id = result.problem_id
    return await is_right(domains[id], result.answer.text, references[id], accepts)


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
    verdicts = StoredDict[bool | None](bool | None)
    counted = (r for r in results if r.status is not Status.INVALID and r.problem_id in references)
    while batch := list(itertools.islice(counted, _N_COMPARED)):
        right = (is_result_right(r, references, domains, accepts) for r in batch)
        for result, verdict in zip(batch, await asyncio.gather(*right), strict=True):
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

    known = [id for id in pools if id in references]
    keys = (right_keys_of(pools[id], references[id], domains[id], accepts) for id in known)
    return dict(zip(known, await asyncio.gather(*keys), strict=True))


async def right_keys_of(
    pool: Sequence[Trace], references: Sequence[str], domain: str, accepts: Accepts
) -> frozenset[str]:
    """Return the keys of the right answers in one pool."""
    texts: dict[str, str] = {}
    for trace in sorted(pool, key=lambda t: t.ordinal):
        if trace.answer is not None:
            texts.setdefault(trace.answer.key, trace.answer.text)
    right = [await is_right(domain, text, references, accepts) for text in texts.values()]
    return frozenset(itertools.compress(texts, right))


def savings(results: Iterable[Result]) -> Savings | None:
    """Return the savings against full sampling of the same plan; None when no full cost is known.

    Intervals are a percentile bootstrap over problems; spent and full cost are resampled together.
    """
    traces, tokens, is_known = SavedShare(), SavedShare(), False
    for result in results:
        if result.n_planned and result.full_tokens:
            is_known = True
            n_used = result.n_traces if result.n_attempts is None else result.n_attempts
            traces.add(n_used, result.n_planned)
            tokens.add(sum(u.output_tokens for u in result.usage.values()), result.full_tokens)
    return Savings(traces.estimate(), tokens.estimate()) if is_known else None


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
    attempts: Counter[str] = Counter()

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
            n["traces"] += result.n_traces
            attempts.update(result.attempts)
            is_scattered = scattered(result.clusters)
            n["scattered"] += is_scattered
            n["tied"] += result.tied and not is_scattered
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
        accuracy=share_of(right[True], right.total()),
        n_failed_scored=n["failed right"] + n["failed wrong"],
        accuracy_of_others=share_of(others[True], others.total()),
        usage=usage,
        total=sum(usage.values(), Usage()),
        savings=saved,
        n_traces=n["traces"],
        attempts=attempts,
        n_tied=n["tied"],
        n_scattered=n["scattered"],
        n_stopped_by=dict(stopped_by),
        wall_seconds=wall_seconds,
    )
