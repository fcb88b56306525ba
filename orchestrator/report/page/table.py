"""The table of a job's problems as columns, so that a page can filter and sort ten thousand rows.

The one rule: a column has a value for each problem, in the order of the problem file; None where
there is none. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import msgspec

from orchestrator.core.values import Result, Trace, Usage
from orchestrator.core.votes import AttemptState, usage_by_account
from orchestrator.jobs.sessions import Explorer
from orchestrator.kit.prompts import question
from orchestrator.report.page.problem import without_drops
from orchestrator.report.scored import Outcome, ScoredProblem
from orchestrator.report.tags import tag_values

_N_SHOWN = 120  # characters of a question or an answer
MOST_TAGS = 8
_NOT_RIGHT = (Outcome.WRONG, Outcome.ABSTAINED)


@dataclass(frozen=True, slots=True)
class ProblemTable:
    """A column for each field of a problem.

    `agreement` is the leading answer's share of the attempts. `n_unread` attempts came to their own
    end without an answer that could be read, `n_cut_off` were cut before one; `lost_to_reading` and
    `lost_to_length` if there are some and the problem is not right. `depth` is the mean over its
    attempts. `without_drops` is "same" or "other": the vote if nothing had been dropped or
    cancelled; "" without drops. `pruning_error`: a dropped attempt had a right answer, and the vote
    is wrong. `outvoted`: a right answer had votes, and the vote is wrong. `tags` are by name.
    """

    id: tuple[str, ...]
    outcome: tuple[str, ...]
    question: tuple[str, ...]
    answer: tuple[str | None, ...]
    reference: tuple[str | None, ...]
    tokens: tuple[int, ...]
    attempts: tuple[int, ...]
    n_right: tuple[int | None, ...]
    agreement: tuple[float | None, ...]
    depth: tuple[float | None, ...]
    n_dropped: tuple[int, ...]
    n_cancelled: tuple[int, ...]
    n_failed: tuple[int, ...]
    n_unread: tuple[int, ...]
    n_cut_off: tuple[int, ...]
    seconds: tuple[float, ...]
    tied: tuple[bool, ...]
    lost_to_reading: tuple[bool, ...]
    lost_to_length: tuple[bool, ...]
    without_drops: tuple[str, ...]
    pruning_error: tuple[bool, ...]
    outvoted: tuple[bool, ...]
    tags: Mapping[str, tuple[str | None, ...]]


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """What the table and the overview need of one problem; its columns are as in `ProblemTable`.

    `right` is None where the answer could not be scored, `is_scored` whether it has a result and a
    reference. `n_traces` and `tokens` are those so far where there is no result yet. `states`
    counts attempts; `errors` has the first error of each kind among its traces,
    with their number.
    """

    id: str
    outcome: str
    question: str
    answer: str | None
    reference: str | None
    tokens: int
    attempts: int
    n_right: int | None
    agreement: float | None
    depth: float | None
    n_dropped: int
    n_cancelled: int
    n_failed: int
    n_unread: int
    n_cut_off: int
    seconds: float
    tied: bool
    lost_to_reading: bool
    lost_to_length: bool
    without_drops: str
    pruning_error: bool
    outvoted: bool
    right: bool | None
    is_scored: bool
    n_traces: int
    states: Mapping[str, int]
    errors: tuple[tuple[str, int], ...]
    result: Result | None


def problem_table(rows: Sequence[ProblemRow]) -> ProblemTable:
    """Return the table of a job."""
    names = [field.name for field in fields(ProblemTable)][:-1]
    columns = {name: tuple(getattr(row, name) for row in rows) for name in names}
    tags = tag_values(row.result for row in rows if row.result)
    kept = sorted(tags, key=lambda name: len(set(tags[name].values())))[:MOST_TAGS]
    by_name = {name: tuple(tags[name].get(row.id) for row in rows) for name in kept}
    return msgspec.convert({**columns, "tags": by_name}, ProblemTable)


def problem_row(problem: ScoredProblem, explorer: Explorer) -> ProblemRow:
    """Return a problem's row."""
    result, attempts = problem.result, problem.attempts
    usage = result.usage if result else usage_by_account(problem.pool)
    states = Counter(a.state for a in attempts)
    n_unread, n_cut_off = states[AttemptState.ABSTAINED], states[AttemptState.CUT_OFF]
    is_wrong, is_lost = problem.outcome is Outcome.WRONG, problem.outcome in _NOT_RIGHT
    dropped_right = any(a.right for a in attempts if a.state is AttemptState.DROPPED)
    first = result.clusters[0] if result and result.clusters else None
    return ProblemRow(
        id=problem.problem.id,
        outcome=problem.outcome.value,
        question=short(
            result.error if result and result.error else question(problem.problem.prompt)
        ),
        answer=short(result.answer.text) if result and result.answer else None,
        reference=short(problem.reference) if problem.reference is not None else None,
        tokens=sum(usage.values(), Usage()).output_tokens,
        attempts=len(attempts),
        n_right=sum(bool(a.right) for a in attempts) if problem.accepted else None,
        agreement=round(first.count / len(attempts), 4) if first and attempts else None,
        depth=mean_depth([a.trace for a in attempts]),
        n_dropped=states[AttemptState.DROPPED],
        n_cancelled=states[AttemptState.CANCELLED],
        n_failed=states[AttemptState.FAILED],
        n_unread=n_unread,
        n_cut_off=n_cut_off,
        seconds=round(result.seconds, 2) if result else 0.0,
        tied=problem.is_tied,
        lost_to_reading=is_lost and n_unread > 0,
        lost_to_length=is_lost and n_cut_off > 0,
        without_drops=_without_drops(problem, explorer),
        pruning_error=dropped_right and is_wrong,
        outvoted=is_wrong and any(a.right for a in attempts if a.state is AttemptState.VOTED),
        right=problem.right,
        is_scored=bool(problem.accepted and result),
        n_traces=result.n_traces if result else len(problem.pool),
        states={state.value: n for state, n in states.items()},
        errors=_errors(problem.pool),
        result=result,
    )


def _errors(pool: Sequence[Trace]) -> tuple[tuple[str, int], ...]:
    errors = [trace.error for trace in pool if trace.error]
    kinds = Counter(map(kind_of_error, errors))
    first = {kind_of_error(error): error for error in reversed(errors)}
    return tuple((first[kind], n) for kind, n in kinds.items())


def kind_of_error(error: str) -> str:
    """Return an error without its numbers, which tell its occurrences apart."""
    return re.sub(r"\d+", "0", error)[:200]


def _without_drops(problem: ScoredProblem, explorer: Explorer) -> str:
    other = without_drops(problem, explorer)
    return "" if other is None else "other" if other.changed else "same"


def mean_depth(traces: Sequence[Trace]) -> float | None:
    """Return the mean latent depth: measured where it was recorded, else as requested."""
    depths = [t.metrics.get("mean_depth", t.depth) for t in traces]
    known = [float(depth) for depth in depths if depth is not None]
    return round(sum(known) / len(known), 3) if known else None


def short(text: str) -> str:
    """Return a text in one line of at most 120 characters."""
    line = " ".join(text[: 4 * _N_SHOWN].split())
    return line if len(line) <= _N_SHOWN else f"{line[: _N_SHOWN - 1]}…"
