"""The source of a job: its problem file, and how many of its rows the job answers.

The source is stored in the job's journal, so `resume` needs only the directory. The plan and its
execution are stored next to it in plan.toml, which loads like any plan file. Nothing runs here.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan, fingerprint
from orchestrator.jobs.files import make_private, sha256, write_atomically
from orchestrator.jobs.job import Job
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.rows import Rows
from orchestrator.jobs.rows.copy import COPY_FILE, Copy, write_copy
from orchestrator.jobs.rows.examples import as_kept
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import plan_toml, read_tables
from orchestrator.plan.file.sources import STANDARD_INPUT, Location
from orchestrator.plan.keys import Columns

_META = "commission"  # as version 0.1 wrote it
PLAN_FILE = "plan.toml"
FAKE = "fake"  # the engine without a model
_PLACES = ("path", "lora")  # of a model: each may be a relative path


@dataclass(frozen=True, slots=True)
class JobSource:
    """The problems of a job: `problems` is an absolute path, `sha256` that file's digest.

    `limit` is how many rows count, 0 for all; `folder` is the working directory of the command.
    `origin` is where the problems came from if `problems` is a copy of them in the job's directory.
    `override` tells whether rows of an OpenAI batch may override the plan.
    """

    problems: str
    sha256: str
    limit: int = 0
    format: str = "auto"
    folder: str = ""
    origin: str = ""
    override: bool = True


def job_source(
    problems: Path, limit: int, format: str, origin: str = "", *, override: bool = True
) -> JobSource:
    """Return the source for a problem file as it is now."""
    place = str(problems.resolve())
    return JobSource(place, sha256(problems), limit, format, os.getcwd(), origin, override)


def write_source(job: Job, plan: Plan, execution: Execution, source: JobSource) -> None:
    """Store a source and the plan in a job.

    JournalError when the write fails; PlanError as in `require_as_real`.
    """
    require_as_real(job.directory, execution.engine.name)
    text = plan_text(job.directory, plan, execution, source)
    write_atomically(job.directory / PLAN_FILE, text.encode())
    job.journal.set_meta(_META, msgspec.json.encode(source).decode())


def plan_text(directory: Path, plan: Plan, execution: Execution, source: JobSource) -> str:
    """Return what the plan file of a job contains."""
    out, kept = str(directory.resolve()), as_kept(plan)
    return plan_toml(kept, execution, problems=source.problems, out=out, override=source.override)


def require_as_real(directory: Path, engine: str) -> None:
    """Refuse the engine `fake`, which invents answers, for another one's job, and the reverse."""
    record = directory / PLAN_FILE
    if not record.is_file() or not has_begun(directory):
        return
    before = _engine_in(read_tables(record)) or engine
    if (before == FAKE) != (engine == FAKE):
        raise PlanError(
            f"{directory} was started with the engine {before!r}, and {engine!r} must not "
            f"continue it: the answers of {FAKE!r} are invented. Choose another with --out DIR"
        )


def _engine_in(tables: Mapping[str, object]) -> object:
    """Return the engine that a plan file names, in either form; None where it names none."""
    execution = tables.get("execution", tables.get("fleet"))
    engine = execution.get("engine") if isinstance(execution, dict) else None
    return engine.get("name") if isinstance(engine, dict) else engine


def read_source(directory: Path) -> JobSource | None:
    """Return a job's source; None when the job was started from Python.

    PlanError when there is no job.
    """
    if not (directory / "journal.db").is_file():
        raise PlanError(f"there is no job in {directory}: it has no journal.db")
    with Journal.for_reading(directory / "journal.db") as journal:
        text = journal.meta(_META)
    source = None if text is None else msgspec.json.decode(text, type=JobSource)
    if source is None or not source.origin or Path(source.problems).is_file():
        return source
    # the copy has moved with its directory, or with that of the study around it
    places = (directory / COPY_FILE, directory.resolve().parent / COPY_FILE)
    found = next((str(place.resolve()) for place in places if place.is_file()), source.problems)
    return replace(source, problems=found)


def has_begun(directory: Path) -> bool:
    """Tell whether a directory has a job with a trace: before its first it owns no problems."""
    if not (directory / "journal.db").is_file():
        return False
    with Journal.for_reading(directory / "journal.db") as journal:
        return journal.has_begun()


@contextmanager
def begun_problems(directory: Path) -> Iterator[Collection[str]]:
    """Yield the ids of a job's problems in their order; none before its first trace.

    They are read from the journal as they are needed, so that many take no memory.
    """
    if not has_begun(directory):
        yield ()
        return
    with Journal.for_reading(directory / "journal.db") as journal:
        yield _Begun(journal)


