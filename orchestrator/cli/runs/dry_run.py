"""`leadline run --dry-run`: what a run is expected to cost and would write, before it starts.

The one rule: without --pilot nothing is started and nothing is written. A pilot runs some of the
job's own problems in the job's own directory, so what it costs is not spent twice: the run
continues from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from orchestrator.cli.console import message, print_json, results_console
from orchestrator.cli.foreground import Outcome, run_remaining
from orchestrator.cli.inputs import job_problems, report_rows, row_notes, run_name
from orchestrator.cli.options import DisplayOptions
from orchestrator.cli.view.numbers import counted
from orchestrator.cli.view.results.cost import Place, costs_table
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import fingerprint
from orchestrator.core.values import Problem, Result, Status
from orchestrator.jobs.job import open_job, spent_by
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.problems import ProblemFile
from orchestrator.jobs.rows import Format
from orchestrator.jobs.sessions import load_explorer
from orchestrator.jobs.source import JobSource, write_source
from orchestrator.plan.execution import Spent
from orchestrator.plan.file import LoadedPlan
from orchestrator.report.cost import LEAST_MEASURED, bounds, extrapolated

_FILES = ("plan.toml", "plan.json", "journal.db", "results.jsonl", "report.json", "engine.log")


@dataclass(frozen=True, slots=True)
class DryRun:
    """The run that is priced; `n_pilot` of its problems are run first."""

    loaded: LoadedPlan
    directory: Path
    source: JobSource
    is_dry: bool
    n_pilot: int
    display: DisplayOptions


@dataclass(frozen=True, slots=True)
class _Begun:
    """What the job's directory has of this plan."""

    results: Sequence[Result] = ()
    spent: Spent = field(default_factory=Spent)
    note: str = ""


def dry_run_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add --dry-run and --pilot."""
    pilot = click.option(
        "--pilot",
        "n_pilot",
        type=click.IntRange(min=LEAST_MEASURED),
        callback=lambda ctx, param, value: value or 0,
        metavar="K",
        help="With --dry-run: run K of the problems, unless they are done, and extrapolate from "
        "all that are.",
    )
    dry = click.option(
        "--dry-run",
        is_flag=True,
        help="Print the expected cost and what would be written where; start and write nothing.",
    )
    return dry(pilot(function))


def print_costs(run: DryRun) -> int:
    """Print what the rest of a job is expected to cost; return the exit code."""
    if not run.is_dry:
        raise PlanError("--pilot measures what a run will cost: give it together with --dry-run")
    plan, execution = run.loaded.plan, run.loaded.execution
    file = job_problems(run.source, plan, execution)
    report_rows(row_notes(file), run.display)
    if run.n_pilot and (exit_code := _pilot(run, file)):
        return exit_code
    begun = _begun(run)
    done = {result.problem_id for result in begun.results}
    remaining = [problem for problem in file.problems if problem.id not in done]
    n_done = len(file.problems) - len(remaining)
    if len(begun.results) >= LEAST_MEASURED:
        costs = extrapolated(begun.results, len(remaining), begun.spent, execution)
    else:
        costs = bounds(remaining, plan, execution, load_explorer(plan))
    place = Place(
        str(run.directory), _written(run, file), n_done, run.directory.is_dir(), begun.note
    )
    if run.display.as_json:
        print_json({"costs": costs, "place": place, "budget": execution.budget})
    else:
        message(f"{run.directory} · {run_name(plan, execution)}")
        results_console().print(costs_table(costs, place, plan, execution))
    return 0


def _begun(run: DryRun) -> _Begun:
    """Return what the directory has of this plan's job, without writing to it."""
    path = run.directory / "journal.db"
    if not path.is_file():
        return _Begun()
    with Journal.for_reading(path) as journal:
        theirs, mine = journal.meta("fingerprint"), fingerprint(run.loaded.plan)
        if theirs not in (None, mine):
            return _Begun(
                note=f"{run.directory} has a job of another plan; traces that this run can take "
                "over are not subtracted"
            )
        done = [r for r in journal.results() if r.fingerprint == mine]
        results = [r for r in done if r.status is not Status.FAILED]
        n_open = journal.n_traces() - sum(r.n_traces for r in results)
        note = f"{n_open:,} traces of problems that are not done are not subtracted"
        return _Begun(results, spent_by(journal), note if n_open else "")


def _written(run: DryRun, file: ProblemFile) -> tuple[str, ...]:
    is_batch = file.format is Format.OPENAI_BATCH and run.loaded.format == "auto"
    wants_batch = is_batch or run.loaded.format == "openai-batch"
    return (*_FILES, *(["batch_output.jsonl"] if wants_batch else []))


def _pilot(run: DryRun, file: ProblemFile) -> int:
    """Run problems that are spread over the file, unless they are done; return the exit code.

    They are the same for every run of the command, so an interrupted pilot continues.
    """
    plan, execution, directory = run.loaded.plan, run.loaded.execution, run.directory
    done = {result.problem_id for result in _begun(run).results}
    chosen = spread(file.problems, run.n_pilot)
    ids = {problem.id for problem in chosen if problem.id not in done}
    if not ids:
        return 0
    with open_job(directory, plan, file.problems, file.invalid, file.order, chosen=ids) as job:
        write_source(job, plan, execution, run.source)
        of = f"{counted(len(chosen), 'problem')} of {len(file.problems):,}"
        title = f"{directory} · pilot of {of} · {run_name(plan, execution)}"
        outcome = run_remaining(job, plan, execution, title, run.display)
    return _ended(outcome, directory)


def _ended(outcome: Outcome, directory: Path) -> int:
    if outcome.spent:
        message(f"\n{outcome.spent}; the pilot ended, and finished traces are kept in {directory}")
    elif outcome.signal_number:
        message(f"\nstopped; finished traces are kept in {directory}")
    return outcome.exit_code


def spread(problems: Sequence[Problem], n: int) -> list[Problem]:
    """Return n of the problems at equal distances: files are often sorted by difficulty."""
    n = min(n, len(problems))
    return [problems[(2 * i + 1) * len(problems) // (2 * n)] for i in range(n)]
