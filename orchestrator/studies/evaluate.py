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
from orchestrator.jobs.rows import Format, detect_format, iter_rows
from orchestrator.runtime.annotate import Annotator
from orchestrator.studies.estimates import Estimate, saved_estimate, share_estimate

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


def reference_rows(path: str | Path) -> dict[str, ReferenceRow]:
    """Return the reference answers by id, from a problem file or a file of `id` and `answer`.

    Ids are those of `read_problems`. Rows without an answer and invalid rows are left out. A list
    of texts in a cell of a CSV file is a list.
    """
    return dict(_iter_references(Path(path)))


def reference_row(path: str | Path, id: str) -> ReferenceRow | None:
    """Return the reference answer of one problem, as in `reference_rows`; None without one."""
    return next((row for one, row in _iter_references(Path(path)) if one == id), None)


def _iter_references(path: Path) -> Iterator[tuple[str, ReferenceRow]]:
    kind = detect_format(path)
    for row in iter_rows(path, kind):
        answer = None if row.error else row.fields.get("answer")
        if answer not in (None, "", []):
            is_cell = kind is Format.CSV
            yield row.id, ReferenceRow(row.line, _list_in_cell(answer) if is_cell else answer)


def _list_in_cell(cell: str) -> str | list[str]:
    """Return the list of texts that a cell holds as JSON, or the cell (`[1, 2]` is an interval)."""
    try:
        return msgspec.json.decode(cell, type=list[str]) or cell
    except msgspec.DecodeError:
        return cell


async def read_references(
    rows: Mapping[str, ReferenceRow], domains: Mapping[str, str], annotator: Annotator
) -> References:
    """Return the references of the problems in `domains` (ids to domain names), in their order.

    A list is a list of aliases, except where the domain reads lists as values. Aliases that it
    cannot read are left out: no answer of this domain can equal them. A reference of which nothing
    can be read is unreadable, and so is an object in any other domain.
    """
    answers: dict[str, tuple[str, ...]] = {}
    unreadable = []
    for id, name in domains.items():
        if id not in rows:
            continue
        domain = annotator.domain(name)
        texts = _texts(rows[id].answer, getattr(domain, "lists_are_values", False))
        readings = [await annotator.read_reference(name, text) for text in texts]
        answers[id] = tuple(dict.fromkeys(answer for answer, _ in readings if answer is not None))
        if not answers[id]:
            del answers[id]
            expects = getattr(domain, "expects", "")
            note = next((note for _, note in readings if note), "")
            whole = " or ".join(texts) or text_of(rows[id].answer)
            unreadable.append(UnreadableReference(id, rows[id].row, whole, name, expects, note))
    return References(answers, tuple(unreadable))


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
) -> dict[str, bool | None]:
    """Return whether each problem was answered correctly, by id, in the order of the results.

    None means that a limit was reached before this was decided; such answers count as wrong.
    Abstentions and failures are wrong. Invalid rows and problems without a reference are left out.
    `domains` maps problem ids to domain names.
    """
    counted = [r for r in results if r.status is not Status.INVALID and r.problem_id in references]
    verdicts = await asyncio.gather(
        *(is_result_right(r, references, domains, accepts) for r in counted)
    )
    return {result.problem_id: verdict for result, verdict in zip(counted, verdicts, strict=True)}


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
    traces: list[tuple[float, float]] = []
    tokens: list[tuple[float, float]] = []
    for result in results:
        if result.n_planned and result.full_tokens:
            n_used = result.n_traces if result.n_attempts is None else result.n_attempts
            traces.append((n_used, result.n_planned))
            tokens.append((sum(u.output_tokens for u in result.usage.values()), result.full_tokens))
    if not traces:
        return None
    return Savings(*map(saved_estimate, (traces, tokens)))


def report(
    results: Sequence[Result],
    correctness: Mapping[str, bool | None],
    wall_seconds: float,
    unreadable: Collection[str] = (),
) -> Report:
    """Return the numbers of a finished job, with `score`'s correctness and the unreadable ids."""
    usage: dict[str, Usage] = {}
    for account, one in (item for r in results for item in r.usage.items()):
        usage[account] = usage.get(account, Usage()) + one
    valid = [r for r in results if r.status is not Status.INVALID]
    attempts: Counter[str] = Counter()
    for result in valid:
        attempts.update(result.attempts)
    failed = {r.problem_id for r in valid if r.status is Status.FAILED} & correctness.keys()
    others = [bool(right) for id, right in correctness.items() if id not in failed]
    return Report(
        n_results=len(results),
        n_by_status={status.value: sum(r.status is status for r in results) for status in Status},
        n_without_reference=sum(
            r.problem_id not in correctness and r.problem_id not in unreadable for r in valid
        ),
        n_unreadable=sum(r.problem_id in unreadable for r in valid),
        undecided=tuple(id for id, right in correctness.items() if right is None),
        accuracy=share_estimate(list(map(bool, correctness.values()))),
        n_failed_scored=len(failed),
        accuracy_of_others=share_estimate(others),
        usage=usage,
        total=sum(usage.values(), Usage()),
        savings=savings(valid),
        n_traces=sum(r.n_traces for r in valid),
        attempts=attempts,
        n_tied=sum(r.tied and not scattered(r.clusters) for r in valid),
        n_scattered=sum(scattered(r.clusters) for r in valid),
        n_stopped_by=dict(Counter(r.stopped_by for r in valid if r.stopped_by)),
        wall_seconds=wall_seconds,
    )
