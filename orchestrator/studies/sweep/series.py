"""A series: several jobs over the same problems, run one after another and compared by one study.

Each job has its own directory inside the directory of the series. It is an ordinary job that can be
resumed, evaluated and inspected; running the same series again resumes it. The caller passes a
function that runs a job, displays it and chooses its engine. One engine can serve the whole series,
since all plans have the same models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Trace
from orchestrator.jobs.files import make_private
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.problems import ProblemFile
from orchestrator.jobs.source import (
    JobSource,
    job_source,
    require_same_file,
    require_same_plan,
    write_source,
)
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import LoadedPlan

Pools: TypeAlias = dict[str, list[Trace]]  # by problem id


@dataclass(frozen=True, slots=True)
class Member:
    """One job of a series: its plan, its folder in the directory of the series, and a short title.

    The folder "" is the directory itself, for a series of one job.
    """

    plan: Plan
    folder: str
    title: str


@dataclass(frozen=True, slots=True)
class Series:
    """Jobs over the problems of `file`, to be run in this order."""

    directory: Path
    members: Sequence[Member]
    execution: Execution
    file: ProblemFile
    source: JobSource

    def run(self, run_job: Callable[[Job, Plan, str], int]) -> tuple[list[Pools], int]:
        """Return the pools of each job and the exit code 0, after all jobs finish.

        When a signal ends a job, return the pools collected so far and the exit code of the signal.
        `run_job` runs the remaining problems of a job under a title, and is called only if there
        are any. It returns 0, or the exit code of the signal that ended the job.
        """
        pools: list[Pools] = []
        make_private(self.directory)
        file, n = self.file, len(self.members)
        for number, member in enumerate(self.members, 1):
            directory = self.directory / member.folder
            with open_job(directory, member.plan, file.problems, file.invalid, file.order) as job:
                write_source(job, member.plan, self.execution, self.source)
                if job.remaining():
                    place = f"{number} of {n} · " if n > 1 else ""
                    title = f"{directory} · {place}{member.title}"
                    exit_code = run_job(job, member.plan, title)
                    if exit_code:
                        return pools, exit_code
                pools.append({p.id: job.journal.pool(p.id) for p in file.problems})
        return pools, 0


def series(
    loaded: LoadedPlan, directory: Path, members: Sequence[Member], file: ProblemFile, limit: int
) -> Series:
    """Return the series of these jobs over the first `limit` rows (0: all) of a plan's problems.

    The plan must name its problems by a local file. Raises PlanError, before anything starts, when
    a plan cannot be run or when the directory contains other problems or another kind of job.
    """
    assert isinstance(loaded.problems, Path)
    for member in members:
        check_plan(member.plan, loaded.execution)
    if (directory / "journal.db").exists() and all(member.folder for member in members):
        raise PlanError(f"{directory} is the directory of a job; choose another with --out")
    source = job_source(
        loaded.problems, limit, loaded.format, loaded.origin, override=loaded.override
    )
    for member in members:
        require_same_file(directory / member.folder, source)
        if not member.folder:  # it may be the job of a user, which must not grow by a study
            require_same_plan(directory, member.plan)
    return Series(directory, members, loaded.execution, file, source)
