"""What a caller gives as problems: a file, questions, rows, Problems, or one of these alone.

A text is a file when it is the path of one or looks like it: it has no space and ends in a suffix
of problem files. Any other text is a question. References are kept beside the problems, for
`accuracy`; nothing that runs reads them. Not covered: formats and rows (`orchestrator.jobs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem, Result
from orchestrator.jobs.problems import ProblemFile, Requirement, problem_from_row
from orchestrator.jobs.problems import read_problems as read_problem_file
from orchestrator.jobs.rows import is_problem_file

Row: TypeAlias = Problem | str | Mapping[str, object]
# a file, as a path or already read; one problem; or several
Problems: TypeAlias = str | Path | ProblemFile | Row | Iterable[Row]


@dataclass(frozen=True, slots=True)
class Questions:
    """Problems to run: the valid ones, and the ids of all rows in order with the invalid results.

    `path` is the file that they are from, None if there is none; `answers` has the references of
    rows that were given as mappings.
    """

    problems: Sequence[Problem]
    order: Sequence[str]
    invalid: Sequence[Result] = ()
    path: Path | None = None
    limit: int = 0
    answers: Mapping[str, Any] = field(default_factory=dict)


def read_problems(path: str | Path, plan: Plan | None = None, *, limit: int = 0) -> ProblemFile:
    """Return the problems of a local file or folder, in any format of `leadline run --problems`.

    It can be iterated over and given to `run`. Rows without a domain have that of `plan`. Only the
    first `limit` rows count, 0 for all. Invalid rows are in `invalid`, with file, line and reason;
    PlanError when the file cannot be read or no row is valid.
    """
    plan = plan or Plan()
    return read_problem_file(path, default_domain=plan.domain, domains=plan.domains, limit=limit)


def questions_of(problems: Problems, plan: Plan, require: Requirement | None = None) -> Questions:
    """Return the questions that a caller means; `require` as in `orchestrator.jobs.problems`.

    Questions without a name are named "1", "2", ... PlanError when a problem or the file is
    invalid, or two have the same id.
    """
    if isinstance(problems, Path) or (isinstance(problems, str) and is_problem_file(problems)):
        problems = read_problem_file(
            problems, default_domain=plan.domain, domains=plan.domains, require=require
        )
    if isinstance(problems, ProblemFile):
        file = problems
        return Questions(file.problems, file.order, file.invalid, file.path, file.limit)
    rows = [problems] if isinstance(problems, str | Problem | Mapping) else _rows(problems)
    by_id: dict[str, Problem] = {}
    answers = {}
    for position, row in enumerate(rows, 1):
        problem = _problem(row, position, plan)
        if problem.id in by_id:
            raise PlanError(f"two problems have the id {problem.id!r}; ids must differ")
        by_id[problem.id] = problem
        if isinstance(row, Mapping) and row.get("answer") not in (None, "", []):
            answers[problem.id] = row["answer"]
    return Questions(tuple(by_id.values()), tuple(by_id), answers=answers)


def _rows(problems: object) -> list[object]:
    if isinstance(problems, Iterable):
        return list(problems)
    raise PlanError(
        f"problems = {problems!r:.80}: they must be a file, a question, a row, a Problem or a list "
        "of these"
    )


def _problem(row: object, position: int, plan: Plan) -> Problem:
    if isinstance(row, Problem):
        return row
    if isinstance(row, str):
        if not row.strip():
            raise PlanError(f"problem {position} is an empty text")
        return Problem(str(position), row, plan.domain)
    if isinstance(row, Mapping):
        return problem_from_row(row, plan.domain, plan.domains)
    raise PlanError(
        f"problem {position} is {row!r:.80}: it must be a question, a row such as "
        "{'id': ..., 'prompt': ...} or a Problem"
    )
