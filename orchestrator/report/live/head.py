"""What is the same for all problems of a job, and what its problem file has, before any is read.

The one rule: it is valid as long as the identity of the job is the same; then all begins again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem, Result
from orchestrator.jobs.finished import JobReader
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.problems import ProblemFile
from orchestrator.jobs.sessions import Explorer, load_explorer
from orchestrator.jobs.source import JobSource, read_source
from orchestrator.runtime.annotate import Annotator
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.studies.evaluate import (
    ReferenceRow,
    References,
    UnreadableReference,
    reference_rows,
)
from orchestrator.studies.summary import unreadable_notes

Identity: TypeAlias = tuple[str | None, JobSource | None]


@dataclass(slots=True)
class Head:
    """The plan of a job with what is built of it, and notes that grow as problems are read."""

    plan: Plan
    explorer: Explorer
    annotator: Annotator
    about: tuple[str, ...]  # notes on its files
    references: str  # the file that has them
    readable: set[str] = field(default_factory=set)  # problems with a reference
    unreadable: dict[str, UnreadableReference] = field(default_factory=dict)  # by problem
    damage: dict[str, str] = field(default_factory=dict)  # by problem

    def note(self, read: References) -> None:
        """Remember which references could be read."""
        self.readable.update(read.answers)
        self.unreadable.update((one.problem_id, one) for one in read.unreadable)

    def notes(self) -> tuple[str, ...]:
        """Return what the first page says of it."""
        read = References(dict.fromkeys(self.readable, ()), tuple(self.unreadable.values()))
        damage = (
            f"{len(self.damage):,} problems cannot be read in full; the first: {first}"
            if (first := next(iter(self.damage.values()), ""))
            else ""
        )
        notes = (*self.about, *unreadable_notes(read, self.references), damage)
        return tuple(filter(None, notes))


@dataclass(frozen=True, slots=True)
class Contents:
    """The rows of a job's problem file, and the problems that were opened."""

    file: ProblemFile | None
    questions: Mapping[str, Problem]
    references: Mapping[str, ReferenceRow]

    def __iter__(self) -> Iterator[tuple[str, Problem | None, ReferenceRow | None, Result | None]]:
        """Yield the id, problem and reference of each, in order, and the result of invalid rows."""
        file = self.file
        invalid = {result.problem_id: result for result in (file.invalid if file else ())}
        unopened = iter(file.problems if file else ())
        waiting: Problem | None = next(unopened, None)
        for id in dict.fromkeys([*(file.order if file else ()), *self.questions]):
            problem = self.questions.get(id)
            if waiting is not None and waiting.id == id:
                problem, waiting = problem or waiting, next(unopened, None)
            yield id, problem, self.references.get(id), invalid.get(id)


def identity_of(directory: Path, journal: Journal) -> Identity:
    """Return what is another one when the plan of a job or its problem file is."""
    return journal.meta("fingerprint"), read_source(directory)


def read_head(reader: JobReader, problems: str, workers: AnswerWorkers) -> tuple[Head, Contents]:
    """Return the head of a job, and its contents; `problems` as in `read_scored`."""
    job = reader.outline()
    own = job.source.problems if job.source else ""
    questions, notes = job.problems(*([] if Path(own).is_file() else [problems]))
    answers = problems or own
    references: Mapping[str, ReferenceRow] = {}
    if answers and (problems or Path(answers).is_file()):
        references = reference_rows(answers)
    elif answers:
        notes = (*notes, f"{answers} is gone: questions and references are unknown")
    head = Head(
        job.plan,
        load_explorer(job.plan),
        Annotator(replace(job.plan, verifiers=()), workers),
        (*notes, *filter(None, (reader.growing,))),
        answers,
    )
    return head, Contents(job.problem_file(), questions, references)
