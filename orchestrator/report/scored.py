"""A finished job joined with its references: each problem's outcome and each attempt's state.

The one rule: an outcome agrees with the accuracy that `leadline eval` reports, because both come
from `studies.summary`. Everything is read at once and nothing is written. Not covered: rows
(`rows`), files (`export`) and display.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from orchestrator.core.errors import PlanError
from orchestrator.core.lineage import lineage, whole
from orchestrator.core.plan import Plan
from orchestrator.core.values import Finish, Problem, Result, Status, Trace, Usage, changed
from orchestrator.core.votes import VOTING
from orchestrator.jobs.finished import FinishedJob, read_finished
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator
from orchestrator.studies.evaluate import (
    ReferenceRow,
    References,
    read_references,
    reference_rows,
    right_keys,
    score,
    text_of,
)
from orchestrator.studies.summary import compare_answers, unreadable_notes

_Scores: TypeAlias = tuple[References, Mapping[str, bool | None], Mapping[str, frozenset[str]]]


class Outcome(StrEnum):
    """How a problem came out."""

    RIGHT = "right"
    WRONG = "wrong"  # answered, and the answer is none of the references
    UNDECIDED = "undecided"  # a limit was reached while comparing; counts as wrong
    ANSWERED = "answered"  # without a reference that can be read
    ABSTAINED = "abstained"
    FAILED = "failed"
    INVALID = "invalid"
    OPEN = "open"  # no result yet


class AttemptState(StrEnum):
    """What became of an attempt."""

    VOTED = "voted"
    UNUSED = (
        "unused"  # it has an answer and no vote: the selector gave it none, or it is still open
    )
    ABSTAINED = "abstained"  # it came to its end without an answer
    CUT_OFF = "cut off"  # by length or a stop rule, before it gave an answer
    CANCELLED = "cancelled"
    DROPPED = "dropped"  # its strategy took its vote away
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a problem: its last trace with the text of its whole lineage.

    `right` is None without an answer or without a reference. `usage` is that of the lineage, whose
    ordinals are in `traces`. `is_as_generated`: nothing was forced into its text, and its question
    was the problem's own.
    """

    trace: Trace
    state: AttemptState
    right: bool | None
    traces: tuple[int, ...]
    usage: Usage
    is_as_generated: bool


@dataclass(frozen=True, slots=True)
class ScoredProblem:
    """One problem with its result, reference and attempts.

    `problem.prompt` is "" where the problem file no longer has the text that the job answered.
    `reference` is as its row has it, `accepted` as its domain reads it. `right` is None where the
    answer could not be scored. `pool` has the traces as they arrived.
    """

    problem: Problem
    result: Result | None
    outcome: Outcome
    reference: str | None
    accepted: tuple[str, ...]
    right: bool | None
    attempts: tuple[Attempt, ...]
    pool: Sequence[Trace]

    @property
    def others(self) -> list[Trace]:
        """The traces that belong to no attempt, such as probes and verdicts, by ordinal."""
        return other_traces(self.pool)

    @property
    def is_tied(self) -> bool:
        """Whether the first two answers have the same weight."""
        return self.result is not None and self.result.tied

    @property
    def has_dropped(self) -> bool:
        """Whether an attempt lost its vote because it was dropped."""
        return any(a.state is AttemptState.DROPPED for a in self.attempts)


@dataclass(frozen=True, slots=True)
class ScoredJob:
    """The problems of a job, in the order of its file; `notes` tell what could not be used."""

    directory: Path
    plan: Plan
    problems: tuple[ScoredProblem, ...]
    digests: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def correctness(self) -> dict[str, bool]:
        """Whether each problem with a result and a reference is right, as `eval` counts it."""
        return {
            p.problem.id: bool(p.right)
            for p in self.problems
            if p.accepted and p.outcome not in (Outcome.INVALID, Outcome.OPEN)
        }


def read_scored(
    directory: str | Path, problems: str | Path = "", *, only: str | None = None
) -> ScoredJob:
    """Return a job with its outcomes; `problems` is a file with the references, if not the job's.

    With `only`, the id of a problem, no other problem is scored. PlanError when there is no job,
    or `problems` cannot be read.
    """
    job = read_finished(Path(directory))
    own = job.source.problems if job.source else ""
    questions, notes = job.problems(*([] if Path(own).is_file() else [str(problems)]))
    file = job.problem_file()
    for problem in file.problems if file else ():  # not opened yet
        questions.setdefault(problem.id, problem)
    answers = str(problems) or own
    rows: Mapping[str, ReferenceRow] = {}
    if problems or (answers and Path(answers).is_file()):
        rows = reference_rows(answers)
    elif answers:
        notes = (*notes, f"{answers} is gone: questions and references are unknown")
    asked = [id for id in questions if only in (None, id)]
    read, right, keys = _scores(job, {id: questions[id].domain for id in asked}, rows)
    notes = (*notes, *unreadable_notes(read, answers), *([job.damage] if job.damage else []))
    results = {r.problem_id: r for r in job.results_in_order()}
    scored = tuple(
        _scored_problem(
            questions.get(id, Problem(id, "", job.plan.domain)),
            results.get(id),
            job.arrivals(id),
            rows.get(id),
            read.answers.get(id, ()),
            right.get(id),
            keys.get(id),
        )
        for id in dict.fromkeys([*(file.order if file else ()), *results, *questions])
    )
    return ScoredJob(job.directory, job.plan, scored, job.digests, notes)


