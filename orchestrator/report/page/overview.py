"""The first page of a job: accuracy, cost, savings, order of completion, failures, tags.

The one rule: numbers are those of `studies.evaluate.report` and `report.losses`, which the command
line prints, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.votes import scattered
from orchestrator.jobs.growth import plan_changes
from orchestrator.plan.execution import Execution, Spent
from orchestrator.plan.file import plan_toml
from orchestrator.plan.spec_syntax import spelled
from orchestrator.report.losses import LossCause, Losses, loss_causes
from orchestrator.report.page.table import ProblemRow, kind_of_error
from orchestrator.report.scored import Outcome
from orchestrator.report.tags import TagAccuracy, accuracy_by_tag
from orchestrator.studies.evaluate import Report, report

_N_STEPS = 60  # of the order of completion
_NOTHING = Spent()


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the problems in the order in which they were completed.

    `n_tokens` are those of all problems up to here; the other counts are of this part.
    """

    n_done: int
    n_tokens: int
    n_right: int
    n_wrong: int
    n_other: int
    n_failed_attempts: int
    n_dropped: int


@dataclass(frozen=True, slots=True)
class FailureKind:
    """Failures with the same error but for its numbers, and the problems in which they occurred.

    `problem` is the first of them.
    """

    text: str
    n_attempts: int
    n_problems: int
    problem: str


@dataclass(frozen=True, slots=True)
class Pruning:
    """What dropping and cancelling did to the answers, over the problems in which it happened.

    `n_errors` problems are wrong while a dropped attempt had a right answer; in `n_other` the vote
    would have another answer with the last known answers of all.
    """

    n_problems: int
    n_dropped: int
    n_cancelled: int
    n_errors: int
    n_other: int


@dataclass(frozen=True, slots=True)
class Overview:
    """The first page of a job. `settings` is its plan, `changed` what differs from the defaults.

    `n_traces` and `n_tokens` count output so far, that of problems without a result included.
    """

    name: str
    directory: str
    strategy: str
    selector: str
    models: tuple[str, ...]
    settings: str
    changed: tuple[str, ...]
    n_problems: int
    n_traces: int
    n_tokens: int
    n_by_outcome: dict[str, int]
    report: Report
    steps: tuple[Step, ...]
    failures: tuple[FailureKind, ...]
    losses: tuple[LossCause, ...]
    pruning: Pruning | None
    n_lost_to_reading: int
    n_lost_to_length: int
    n_outvoted: int
    tags: tuple[TagAccuracy, ...]
    spent: Spent
    has_depths: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobHead:
    """What the overview tells of a job beside its problems."""

    directory: Path
    plan: Plan
    spent: Spent = _NOTHING
    notes: tuple[str, ...] = ()


