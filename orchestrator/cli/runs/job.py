"""A run of a job: its problems, what remains of them, their evaluation, and what is printed.

The commands are in `orchestrator.cli.run`, what is printed at the end in
`orchestrator.cli.runs.closing`. Results are exported before anything that may fail or be
interrupted.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.console import message
from orchestrator.cli.foreground import Outcome, run_remaining
from orchestrator.cli.inputs import (
    job_problems,
    references_and_notes,
    report_choice,
    report_rows,
    row_notes,
    run_name,
)
from orchestrator.cli.options import DisplayOptions
from orchestrator.cli.runs.closing import (
    exit_code,
    print_end_of_budget,
    print_known,
    print_stop,
    print_summary,
)
from orchestrator.cli.runs.server import EngineSource
from orchestrator.cli.view.numbers import counted
from orchestrator.core.errors import EngineError, JournalError, LeadlineError, TooManyFailed
from orchestrator.core.plan import Plan
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.openai_batch import write_batch_output
from orchestrator.jobs.problems import ProblemFile
from orchestrator.jobs.rows import Format
from orchestrator.jobs.source import JobSource, begun_problems, require_as_real, write_source
from orchestrator.plan import auto
from orchestrator.plan.execution import Execution
from orchestrator.report.kept import KeptReport, is_final, keep_report, kept_report
from orchestrator.runtime.sinks.events import Accuracy
from orchestrator.runtime.sinks.reporting import reporting
from orchestrator.studies.estimates import share_estimate
from orchestrator.studies.evaluate import References, RightAnswers
from orchestrator.studies.summary import Summary, correctness, summarise, unreadable_notes


@dataclass(frozen=True, slots=True)
class JobRun:
    """A run of the job in a directory.

    `engines` returns what takes the place of the execution's engine, or None. Only the problems of
    the first `limit` rows are run, all with 0.
    """

    directory: Path
    plan: Plan
    execution: Execution
    engines: EngineSource
    source: JobSource
    display: DisplayOptions
    retry_failed: bool
    limit: int = 0

    @property
    def resume_command(self) -> str:
        """The command that continues the job."""
        return f"{_program()} resume {shlex.quote(str(self.directory))}"


@dataclass(frozen=True, slots=True)
class _Inputs:
    file: ProblemFile
    row_notes: tuple[str, ...]
    references: References


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a run ended. `right` is None if the user interrupted the evaluation."""

    outcome: Outcome
    right: Mapping[str, bool | None] | None
    summary: Summary


def run_job(run: JobRun) -> int:
    """Run the remaining problems of a job and print the summary; return the exit code.

    Of a finished job, the summary is printed again.
    """
    require_as_real(run.directory, run.execution.engine.name)
    known = kept_report(run.directory, run.plan, run.execution, run.source)
    if known is not None:
        print_known(known, run.plan, run.display)
        return exit_code(known.summary, run.execution, run.resume_command)
    inputs = _inputs(run)
    ending = _ending(run, inputs)
    if ending.outcome.signal_number:
        n_problems = len(inputs.file.problems)
        print_stop(ending.summary, n_problems, run.plan, run.resume_command, run.display)
        return ending.outcome.exit_code
    _keep_report(run, inputs, ending)
    print_summary(ending.summary, run.plan, run.display)
    if ending.outcome.spent is not None:
        print_end_of_budget(ending.outcome.spent, ending.summary, run.resume_command)
        return ending.outcome.exit_code
    code = exit_code(ending.summary, run.execution, run.resume_command)
    return 128 + signal.SIGINT if ending.right is None else code


def _inputs(run: JobRun) -> _Inputs:
    """Return the problems and references of a run; print what is notable about them."""
    with begun_problems(run.directory) as begun:
        file = job_problems(run.source, run.plan, run.execution, begun)
        notes = tuple(row_notes(file, begun))
    report_rows(notes, run.display)
    domains = file.domains(run.plan.domain)
    references = references_and_notes(run.source.problems, domains, run.plan, run.execution)
    report_choice(run.plan, run.display)
    return _Inputs(file, notes, references)


def _ending(run: JobRun, inputs: _Inputs) -> _Ending:
    """Run what remains of a job, export its results, and evaluate them."""
    file, plan, execution = inputs.file, run.plan, run.execution
    opened = open_job(
        run.directory,
        plan,
        file.problems,
        file.invalid,
        file.order,
        retry_failed=run.retry_failed,
        chosen=frozenset(file.order[: run.limit]) if 0 < run.limit < len(file.order) else None,
    )
    with _naming_remedy(run), opened as job:
        write_source(job, plan, execution, run.source)
        if job.damage:
            _note(job.damage)
        _report_growth(job, run.display)
        n_resumed = len(file.problems) - len(job.unfinished())
        name = run_name(plan, execution)
        title = f"{run.directory} · {_extent(job, n_resumed)} · {name}"
        with reporting(job, plan, execution, name, _note) as sinks:
            outcome = run_remaining(job, plan, execution, title, run.display, sinks, run.engines)
            job.export()  # before the evaluation, which may fail or be interrupted
            answers = {} if outcome.signal_number else inputs.references.answers
            right = _correctness(job, answers, file, plan, execution)
            if sinks is not None:
                sinks.right = {id: bool(one) for id, one in (right or {}).items()}
                sinks.accuracy = _accuracy(sinks.right)
        summary = _summary(job, run, inputs, right or {}, outcome, n_resumed)
    return _Ending(outcome, right, summary)


