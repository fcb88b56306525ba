"""The commands that answer a file of problems: `leadline run` and `resume`.

Results and tables go to the standard output, messages to the error stream. A LeadlineError is
printed by `main`.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import click

from orchestrator.cli.console import message
from orchestrator.cli.foreground import Outcome, run_remaining
from orchestrator.cli.inputs import (
    job_directory,
    job_problems,
    local_problems,
    references_and_notes,
    report_choice,
    report_rows,
    row_notes,
    run_name,
)
from orchestrator.cli.options import (
    DisplayOptions,
    PlanCommand,
    display_options,
    fresh_option,
    limit_option,
    plan_argument,
    report_option,
    retry_option,
    server_option,
)
from orchestrator.cli.runs.closing import (
    exit_code,
    print_end_of_budget,
    print_known,
    print_recipe,
    print_report,
    print_stop,
    print_summary,
)
from orchestrator.cli.runs.dry_run import DryRun, dry_run_options, print_costs
from orchestrator.cli.runs.server import EngineSource, is_address, read_served_plan
from orchestrator.cli.view.numbers import counted
from orchestrator.core.errors import (
    EngineError,
    JournalError,
    LeadlineError,
    PlanError,
    TooManyFailed,
)
from orchestrator.core.plan import Plan
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.openai_batch import write_batch_output
from orchestrator.jobs.problems import ProblemFile
from orchestrator.jobs.rows import Format
from orchestrator.jobs.source import (
    PLAN_FILE,
    JobSource,
    begun_problems,
    fresh_directory,
    job_source,
    read_source,
    require_as_real,
    require_unchanged,
    same_or_wider,
    write_source,
)
from orchestrator.plan import auto
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import LoadedPlan, load_plan
from orchestrator.report.kept import KeptReport, is_final, keep_report, kept_report
from orchestrator.runtime.sinks.events import Accuracy
from orchestrator.runtime.sinks.reporting import reporting
from orchestrator.studies.estimates import share_estimate
from orchestrator.studies.evaluate import References, RightAnswers
from orchestrator.studies.summary import (
    Summary,
    correctness,
    summarise,
    unreadable_notes,
)

_RESUMABLE = (
    "execution.",
    "supervision.",
    "prices.",
    "sinks",
    "budget.usd",
    "budget.gpu_seconds",
    "budget.job_tokens",
    "budget.job_seconds",
)  # keys that may change when a job is resumed


@click.command(cls=PlanCommand)
@plan_argument
@limit_option
@fresh_option
@retry_option
@dry_run_options
@report_option
@server_option
@display_options
def run(
    plan_file: str | None,
    flags: Mapping[str, str],
    limit: int,
    fresh: bool,
    retry_failed: bool,
    dry_run: bool,
    n_pilot: int,
    with_report: bool,
    server: str | None,
    display: DisplayOptions,
) -> int:
    """Run a file of problems. The same command again continues an interrupted run.

    It also tries problems again that failed, unless --no-retry-failed is given. With a larger n,
    more problems, another selector or budget, it continues from the traces that are there. A change
    that makes them useless is refused, with the reason; --fresh begins another job instead. With
    --dry-run it prints what the run is expected to cost, and where it would write, instead.

    Every key of a plan is also a flag, and a flag wins over the file. Options of the strategy, the
    selector, the engine, a domain or a model are flags by their dotted names: --strategy.n 16,
    --execution.engine.replicas 2, --models.main.revision v1. `leadline plugins` lists them.

    \b
    Examples:
      leadline run examples/arithmetic.toml
      leadline run --problems problems.jsonl --strategy adaptive --strategy.n 32
      leadline run plan.toml --dry-run --pilot 5
      leadline run plan.toml --sampling.temperature 0.9 --fresh --limit 20
    """
    if is_address(server) and n_pilot:
        raise PlanError("--pilot starts engines of its own: remove it, or --server")
    loaded, engines = read_served_plan(plan_file, flags, server, display, is_batch=True)
    directory = job_directory(loaded, "run")
    directory = fresh_directory(directory) if fresh else directory
    with contextlib.ExitStack() as stack:
        kept = directory
        if dry_run and not n_pilot:  # which writes nothing there
            kept = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leadline-")))
        loaded, problems = local_problems(loaded, kept, limit)
        source = job_source(problems, limit, loaded.format, loaded.origin, override=loaded.override)
        source = same_or_wider(directory, source)
        plan = _with_recorded_choice(loaded, directory)
        if dry_run or n_pilot:
            loaded = replace(loaded, plan=plan)
            return print_costs(DryRun(loaded, directory, source, dry_run, n_pilot, display))
    needs = plan, loaded.execution, engines
    code = _run_job(directory, *needs, source, display, retry_failed, limit)
    if with_report:
        print_report(directory, code, display)
    if loaded.recipe and not (display.quiet or display.as_json):
        print_recipe(loaded.recipe, plan, directory)
    return code


@click.command(cls=PlanCommand, accepts=lambda key: key.startswith(_RESUMABLE))
@click.argument("directory", type=click.Path(), metavar="DIR")
@retry_option
@server_option
@display_options
def resume(
    directory: str,
    flags: Mapping[str, str],
    retry_failed: bool,
    server: str | None,
    display: DisplayOptions,
) -> int:
    """Continue an interrupted job from its directory alone.

    Problems that failed are tried again, unless --no-retry-failed is given. The plan is that of the
    last `leadline run`. Only what decides no answer may change: the flags of `execution` and
    `supervision`.

    \b
    Examples:
      leadline resume runs/arithmetic
      leadline resume runs/arithmetic --execution.window 128
    """
    path = Path(directory)
    source = read_source(path)
    if source is None:
        raise PlanError(
            f"{path} was started from Python, or stopped before anything ran: run the same "
            "script or command again to continue"
        )
    loaded, engines = read_served_plan(path / PLAN_FILE, flags, server, display, is_batch=True)
    require_unchanged(path, source, loaded.plan)
    return _run_job(path, loaded.plan, loaded.execution, engines, source, display, retry_failed)


def _with_recorded_choice(loaded: LoadedPlan, directory: Path) -> Plan:
    """Return the plan with its job's recorded choice, if only the new choice of `auto` differs."""
    plan_file = directory / PLAN_FILE
    if not loaded.chosen or not plan_file.is_file():
        return loaded.plan
    # a recorded plan that no longer loads: the job refuses the new choice and names the difference
    with contextlib.suppress(PlanError):
        begun = load_plan(plan_file).plan
        same = replace(loaded.plan, strategy=begun.strategy, selector=loaded.vote or begun.selector)
        if begun.strategy.name == auto.NAME and same == begun:
            return begun
    return loaded.plan


