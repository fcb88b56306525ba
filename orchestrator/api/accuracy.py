"""The accuracy of results or of a job directory, as `leadline eval` reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.api.results import Results
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Result
from orchestrator.jobs.finished import read_finished
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator
from orchestrator.studies.estimates import Estimate, share_estimate
from orchestrator.studies.evaluate import (
    ReferenceRow,
    read_references,
    reference_rows,
    score,
)
from orchestrator.studies.summary import compare_answers, require_readable


def accuracy(
    job: Results | str | Path, references: str | Path | Mapping[str, object] | None = None
) -> Estimate:
    """Return the share of problems that are answered rightly, with its 95% interval and its n.

    `job` is what `run` returned, or a job directory. `references` is a file with the right answers,
    or a mapping from ids to them; without it they are those of the problems that were run.
    Abstentions and failures count as wrong; problems without a reference, invalid rows and
    references that cannot be read do not count. PlanError when no problem has a reference.
    """
    answered = _of_results(job) if isinstance(job, Results) else _of_directory(Path(job))
    source = answered.references if references is None else references
    rows: Mapping[str, ReferenceRow]
    if isinstance(source, Mapping):
        rows = {
            str(id): ReferenceRow(n, answer) for n, (id, answer) in enumerate(source.items(), 1)
        }
    else:
        rows = reference_rows(str(source))
    if not any(id in rows for id in answered.domains):
        raise PlanError(
            "none of the problems has a reference answer: give a file of problems with `answer`, "
            "or accuracy(results, {ID: ANSWER})"
        )
    name = "the references" if isinstance(source, Mapping) else str(source)
    right = compare_answers(answered.plan, Execution(), lambda a: _right(answered, rows, name, a))
    estimate = share_estimate([bool(one) for one in right.values()])
    if estimate is None:
        raise PlanError("none of the problems with a reference answer has a result yet")
    return estimate


@dataclass(frozen=True, slots=True)
class _Answered:
    """Results, the domains of the problems by id, and their references or the file of these."""

    results: list[Result]
    domains: Mapping[str, str]
    plan: Plan
    references: object  # a mapping, or the path of a file


def _of_results(results: Results) -> _Answered:
    questions = results.questions
    domains = {problem.id: problem.domain for problem in questions.problems}
    references = questions.answers if questions.path is None else questions.path
    return _Answered(list(results), domains, results.plan, references)


def _of_directory(directory: Path) -> _Answered:
    job = read_finished(directory)
    references = job.source.problems if job.source else {}
    return _Answered(job.results_in_order(), job.domains(), job.plan, references)


async def _right(
    answered: _Answered, rows: Mapping[str, ReferenceRow], name: str, annotator: Annotator
) -> Mapping[str, bool | None]:
    read = await read_references(rows, answered.domains, annotator)
    answers = require_readable(read, name).answers
    return await score(answered.results, answers, answered.domains, annotator.accepts)
