"""What a caller gives as problems: a file, questions, rows, Problems, or one of these alone.

A text is a file when it is the path of one or looks like it: it has no space and ends in a suffix
of problem files. An address, a folder, a pattern of files, standard input ("-") and a file whose
columns are mapped are read once. Any other text is a question. References are kept beside the
problems, for `accuracy`; nothing that runs reads them. Not covered: formats and rows
(`orchestrator.jobs`), recipes (`api.run`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem, Result
from orchestrator.jobs.openai_batch import pools_of_rows
from orchestrator.jobs.problems import ProblemFile, problem_from_row
from orchestrator.jobs.problems import read_problems as read_problem_file
from orchestrator.jobs.rows import Row as FileRow
from orchestrator.jobs.rows import Rows, has_problem_suffix, is_problem_file, row_from
from orchestrator.jobs.rows.columns import Mapper
from orchestrator.jobs.rows.copy import write_copy
from orchestrator.plan.check import RowRequirement
from orchestrator.plan.file.sources import QUERY, STANDARD_INPUT, is_uri
from orchestrator.plan.keys import Columns

_PLAIN = Columns()
Row: TypeAlias = Problem | str | Mapping[str, object]
# a file, as a path or already read; one problem; or several
Problems: TypeAlias = str | Path | ProblemFile | Row | Iterable[Row]


@dataclass(frozen=True, slots=True)
class Questions:
    """Problems to run: the valid ones, and the ids of all rows in order with the invalid results.

    `path` is the file that they are from, None if there is none; `answers` has the references of
    rows that were given as mappings. `override` as in `ProblemFile`.
    """

    problems: Sequence[Problem]
    order: Sequence[str]
    invalid: Sequence[Result] = ()
    path: Path | None = None
    limit: int = 0
    override: bool = True
    answers: Mapping[str, Any] = field(default_factory=dict)


def read_problems(path: str | Path, plan: Plan | None = None, *, limit: int = 0) -> ProblemFile:
    """Return the problems of a local file or folder, in any format of `leadline run --problems`.

    It can be iterated over and given to `run`. Rows without a domain have that of `plan`. Only the
    first `limit` rows count, 0 for all. Invalid rows are in `invalid`, with file, line and reason;
    PlanError when the file cannot be read or no row is valid.
    """
    plan = plan or Plan()
    return read_problem_file(
        path,
        default_domain=plan.domain,
        domains=plan.domains,
        limit=limit,
        pools=pools_of_rows(plan.models),
    )


def questions_of(
    problems: Problems,
    plan: Plan,
    require: RowRequirement | None = None,
    *,
    override: bool = True,
    columns: Columns = _PLAIN,
) -> Questions:
    """Return the questions that a caller means.

    `require` and `override` are those of `orchestrator.jobs.problems`, for a file that is read;
    `columns` map the columns of files and of rows.

    Questions without a name are named "1", "2", ... PlanError when a problem or the file is
    invalid, or two have the same id.
    """
    if isinstance(problems, str | Path) and is_location(problems):
        if columns != _PLAIN or _is_elsewhere(problems):
            return _copied(problems, plan, require, override, columns)
        problems = read_problem_file(
            problems,
            default_domain=plan.domain,
            domains=plan.domains,
            require=require,
            override=override,
            pools=pools_of_rows(plan.models),
        )
    if isinstance(problems, ProblemFile):
        file = problems
        parts = (file.problems, file.order, file.invalid, file.path, file.limit)
        return Questions(*parts, override=file.override)
    rows = [problems] if isinstance(problems, str | Problem | Mapping) else _rows(problems)
    return _given(rows, plan, require, columns)


def is_location(problems: object) -> bool:
    """Tell whether a text or path says where problems are, and is no question."""
    if isinstance(problems, Path):
        return True
    return isinstance(problems, str) and (is_problem_file(problems) or _is_elsewhere(problems))


def _is_elsewhere(place: str | Path) -> bool:
    """Tell whether a place is none of one file: standard input, an address, a folder, a pattern."""
    if is_uri(place) or place == STANDARD_INPUT:
        return True
    text = str(place)
    if isinstance(place, str) and any(map(str.isspace, text)):
        return False
    try:
        is_pattern = has_magic(text) and has_problem_suffix(text) and not Path(text).exists()
        return is_pattern or Path(text).is_dir() or Path(QUERY.sub("", text)).is_dir()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def _copied(
    place: str | Path, plan: Plan, require: RowRequirement | None, override: bool, columns: Columns
) -> Questions:
    """Return the questions at a place that is read once, with their references."""
    with TemporaryDirectory(prefix="leadline-") as folder:
        copy = write_copy(Rows(place, columns), Path(folder))
        copy.keep()
        file = read_problem_file(
            copy.path,
            default_domain=plan.domain,
            domains=plan.domains,
            require=require,
            override=override,
            pools=pools_of_rows(plan.models),
        )
        answers = {
            row.id: row.fields["answer"] for row in Rows(copy.path) if _has_answer(row.fields)
        }
    return Questions(file.problems, file.order, file.invalid, answers=answers)


def _given(
    rows: Sequence[object], plan: Plan, require: RowRequirement | None, columns: Columns
) -> Questions:
    """Return the questions of values in memory."""
    mapper = Mapper(columns, "the rows")
    by_id: dict[str, Problem] = {}
    answers = {}
    for position, given in enumerate(rows, 1):
        row = row_from(given, mapper) if isinstance(given, Mapping) else given
        problem = _problem(row, position, plan, require)
        if problem.id in by_id:
            raise PlanError(f"two problems have the id {problem.id!r}; ids must differ")
        by_id[problem.id] = problem
        if isinstance(row, FileRow) and _has_answer(row.fields):
            answers[problem.id] = row.fields["answer"]
    mapper.finish()
    return Questions(tuple(by_id.values()), tuple(by_id), answers=answers)


def _has_answer(fields: Mapping[str, Any]) -> bool:
    """Tell whether a row has a reference answer."""
    return fields.get("answer") not in (None, "", [])


def _rows(problems: object) -> list[object]:
    if isinstance(problems, Iterable):
        return list(problems)
    raise PlanError(
        f"problems = {problems!r:.80}: they must be a file, a question, a row, a Problem or a list "
        "of these"
    )


def _problem(row: object, position: int, plan: Plan, require: RowRequirement | None) -> Problem:
    if isinstance(row, Problem):
        return row
    if isinstance(row, str):
        if not row.strip():
            raise PlanError(f"problem {position} is an empty text")
        return Problem(str(position), row, plan.domain)
    if isinstance(row, FileRow):
        return problem_from_row(row, plan.domain, plan.domains, require)
    raise PlanError(
        f"problem {position} is {row!r:.80}: it must be a question, a row such as "
        "{'id': ..., 'prompt': ...} or a Problem"
    )