def _scores(
    job: FinishedJob, domains: Mapping[str, str], rows: Mapping[str, ReferenceRow]
) -> _Scores:
    """Return the references of the problems in `domains`, which of their results are right, and the
    keys of the right answers in their pools.
    """
    if not rows:
        return References({}), {}, {}

    async def scores(annotator: Annotator) -> _Scores:
        read = await read_references(rows, domains, annotator)
        right = await score(job.results.values(), read.answers, domains, annotator.accepts)
        pools = {id: job.arrivals(id) for id in read.answers}
        keys = await right_keys(pools, read.answers, domains, annotator.accepts)
        return read, right, keys

    return compare_answers(job.plan, Execution(), scores)


def _scored_problem(
    problem: Problem,
    result: Result | None,
    pool: Sequence[Trace],
    row: ReferenceRow | None,
    accepted: tuple[str, ...],
    right: bool | None,
    keys: frozenset[str] | None,
) -> ScoredProblem:
    return ScoredProblem(
        problem,
        result,
        _outcome(result, right, bool(accepted)),
        None if row is None else text_of(row.answer),
        accepted,
        right,
        tuple(attempts_in(pool, result, keys)),
        pool,
    )


def _outcome(result: Result | None, right: bool | None, has_reference: bool) -> Outcome:
    if result is None:
        return Outcome.OPEN
    if result.status is not Status.ANSWERED or not has_reference:
        return Outcome(result.status.value)
    if right is None:
        return Outcome.UNDECIDED
    return Outcome.RIGHT if right else Outcome.WRONG


def other_traces(pool: Sequence[Trace]) -> list[Trace]:
    """Return the traces in a pool that belong to no attempt, by ordinal."""
    return sorted((t for t in pool if t.purpose not in VOTING), key=lambda t: t.ordinal)


def attempts_in(
    pool: Sequence[Trace], result: Result | None, right: frozenset[str] | None = None
) -> Iterator[Attempt]:
    """Yield the attempts in a pool, as it arrived, by the ordinal of their last trace.

    `right` has the keys of the right answers, None if they are unknown.
    """
    by_ordinal = {trace.ordinal: trace for trace in pool}
    continued = {trace.parent for trace in pool if trace.purpose in VOTING}
    votes = {o for cluster in result.clusters for o in cluster.ordinals} if result else set()
    dropped = result.dropped if result else {}
    for end in sorted(pool, key=lambda trace: trace.ordinal):
        if end.purpose not in VOTING or end.ordinal in continued:
            continue
        links = lineage(end, by_ordinal)
        ordinals = tuple(link.ordinal for link in links)
        # A continuation that was lost leaves the vote to the trace that it continues.
        voter = next((link for link in reversed(links) if link.ordinal in votes), end)
        answer = end.answer or voter.answer
        yield Attempt(
            trace=changed(whole(links), answer=answer),
            state=_state(end, bool(answer), voter.ordinal in votes, bool({*ordinals} & {*dropped})),
            right=None if answer is None or right is None else answer.key in right,
            traces=ordinals,
            usage=sum((link.usage for link in links), Usage()),
            is_as_generated=not any(link.suffix_ids or link.subjects for link in links),
        )


def _state(end: Trace, has_answer: bool, voted: bool, is_dropped: bool) -> AttemptState:
    if is_dropped:
        return AttemptState.DROPPED
    if voted:
        return AttemptState.VOTED
    if end.lost:
        failed = end.finish is Finish.FAILED
        return AttemptState.FAILED if failed else AttemptState.CANCELLED
    if has_answer:
        return AttemptState.UNUSED
    return AttemptState.ABSTAINED if end.finish is Finish.STOP else AttemptState.CUT_OFF


def problem_named(job: ScoredJob, id: str) -> ScoredProblem:
    """Return the problem with this id; PlanError, naming similar ids, when there is none."""
    by_id = {p.problem.id: p for p in job.problems}
    if id in by_id:
        return by_id[id]
    close = get_close_matches(id, by_id, n=3) or list(by_id)[:3]
    raise PlanError(
        f"{job.directory} has no problem {id!r}; it has {len(by_id):,} problems, "
        f"such as {', '.join(map(repr, close))}"
    )
