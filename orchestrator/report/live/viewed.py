"""What is served of jobs: the values of a report's pages, with the same names.

The one rule: every value is read when it is requested, from the index or from the journal. Not
covered: requests and replies (`app`), and how the index is kept (`indexer`).
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from orchestrator.core.errors import JournalError
from orchestrator.core.values import Problem, Result, Status, Trace
from orchestrator.jobs.finished import recorded_plan
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.sessions import Explorer, load_explorer
from orchestrator.report.live.indexer import State
from orchestrator.report.live.query import Reader
from orchestrator.report.page.file import as_json
from orchestrator.report.page.problem import ProblemPage, problem_page
from orchestrator.report.scored import Parts, scored_problems
from orchestrator.runtime.annotate import Annotator
from orchestrator.runtime.answer_workers import AnswerWorkers

_N_NAMED = 1_000  # problems that the journal has news of, before a page says so


@dataclass(slots=True)
class ViewedJob:
    """A job whose pages are served, with the reader of its index."""

    directory: Path
    reader: Reader
    explorer: Explorer | None = None  # of the plan when it was last needed
    fingerprint: str | None = None

    def explorer_of(self, journal: Journal) -> Explorer:
        """Return what explores the plan that the journal has now."""
        mark = journal.meta("fingerprint")
        if self.explorer is None or self.fingerprint != mark:
            self.explorer = load_explorer(recorded_plan(self.directory, journal))
            self.fingerprint = mark
        return self.explorer


@dataclass(slots=True)
class Viewed:
    """What is served: jobs under a title; `fault` says why the index is no longer kept, or ""."""

    title: str
    jobs: Sequence[ViewedJob]
    fault: Callable[[], str] = lambda: ""
    is_ending: Callable[[], bool] = lambda: False
    workers: AnswerWorkers | None = field(default=None, repr=False)

    def index(self) -> bytes:
        """Return what all pages share, as `Index` of the pages."""
        facts = [job.reader.fact("overview") for job in self.jobs]
        sweep = self.jobs[0].reader.fact("sweep")
        entries = [
            {
                "overview": msgspec.Raw(fact or b"null"),
                "sweep": None if sweep is None else 0,
                "command": f"leadline show {shlex.quote(str(job.directory))}",
            }
            for job, fact in zip(self.jobs, facts, strict=True)
        ]
        return as_json(
            {
                "title": self.title,
                "jobs": entries,
                "sweeps": [] if sweep is None else [msgspec.Raw(sweep)],
                "comparisons": [],
                "replays": [],
                "notes": [],
                "cut": 0,
                "n_left_out": 0,
                "state": self.state(),
            }
        )

    def state(self) -> dict[str, object]:
        """Return how current the pages are: why they are not, if so, and whether a job runs."""
        states = self._states()
        known = [one.is_running for one in states if one.is_running is not None]
        return {"warning": self._warning(states), "is_running": any(known) if known else None}

    def _states(self) -> list[State]:
        facts = [job.reader.fact("state") for job in self.jobs]
        return [msgspec.json.decode(fact, type=State) for fact in facts if fact is not None]

    def _warning(self, states: Sequence[State]) -> str:
        if error := next(filter(None, (self.fault(), *(state.error for state in states))), ""):
            return error
        n = sum(state.n_waiting for state in states)
        if len(states) < len(self.jobs):
            return "reading the problems"
        if n >= _N_NAMED:
            total = sum(state.n_problems for state in states)
            return f"reading the journal: {n:,} of {total:,} problems to go"
        return ""

    def versions(self) -> tuple[object, ...]:
        """Return what changes whenever there is something new."""
        return (self.fault(), *(job.reader.version() for job in self.jobs))

    async def problem(self, job: ViewedJob, id: str) -> ProblemPage | None:
        """Return the page of a problem, from the journal as it is now; None if there is none."""
        known = await asyncio.to_thread(job.reader.problem, id)
        if known is None:
            return None
        with Journal.for_reading(job.directory / "journal.db") as journal:
            explorer = job.explorer_of(journal)
            result, pool, note = await asyncio.to_thread(_contents, journal, id)
            if known.row.result and known.row.result.status is Status.INVALID:
                result = known.row.result
            domain = explorer.plan.domain
            problem = known.problem or Problem(id, "", domain)
            parts = Parts(
                domain,
                [id],
                {id: problem} if known.problem else {},
                {id: result} if result else {},
                {id: pool},
                {id: known.reference} if known.reference else {},
            )
            assert self.workers is not None
            annotator = Annotator(replace(explorer.plan, verifiers=()), self.workers)
            _, [scored] = await scored_problems(parts, annotator)
            scored = replace(scored, note=note)
            return await asyncio.to_thread(problem_page, scored, journal, explorer)


def _contents(journal: Journal, id: str) -> tuple[Result | None, Sequence[Trace], str]:
    try:
        return journal.result(id), journal.arrived(id), ""
    except JournalError as error:
        result, traces, _ = journal.readable(id)
        return result, traces, f"not all of it can be read: {error}"