def _run_job(
    directory: Path,
    plan: Plan,
    execution: Execution,
    engines: EngineSource,
    source: JobSource,
    display: DisplayOptions,
    retry_failed: bool,
    limit: int = 0,
) -> int:
    """Run the remaining problems of a job, in its first `limit` rows, and print the summary.

    `engines` returns what takes the place of the execution's engine, or None.
    Of a finished job, the summary is printed again.
    """
    require_as_real(directory, execution.engine.name)
    resume_command = f"{_program()} resume {shlex.quote(str(directory))}"
    if (known := kept_report(directory, plan, execution, source)) is not None:
        print_known(known, plan, display)
        return exit_code(known.summary, execution, resume_command)
    with begun_problems(directory) as begun:
        file = job_problems(source, plan, execution, begun)
        row_report = tuple(row_notes(file, begun))
    report_rows(row_report, display)
    domains = file.domains(plan.domain)
    references = references_and_notes(source.problems, domains, plan, execution)
    report_choice(plan, display)
    opened = open_job(
        directory,
        plan,
        file.problems,
        file.invalid,
        file.order,
        retry_failed=retry_failed,
        chosen=frozenset(file.order[:limit]) if 0 < limit < len(file.order) else None,
    )
    with _naming_remedy(directory, resume_command), opened as job:
        write_source(job, plan, execution, source)
        if job.damage:
            message(f"note: {job.damage}")
        _report_growth(job, display)
        n_resumed = len(file.problems) - len(job.unfinished())
        name = run_name(plan, execution)
        title = f"{directory} · {_extent(job, n_resumed)} · {name}"
        with reporting(job, plan, execution, name, _note) as sinks:
            outcome = run_remaining(job, plan, execution, title, display, sinks, engines)
            job.export()  # before the evaluation, which may fail or be interrupted
            answers = {} if outcome.signal_number else references.answers
            right = _correctness(job, answers, file, plan, execution)
            if sinks is not None:
                sinks.right = {id: bool(one) for id, one in (right or {}).items()}
                sinks.accuracy = _accuracy(sinks.right)
        summary = _summary(
            job, plan, execution, source, file, references, right or {}, outcome, n_resumed
        )
    if outcome.signal_number:
        print_stop(summary, len(file.problems), plan, resume_command, display)
        return outcome.exit_code
    if right is not None and is_final(summary, references, domains, plan):
        notes = tuple(f"note: {n}" for n in unreadable_notes(references, source.problems))
        report = KeptReport(row_report, notes, summary)
        with contextlib.suppress(JournalError):  # without it, the next command takes longer
            keep_report(directory, plan, execution, source, report)
    print_summary(summary, plan, display)
    if outcome.spent is not None:
        print_end_of_budget(outcome.spent, summary, resume_command)
        return outcome.exit_code
    code = exit_code(summary, execution, resume_command)
    return 128 + signal.SIGINT if right is None else code


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
    plan: Plan,
    execution: Execution,
    source: JobSource,
    file: ProblemFile,
    references: References,
    right: Mapping[str, bool | None],
    outcome: Outcome,
    n_resumed: int,
) -> Summary:
    is_done = not outcome.signal_number
    is_whole = is_done and outcome.spent is None
    wants_batch = source.format == "openai-batch" or (
        source.format == "auto" and file.format is Format.OPENAI_BATCH
    )
    return summarise(
        job,
        right,
        [reference.problem_id for reference in references.unreadable],
        seconds=outcome.seconds,
        start_seconds=outcome.start_seconds,
        n_resumed=n_resumed,
        n_new_tokens=outcome.progress.output_tokens if outcome.progress else 0,
        outages=outcome.progress.outages if outcome.progress else None,
        batch_output=write_batch_output(job, plan) if wants_batch and is_whole else None,
        interrupted=not is_done,
        chosen=auto.description(plan) or "",
        execution=execution,
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
def _naming_remedy(directory: Path, resume_command: str) -> Iterator[None]:
    """Add the next commands to the message of an error that ends the run in the block."""
    try:
        yield
    except (EngineError, TooManyFailed) as error:
        listing = f"{_program()} show {shlex.quote(str(directory))} --failed"
        look = f"\nlook closer: {listing}" if isinstance(error, TooManyFailed) else ""
        raise type(error)(
            f"{error}{look}\nresults and finished traces are kept; when the cause is fixed, "
            f"continue with: {resume_command}"
        ) from error