class Rows(Protocol):
    """The rows of problems, which need not all be in memory; they are iterated several times."""

    def __iter__(self) -> Iterator[ProblemRow]:
        """Yield the rows."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...


def overview(head: JobHead, rows: Rows, completed: Rows) -> Overview:
    """Return the first page of a job.

    `completed` are the rows of problems with traces and a result, in the order of completion.
    """
    right = {row.id: row.right for row in rows if row.is_scored}
    plan, counts = head.plan, _Counts()
    for row in rows:
        counts.add(row)
    return Overview(
        name=head.directory.name or str(head.directory),
        directory=str(head.directory),
        strategy=spelled(plan.strategy),
        selector=spelled(plan.selector),
        models=tuple(plan.models),
        settings=_settings(plan),
        # the strategy and the selector stand above, with their options
        changed=tuple(
            line
            for line in plan_changes(Plan(), plan)
            if not line.startswith(("strategy.", "selector."))
        ),
        n_problems=counts.outcomes.total(),
        n_traces=counts.n["traces"],
        n_tokens=counts.n["tokens"],
        n_by_outcome=dict(counts.outcomes),
        report=report((row.result for row in rows if row.result), right, 0.0),
        steps=tuple(_steps(completed)),
        failures=tuple(_failures(rows)),
        losses=tuple(loss_causes(counts.losses(), plan, head.directory)),
        pruning=counts.pruning(),
        n_lost_to_reading=counts.n["lost to reading"],
        n_lost_to_length=counts.n["lost to length"],
        n_outvoted=counts.n["outvoted"],
        tags=tuple(accuracy_by_tag((r.result for r in rows if r.result), right)) if right else (),
        spent=head.spent,
        has_depths=counts.n["deep"] > 0,
        notes=(*head.notes, *_waits(head.spent)),
    )


def _waits(spent: Spent) -> Iterator[str]:
    """Yield a note on replicas that had no place to run, if there were any."""
    if spent.unplaced_seconds:
        yield (
            f"replicas waited {spent.unplaced_seconds:,.0f} s for a place, over all runs; the last "
            f"reason: {spent.unplaced_reason}"
        )


class _Counts:
    """Sums over the rows of a job."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.n: Counter[str] = Counter()
        self._states: Counter[str] = Counter()

    def add(self, row: ProblemRow) -> None:
        self.outcomes[row.outcome] += 1
        self.n["traces"] += row.n_traces
        self.n["tokens"] += row.tokens
        self.n["lost to reading"] += row.lost_to_reading
        self.n["lost to length"] += row.lost_to_length
        self.n["outvoted"] += row.outvoted
        self.n["deep"] += row.depth is not None
        self.n["with drops"] += row.without_drops != ""
        self.n["other vote"] += row.without_drops == "other"
        self.n["pruning errors"] += row.pruning_error
        self.n["dropped"] += row.n_dropped
        self.n["cancelled"] += row.n_cancelled
        if row.result and row.outcome != Outcome.INVALID:  # open problems lost nothing yet
            is_scattered = scattered(row.result.clusters)
            self.n["done"] += 1
            self.n["scattered"] += is_scattered
            self.n["tied"] += row.tied and not is_scattered
            self._states.update(row.states)

    def losses(self) -> Losses:
        return Losses(self._states, self.n["done"], self.n["tied"], self.n["scattered"])

    def pruning(self) -> Pruning | None:
        names = ("with drops", "dropped", "cancelled", "pruning errors", "other vote")
        return Pruning(*(self.n[name] for name in names)) if self.n["with drops"] else None


def _settings(plan: Plan) -> str:
    try:
        return plan_toml(plan, Execution())
    except PlanError as error:  # an option of a kind that a plan file lacks
        return f"# {error}"


def _steps(completed: Rows) -> Iterator[Step]:
    size = max(1, -(-len(completed) // _N_STEPS))
    done = iter(completed)
    n_done = n_tokens = 0
    while part := list(islice(done, size)):
        n_done += len(part)
        n_tokens += sum(row.tokens for row in part)
        outcomes = Counter(row.outcome for row in part)
        n_right, n_wrong = outcomes[Outcome.RIGHT], outcomes[Outcome.WRONG]
        n_other = len(part) - n_right - n_wrong
        n_lost = sum(row.n_failed for row in part), sum(row.n_dropped for row in part)
        yield Step(n_done, n_tokens, n_right, n_wrong, n_other, *n_lost)


def _failures(rows: Rows) -> Iterator[FailureKind]:
    """Yield the kinds of failures, the most frequent first."""
    attempts: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    first: dict[str, tuple[str, str]] = {}
    for row in rows:
        errors = dict(row.errors)
        own = row.result.error if row.result else ""
        if own and not own.endswith(tuple(errors)):  # "every trace failed; the last one: ..."
            errors[own] = 0
        for error, n in errors.items():
            attempts[kind_of_error(error)] += n
            first.setdefault(kind_of_error(error), (error, row.id))
        problems.update(set(map(kind_of_error, errors)))
    for kind, _ in (attempts + problems).most_common():
        text, id = first[kind]
        yield FailureKind(text[:500], attempts[kind], problems[kind], id)