def _keep_report(run: JobRun, inputs: _Inputs, ending: _Ending) -> None:
    """Keep what the same command prints again, if nothing of it can change."""
    references, domains = inputs.references, inputs.file.domains(run.plan.domain)
    if ending.right is None or not is_final(ending.summary, references, domains, run.plan):
        return
    notes = tuple(f"note: {n}" for n in unreadable_notes(references, run.source.problems))
    report = KeptReport(inputs.row_notes, notes, ending.summary)
    with contextlib.suppress(JournalError):  # without it, the next command takes longer
        keep_report(run.directory, run.plan, run.execution, run.source, report)


def _note(text: str) -> None:
    message(f"note: {text}")


def _accuracy(right: Mapping[str, bool]) -> Accuracy | None:
    """Return the accuracy of a job for its sinks; None if no reference is known."""
    estimate = share_estimate(list(right.values()))
    if estimate is None:
        return None
    return Accuracy(estimate.value, estimate.low, estimate.high, estimate.n)


def _report_growth(job: Job, display: DisplayOptions) -> None:
    """Print what changed in the plan of a job that grows."""
    if job.growth and not display.quiet:
        taken = counted(job.growth.n_traces, "trace")
        lines = [f"{job.directory} continues with a changed plan, from the {taken} that it has:"]
        message("\n  ".join([*lines, *job.growth.changes]))


def _extent(job: Job, n_resumed: int) -> str:
    """Return how many problems a job has, and how many of them are not new."""
    failed = job.journal.failed()
    n_retried = len(failed.intersection(p.id for p in job.remaining())) if failed else 0
    notes = (
        f", {n_resumed:,} of them done before" if n_resumed else "",
        f", {n_retried:,} that failed are tried again" if n_retried else "",
    )
    return counted(len(job.problems), "problem") + "".join(notes)


def _summary(
    job: Job,
    run: JobRun,
    inputs: _Inputs,
    right: Mapping[str, bool | None],
    outcome: Outcome,
    n_resumed: int,
) -> Summary:
    is_done = not outcome.signal_number
    is_whole = is_done and outcome.spent is None
    wants_batch = run.source.format == "openai-batch" or (
        run.source.format == "auto" and inputs.file.format is Format.OPENAI_BATCH
    )
    return summarise(
        job,
        right,
        [reference.problem_id for reference in inputs.references.unreadable],
        seconds=outcome.seconds,
        start_seconds=outcome.start_seconds,
        n_resumed=n_resumed,
        n_new_tokens=outcome.progress.output_tokens if outcome.progress else 0,
        outages=outcome.progress.outages if outcome.progress else None,
        batch_output=write_batch_output(job, run.plan) if wants_batch and is_whole else None,
        interrupted=not is_done,
        chosen=auto.description(run.plan) or "",
        execution=run.execution,
        ended_by=outcome.spent.key if outcome.spent else "",
    )


def _correctness(
    job: Job, answers: RightAnswers, file: ProblemFile, plan: Plan, execution: Execution
) -> Mapping[str, bool | None] | None:
    """Return which problems were answered correctly; nothing, with a note, if that fails.

    None if the user interrupted it.
    """
    domains = file.domains(plan.domain)
    try:
        return correctness(job.iter_results(), answers, domains, plan, execution)
    except (LeadlineError, OSError, KeyboardInterrupt) as error:
        is_interrupted = isinstance(error, KeyboardInterrupt)
        message(
            f"note: the accuracy was not computed: {'interrupted' if is_interrupted else error}; "
            "the results are complete. For the accuracy: leadline eval "
            f"{shlex.quote(str(job.directory))}"
        )
        return None if is_interrupted else {}


def _program() -> str:
    """Return the command to call this program: its bare name if the shell finds it."""
    called = sys.argv[0]
    found = shutil.which("leadline")
    is_plain = Path(called).name != "leadline" or (
        found is not None and Path(found).resolve() == Path(called).resolve()
    )
    return "leadline" if is_plain else shlex.quote(called)


@contextlib.contextmanager
def _naming_remedy(run: JobRun) -> Iterator[None]:
    """Add the next commands to the message of an error that ends the run in the block."""
    try:
        yield
    except (EngineError, TooManyFailed) as error:
        listing = f"{_program()} show {shlex.quote(str(run.directory))} --failed"
        look = f"\nlook closer: {listing}" if isinstance(error, TooManyFailed) else ""
        raise type(error)(
            f"{error}{look}\nresults and finished traces are kept; when the cause is fixed, "
            f"continue with: {run.resume_command}"
        ) from error
