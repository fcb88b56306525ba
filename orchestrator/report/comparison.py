"""The comparison of two jobs on the problems that both answered: the paired difference.

The one rule: a problem counts only if both jobs had the same question under its id, and both have a
reference and a result. So ids that are mere positions cannot pair different questions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.errors import PlanError
from orchestrator.core.values import Result, Usage
from orchestrator.jobs.growth import plan_changes
from orchestrator.kit.prompts import question
from orchestrator.report.scored import Outcome, ScoredJob, ScoredProblem
from orchestrator.report.tags import chosen_tags, grouped, tag_values
from orchestrator.studies.estimates import Estimate, mean_estimate, share_estimate


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy and mean output tokens of two jobs over the same `n` problems.

    `accuracy` is that of the second minus that of the first, resampled over problems.
    """

    n: int
    first: Estimate
    second: Estimate
    accuracy: Estimate
    first_tokens: float
    second_tokens: float
    tokens: Estimate


@dataclass(frozen=True, slots=True)
class Change:
    """A problem that only one of two jobs answered correctly."""

    id: str
    is_gain: bool  # whether the second one did
    first: str | None
    second: str | None
    first_outcome: Outcome
    second_outcome: Outcome
    reference: str
    question: str


@dataclass(frozen=True, slots=True)
class TagDifference:
    """The difference over the problems whose tag has this value."""

    tag: str
    value: str
    difference: Difference


@dataclass(frozen=True, slots=True)
class JobComparison:
    """Two jobs compared. `changes` has losses first, then gains, in the order of the problems."""

    first: str
    second: str
    difference: Difference
    tags: tuple[TagDifference, ...]
    changes: tuple[Change, ...]
    n_both_right: int
    n_both_wrong: int
    n_other_answer: int  # both wrong, with different answers
    settings: tuple[str, ...]  # what the plans have different, as in `strategy.n: 8 -> 16`
    notes: tuple[str, ...]


def compared(first: ScoredJob, second: ScoredJob, tags: Sequence[str] = ()) -> JobComparison:
    """Return the comparison of two jobs; `tags` as in `tags.chosen_tags`.

    PlanError when they have no scored problem in common.
    """
    a, b = _by_id(first), _by_id(second)
    shared = [id for id in a if id in b]
    same = [id for id in shared if _same_question(first, second, a[id], b[id])]
    scored = set(first.correctness) & set(second.correctness)
    ids = [id for id in same if id in scored]
    if not ids:
        raise PlanError(_nothing_shared(first, second, shared, same))
    right_a, right_b = first.correctness, second.correctness
    changes = [_change(a[id], b[id]) for id in ids if right_a[id] != right_b[id]]
    both_wrong = [id for id in ids if not right_a[id] and not right_b[id]]
    results = [result for id in ids if (result := a[id].result) is not None]
    named = chosen_tags(tag_values(results), tags, len(ids))
    return JobComparison(
        str(first.directory),
        str(second.directory),
        _difference(ids, a, b, right_a, right_b),
        tuple(
            TagDifference(name, value, _difference(group, a, b, right_a, right_b))
            for name, tag in named.items()
            for value, group in grouped(tag, ids).items()
        ),
        tuple(sorted(changes, key=lambda change: change.is_gain)),
        sum(right_a[id] and right_b[id] for id in ids),
        len(both_wrong),
        sum(_key(a[id].result) != _key(b[id].result) for id in both_wrong),
        tuple(plan_changes(first.plan, second.plan)),
        tuple(_notes(first, second, shared, same, ids)),
    )


def _by_id(job: ScoredJob) -> dict[str, ScoredProblem]:
    return {p.problem.id: p for p in job.problems}


def _same_question(first: ScoredJob, second: ScoredJob, a: ScoredProblem, b: ScoredProblem) -> bool:
    """Tell whether two jobs asked the same under an id; the domain may differ."""
    id = a.problem.id
    if first.digests.get(id) == second.digests.get(id):
        return True
    return bool(a.problem.prompt) and a.problem.prompt == b.problem.prompt


def _nothing_shared(
    first: ScoredJob, second: ScoredJob, shared: Collection[str], same: Collection[str]
) -> str:
    pair = f"{first.directory} and {second.directory}"
    if not shared:
        return f"{pair} have no problem in common: no id of one is in the other"
    if not same:
        return f"{pair} have {len(shared):,} ids in common, but not one question"
    return (
        f"{pair} have {len(same):,} problems in common, but none with a result in both and a "
        "reference; give a file with the references: --problems FILE"
    )


def _notes(
    first: ScoredJob,
    second: ScoredJob,
    shared: Sequence[str],
    same: Sequence[str],
    ids: Sequence[str],
) -> list[str]:
    notes = list(dict.fromkeys((*first.notes, *second.notes)))
    for job, other in ((first, second), (second, first)):
        n = len(job.problems) - len(shared)
        if n:
            notes.append(f"{n:,} problems of {job.directory} are not in {other.directory}")
    if len(same) < len(shared):
        notes.append(f"{len(shared) - len(same):,} ids have different questions in the two jobs")
    if len(ids) < len(same):
        notes.append(
            f"{len(same) - len(ids):,} problems do not count: no result in one of the jobs, or no "
            "reference that can be read"
        )
    return notes


def _difference(
    ids: Sequence[str],
    a: Mapping[str, ScoredProblem],
    b: Mapping[str, ScoredProblem],
    right_a: Mapping[str, bool],
    right_b: Mapping[str, bool],
) -> Difference:
    first, second = ([float(right[id]) for id in ids] for right in (right_a, right_b))
    spent_a, spent_b = ([_tokens(one[id].result) for id in ids] for one in (a, b))
    share_a, share_b = (share_estimate([right[id] for id in ids]) for right in (right_a, right_b))
    assert share_a is not None
    assert share_b is not None
    return Difference(
        len(ids),
        share_a,
        share_b,
        mean_estimate([y - x for x, y in zip(first, second, strict=True)]),
        sum(spent_a) / len(ids),
        sum(spent_b) / len(ids),
        mean_estimate([y - x for x, y in zip(spent_a, spent_b, strict=True)]),
    )


def _tokens(result: Result | None) -> float:
    return float(sum(result.usage.values(), Usage()).output_tokens) if result else 0.0


def _key(result: Result | None) -> str | None:
    return result.answer.key if result and result.answer else None


def _answer(result: Result | None) -> str | None:
    return result.answer.text if result and result.answer else None


def _change(a: ScoredProblem, b: ScoredProblem) -> Change:
    return Change(
        a.problem.id,
        bool(b.right),
        _answer(a.result),
        _answer(b.result),
        a.outcome,
        b.outcome,
        " or ".join(a.accepted),
        question(a.problem.prompt or b.problem.prompt),
    )
