"""All that a report shows of several places: jobs, sweeps, replays, and jobs side by side.

The one rule: places are read in the order in which they were given, and a sweep stands for its
jobs. Not covered: how a report is stored (`file`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import PlanError
from orchestrator.jobs.finished import job_reader
from orchestrator.jobs.sessions import load_explorer
from orchestrator.report.page.overview import JobHead, Overview, overview
from orchestrator.report.page.problem import ProblemPage, problem_page
from orchestrator.report.page.studies import (
    SURFACE,
    ComparisonPage,
    ReplayPage,
    SweepPage,
    comparison_page,
    effort_folders,
    read_replay,
    read_surface,
    sweep_page,
)
from orchestrator.report.page.table import ProblemTable, problem_row, problem_table
from orchestrator.report.scored import ScoredJob, read_scored

_MOST_COMPARED = 6  # jobs that are compared with the first one


@dataclass(frozen=True, slots=True)
class JobPages:
    """A job: its overview, its table, and a page for each row of the table.

    `sweep` is the place of the sweep that it is part of; None if it was given by itself.
    """

    overview: Overview
    table: ProblemTable
    problems: tuple[ProblemPage, ...]
    sweep: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """The contents of a report; `notes` tell what could not be compared."""

    jobs: tuple[JobPages, ...]
    sweeps: tuple[SweepPage, ...]
    comparisons: tuple[ComparisonPage, ...]
    replays: tuple[ReplayPage, ...]
    notes: tuple[str, ...]


def read_document(
    places: Sequence[str | Path],
    problems: str | Path = "",
    progress: Callable[[str], None] = lambda text: None,
) -> Document:
    """Return what a report of these places shows: job directories, sweeps, outputs of replays.

    `problems` is a file with the references, if not the jobs' own. `progress` receives the place
    that is read. PlanError when a place is none of these.
    """
    scored: list[ScoredJob] = []
    pages: list[JobPages] = []
    sweeps: list[SweepPage] = []
    replays: list[ReplayPage] = []
    single: list[tuple[int, ScoredJob]] = []

    def add(directory: Path, sweep: int | None = None) -> tuple[int, ScoredJob]:
        progress(str(directory))
        job = read_scored(directory, problems)
        pages.append(job_pages(job, sweep))
        scored.append(job)
        return len(scored) - 1, job

    for place in map(Path, places):
        if (place / SURFACE).is_file():
            jobs = [add(folder, len(sweeps)) for folder in effort_folders(place)]
            sweeps.append(sweep_page(place, read_surface(place), jobs))
        elif place.is_file() and place.name != "journal.db":
            replays.append(read_replay(place))
        else:
            single.append(add(place))
    comparisons, notes = _comparisons(single)
    return Document(tuple(pages), tuple(sweeps), comparisons, tuple(replays), notes)


def job_pages(job: ScoredJob, sweep: int | None = None) -> JobPages:
    """Return the pages of a job that was read."""
    explorer = load_explorer(job.plan)
    with job_reader(job.directory) as reader:
        rows = [problem_row(problem, explorer) for problem in job.problems]
        by_id = {row.id: row for row in rows if row.result}
        completed = [by_id[id] for id in reader.completion_order() if id in by_id]
        head = JobHead(job.directory, job.plan, reader.spent, job.notes)
        pages = tuple(problem_page(p, reader, explorer) for p in job.problems)
        return JobPages(overview(head, rows, completed), problem_table(rows), pages, sweep)


def _comparisons(
    jobs: Sequence[tuple[int, ScoredJob]],
) -> tuple[tuple[ComparisonPage, ...], tuple[str, ...]]:
    """Return the first job next to each other one, and notes on those that cannot be compared."""
    pages, notes = [], []
    for other in jobs[1 : 1 + _MOST_COMPARED]:
        try:
            pages.append(comparison_page(jobs[0], other))
        except PlanError as error:
            notes.append(str(error))
    if (n_more := len(jobs) - 1 - _MOST_COMPARED) > 0:
        notes.append(f"{n_more} more jobs are not compared with the first one")
    return tuple(pages), tuple(notes)


def pages_of(document: Document) -> Iterator[ProblemPage]:
    """Yield the pages of all problems."""
    for job in document.jobs:
        yield from job.problems
