"""Keeps served requests as a job directory, which other commands read: show, eval, replay.

The one rule: a request's row is on disk before its first trace is. Requests that were open when the
process was killed stay without a result: nobody waits for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from orchestrator.core.plan import Plan
from orchestrator.jobs.files import make_private
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.openai_batch import pools_of_rows
from orchestrator.jobs.problems import ProblemFile, read_problems
from orchestrator.jobs.source import job_source, write_source
from orchestrator.plan.execution import Execution
from orchestrator.serve.protocol.questions import Question

ROWS = "requests.jsonl"


@dataclass(slots=True)
class Traffic:
    """What is kept of served requests; nothing without a journal."""

    journal: Journal | None = None
    rows: BinaryIO | None = None
    name_rows: Callable[[], None] | None = None  # with the first one: no job has an empty file

    def keep(self, question: Question) -> None:
        """Store a request as a row of a batch."""
        if self.rows is not None:
            self.rows.write(msgspec.json.encode(question.row) + b"\n")
            self.rows.flush()
        if self.name_rows is not None:
            self.name_rows()
            self.name_rows = None


@contextlib.contextmanager
def kept_traffic(directory: Path | None, plan: Plan, execution: Execution) -> Iterator[Traffic]:
    """Yield what keeps requests in a directory; in none, where that is None.

    PlanError where the directory has requests to another plan; JobBusyError where it is in use.
    """
    if directory is None:
        yield Traffic()
        return
    make_private(directory)
    path = directory / ROWS
    _without_torn_end(path)
    before = _rows(path, plan)
    problems = before.problems if before else ()
    with open_job(directory, plan, problems, order=before.order if before else ()) as job:

        def name_rows() -> None:
            write_source(job, plan, execution, job_source(path, 0, "auto"))

        with path.open("ab") as rows:
            yield Traffic(job.journal, rows, name_rows if before is None else None)
        if (now := _rows(path, plan)) is not None:
            job.problems, job.order = now.problems, now.order
            name_rows()


def _rows(path: Path, plan: Plan) -> ProblemFile | None:
    if not path.stat().st_size:
        return None
    pools = pools_of_rows(plan.models)
    return read_problems(path, default_domain=plan.domain, domains=plan.domains, pools=pools)


def _without_torn_end(path: Path) -> None:
    """Remove a last line that a killed process did not finish; create a file that is not there."""
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