class _Begun(Collection[str]):
    """The ids of the problems in a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and bool(self._journal.digests_of([id]))

    def __iter__(self) -> Iterator[str]:
        return self._journal.problem_ids()

    def __len__(self) -> int:
        return self._journal.n_problems()


def fresh_directory(directory: Path) -> Path:
    """Return the first of DIR, DIR-2, DIR-3, ... in which a new job can begin."""
    if not has_begun(directory):
        return directory
    names = (f"{directory.name}-{number}" for number in itertools.count(2))
    beside = (directory.with_name(name) for name in names)
    return next(d for d in beside if not d.exists() or _has_idle_job(d))


def _has_idle_job(directory: Path) -> bool:
    return (directory / "journal.db").is_file() and not has_begun(directory)


def same_or_wider(directory: Path, source: JobSource) -> JobSource:
    """Return a source with the limit that its job had before, if that is wider.

    PlanError for the problems of another file, unless it has all of the job's too: the results of
    others would replace them.
    """
    require_same_file(directory, source)
    before = read_source(directory) if has_begun(directory) else None
    if before is None or not source.limit:
        return source
    return replace(source, limit=max(before.limit, source.limit) if before.limit else 0)


def require_same_file(directory: Path, source: JobSource) -> None:
    """Refuse problems that lack some of a job that was begun with others."""
    _require_all(directory, source, Path(source.problems))


def _require_all(directory: Path, source: JobSource, path: Path) -> None:
    """Refuse the rows of `path`, those of this source, in a job whose problems they lack."""
    before = read_source(directory) if has_begun(directory) else None
    if before is None or before.sha256 == source.sha256:
        return
    was, is_now = before.origin or before.problems, source.origin or source.problems
    if was == is_now and is_now != STANDARD_INPUT:  # which may be another file every time
        return
    with begun_problems(directory) as begun:
        n_lacking = len(begun) - sum(row.id in begun for row in Rows(path))
    if n_lacking:
        raise PlanError(
            f"{directory} was started with the problems of {_named(was)}, and {_named(is_now)} "
            f"lacks {n_lacking:,} of them; choose another with --out DIRECTORY, or add --fresh "
            "to `leadline run`"
        )


def require_same_plan(directory: Path, plan: Plan) -> None:
    """Refuse the directory of a job that was begun with another plan."""
    if not has_begun(directory):
        return
    with Journal.for_reading(directory / "journal.db") as journal:
        if journal.meta("fingerprint") != fingerprint(plan):
            raise PlanError(
                f"{directory} was started with another plan; choose another with --out DIRECTORY"
            )


def _named(origin: str) -> str:
    return "the standard input" if origin == STANDARD_INPUT else origin


def kept_copy(location: Location, columns: Columns, directory: Path, limit: int) -> Copy:
    """Return the copy of problems from elsewhere that is now in the directory of a job or study.

    It has the first `limit` rows, or as many as the job there already has; 0 is all. PlanError when
    they cannot be read, or lack problems of a job there.
    """
    rows = Rows(location, columns)
    rows.format()  # what cannot be read is an error before there is a directory
    make_private(directory)
    jobs = [path.parent for path in (directory / "journal.db", *directory.glob("*/journal.db"))]
    jobs = [job for job in jobs if has_begun(job)]
    for before in filter(None, map(read_source, jobs)):
        limit = max(limit, before.limit) if limit and before.limit else 0
    copy = write_copy(rows, directory, limit)
    source = JobSource(str(copy.path.resolve()), copy.sha256, limit, origin=str(location))
    try:
        for job in jobs:
            _require_all(job, source, copy.written)
    except PlanError:
        copy.discard()
        raise
    copy.keep()
    return copy


def require_unchanged(directory: Path, source: JobSource, plan: Plan) -> None:
    """Refuse to resume when the problem file, or a model's relative path, is not what it was.

    That is when the file is gone or changed, or the path would mean another folder.
    """
    path = Path(source.problems)
    if not path.is_file():
        raise PlanError(
            f"{directory} answers the problems of {path}, which no longer exists; "
            "put it back, or name it with: leadline run --problems FILE"
        )
    if sha256(path) != source.sha256:
        raise PlanError(
            f"{path} has changed since {directory} was started; to continue with the changed file "
            "repeat the same `leadline run` command: "
            "answered rows must have the same text, new ones are added"
        )
    places = [
        (f"models.{n}.{key}", getattr(m, key)) for n, m in plan.models.items() for key in _PLACES
    ]
    for key, place in places:
        if (
            place
            and source.folder != os.getcwd()
            and not os.path.isabs(place)
            and Path(source.folder, place).is_dir()
        ):
            raise PlanError(
                f"{key} = {place!r} is relative to {source.folder}: change to that directory first"
            )
