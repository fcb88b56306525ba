"""A finished job joined with its references: each problem's outcome and each attempt's state.

The one rule: an outcome agrees with the accuracy that `leadline eval` reports, because both come
from `studies.summary`. Everything is read at once and nothing is written. Not covered: rows
(`rows`), files (`export`) and display.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

from orchestrator.core.errors import PlanError
from orchestrator.core.lineage import whole
from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem, Result, Status, Trace, Usage, changed
from orchestrator.core.votes import VOTING, AttemptState, attempts_in, scattered
from orchestrator.jobs.finished import job_reader, read_finished, read_problem
from orchestrator.jobs.rows import Rows
from orchestrator.plan.execution import Execution
from orchestrator.report.losses import Losses
from orchestrator.runtime.annotate import Annotator
from orchestrator.studies.evaluate import (
    ReferenceRow,
    References,
    read_references,
    reference_row,
    reference_rows,
    right_keys,
    score,
    text_of,
)
from orchestrator.studies.summary import compare_answers, unreadable_notes


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
    answer could not be scored. `pool` has the traces as they arrived. `note` names what
    could not be read of it.
    """

    problem: Problem
    result: Result | None
    outcome: Outcome
    reference: str | None
    accepted: tuple[str, ...]
    right: bool | None
    attempts: tuple[Attempt, ...]
    pool: Sequence[Trace]
    note: str = ""

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
    def losses(self) -> Losses:
        """The counts from which causes of lost accuracy are named; open problems do not count."""
        done = [p for p in self.problems if p.result and p.outcome is not Outcome.INVALID]
        n_scattered = sum(scattered(p.result.clusters) for p in done if p.result)
        n_tied = sum(p.is_tied for p in done) - n_scattered
        attempts = Counter(a.state.value for p in done for a in p.attempts)
        return Losses(attempts, len(done), n_tied, n_scattered)

    @property
    def correctness(self) -> dict[str, bool]:
        """Whether each problem with a result and a reference is right, as `eval` counts it."""
        return {
            p.problem.id: bool(p.right)
            for p in self.problems
            if p.accepted and p.outcome not in (Outcome.INVALID, Outcome.OPEN)
        }


def read_scored(directory: str | Path, problems: str | Path = "") -> ScoredJob:
    """Return a job with its outcomes; `problems` is a file with the references, if not the job's.

    PlanError when there is no job, or `problems` cannot be read.
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
    results = {r.problem_id: r for r in job.results_in_order()}
    pools = {id: job.arrivals(id) for id in job.digests}
    ids = dict.fromkeys([*(file.order if file else ()), *results, *questions])
    parts = Parts(job.plan.domain, list(ids), questions, results, pools, rows)
    read, scored = compare_answers(job.plan, Execution(), lambda a: scored_problems(parts, a))
    notes = (*notes, *unreadable_notes(read, answers), *filter(None, (job.damage, job.growing)))
    return ScoredJob(job.directory, job.plan, scored, job.digests, notes)


def read_scored_problem(directory: str | Path, id: str, problems: str | Path = "") -> ScoredProblem:
    """Return one problem of a job with its outcome; nothing of the others is read.

    PlanError when there is no such job, or no such problem (with similar ids).
    """
    job = read_problem(Path(directory), id)
    own = job.source.problems if job.source else ""
    known = job.question(id, "" if Path(own).is_file() else str(problems))
    if known is None:
        raise PlanError(_no_problem(Path(directory), id, own))
    answers = str(problems) or own
    row = reference_row(answers, id) if problems or Path(answers).is_file() else None
    problem = known if isinstance(known, Problem) else Problem(id, "", job.plan.domain)
    result = job.results.get(id) if isinstance(known, Problem) else known
    results, rows = {id: result} if result else {}, {id: row} if row else {}
    parts = Parts(job.plan.domain, [id], {id: problem}, results, {id: job.arrivals(id)}, rows)
    _, [one] = compare_answers(job.plan, Execution(), lambda a: scored_problems(parts, a))
    return replace(one, note=f"not all of it can be read: {job.damage}" if job.damage else "")


def _no_problem(directory: Path, id: str, own: str) -> str:
    with job_reader(directory) as reader:
        ids = list(reader.digests)
    if Path(own).is_file():
        ids = list(dict.fromkeys([*(row.id for row in Rows(own)), *ids]))
    close = get_close_matches(id, ids, n=3) or ids[:3]
    such = f", such as {', '.join(map(repr, close))}" if close else ""
    return f"{directory} has no problem {id!r}; it has {len(ids):,} problems{such}"


@dataclass(frozen=True, slots=True)
class Parts:
    """What problems are scored from, by id: `ids` are theirs, in order.

    `questions` lacks those whose rows are invalid. Pools are as they arrived. `domain` is the
    plan's.
    """

    domain: str
    ids: Sequence[str]
    questions: Mapping[str, Problem]
    results: Mapping[str, Result]
    pools: Mapping[str, Sequence[Trace]]
    rows: Mapping[str, ReferenceRow]


async def scored_problems(
    parts: Parts, annotator: Annotator
) -> tuple[References, tuple[ScoredProblem, ...]]:
    """Return problems with their outcomes, in order, and the references as their domains read them.

    The annotator is that of the job's plan.
    """
    domains = {id: one.domain for id, one in parts.questions.items()}
    read = await read_references(parts.rows, domains, annotator)
    right = await score(parts.results.values(), read.answers, domains, annotator.accepts)
    pools = {id: parts.pools.get(id, ()) for id in read.answers}
    keys = await right_keys(pools, read.answers, domains, annotator.accepts)
    return read, tuple(
        _scored_problem(
            parts.questions.get(id, Problem(id, "", parts.domain)),
            parts.results.get(id),
            parts.pools.get(id, ()),
            parts.rows.get(id),
            read.answers.get(id, ()),
            right.get(id),
            keys.get(id),
        )
        for id in parts.ids
    )


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
        tuple(attempts_of(pool, result, keys)),
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


def attempts_of(
    pool: Sequence[Trace], result: Result | None, right: frozenset[str] | None = None
) -> Iterator[Attempt]:
    """Yield the attempts in a pool, as it arrived, by the ordinal of their last trace.

    `right` has the keys of the right answers, None if they are unknown.
    """
    clusters, dropped = (result.clusters, result.dropped) if result else ((), {})
    for attempt in attempts_in(pool, clusters, dropped):
        links = attempt.links
        answer = attempt.end.answer or attempt.voter.answer
        yield Attempt(
            trace=changed(whole(links), answer=answer),
            state=attempt.state,
            right=None if answer is None or right is None else answer.key in right,
            traces=tuple(link.ordinal for link in links),
            usage=sum((link.usage for link in links), Usage()),
            is_as_generated=not any(link.suffix_ids or link.subjects for link in links),
        )
