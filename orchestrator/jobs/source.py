"""What a job was asked to do: which problem file, how much of it, from where. Kept in the job's
journal, so that `resume` needs no more.

The plan itself, with its fleet, is kept beside it as plan.toml, which loads like any plan file.
This file runs nothing.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.jobs.job import Job, write_atomically
from orchestrator.jobs.journal import Journal
from orchestrator.plan.file import plan_toml
from orchestrator.plan.execution import Execution

_META = "commission"
PLAN_FILE = "plan.toml"


@dataclass(frozen=True, slots=True)
class JobSource:
    """`problems` is an absolute path and `sha256` its content's; `limit` 0 is all rows; `folder` is
    where the command was given.
    """

    problems: str
    sha256: str
    limit: int = 0
    format: str = "auto"
    folder: str = ""


def commission(problems: Path, limit: int, format: str) -> JobSource:
    """Return the commission for a problem file as it is now."""
    return JobSource(str(problems.resolve()), _sha256(problems), limit, format, os.getcwd())


def record(job: Job, plan: Plan, execution: Execution, asked: JobSource) -> None:
    """Keep a commission in a job, and its plan beside it. JournalError when the disk refuses."""
    text = plan_toml(plan, execution, problems=asked.problems, out=str(job.directory.resolve()))
    write_atomically(job.directory / PLAN_FILE, text.encode())
    job.journal.set_meta(_META, msgspec.json.encode(asked).decode())


def recorded(directory: Path) -> JobSource | None:
    """Return a job's commission; None when it was begun from Python.

    PlanError when there is no job.
    """
    if not (directory / "journal.db").is_file():
        raise PlanError(f"there is no job in {directory}: it has no journal.db")
    journal = Journal(directory / "journal.db")
    try:
        text = journal.meta(_META)
    finally:
        journal.close()
    return None if text is None else msgspec.json.decode(text, type=JobSource)


def require_same_file(directory: Path, asked: JobSource) -> None:
    """Refuse to begin another problem file in a job's directory, where its results would take the
    place of the first one's.
    """
    if not (directory / "journal.db").is_file():
        return
    before = recorded(directory)
    if before is not None and before.problems != asked.problems and before.sha256 != asked.sha256:
        raise PlanError(
            f"{directory} was begun with the problems of {before.problems}; for {asked.problems} choose another with --out DIRECTORY"
        )


def require_unchanged(directory: Path, asked: JobSource, plan: Plan) -> None:
    """Refuse to resume when the problem file is gone or changed, or when a model's relative path
    would mean another folder.
    """
    path = Path(asked.problems)
    if not path.is_file():
        raise PlanError(
            f"{directory} answers the problems of {path}, which is gone; put it back, or give it with: leadline run --problems FILE"
        )
    if _sha256(path) != asked.sha256:
        raise PlanError(
            f"{path} has changed since {directory} was begun; to go on with the changed file give the same `leadline run` command again: "
            "rows that were answered must have the same text, new ones are added"
        )
    for name, model in plan.models.items():
        if (
            asked.folder != os.getcwd()
            and not os.path.isabs(model.path)
            and Path(asked.folder, model.path).is_dir()
        ):
            raise PlanError(
                f"models.{name}.path = {model.path!r} is relative to {asked.folder}: change to that directory first"
            )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
