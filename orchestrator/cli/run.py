"""The commands that answer problems: `leadline run`, `resume` and `solve`.

Results and tables go to the standard output, messages to the error stream. A LeadlineError is
printed by `main`.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from orchestrator.cli.console import message, print_json, results_console
from orchestrator.cli.foreground import Outcome, engine_log, run_in_foreground
from orchestrator.cli.inputs import (
    first_problems,
    job_directory,
    local_problems,
    read_plan,
    references_and_notes,
    report_rows,
    run_name,
)
from orchestrator.cli.options import (
    TOO_MANY_FAILED,
    DisplayOptions,
    PlanCommand,
    display_options,
    limit_option,
    plan_argument,
    retry_option,
)
from orchestrator.cli.view.numbers import counted, one_line
from orchestrator.cli.view.tables import print_traces, solution_table, summary_table, trace_row
from orchestrator.core.errors import EngineError, LeadlineError, PlanError, TooManyFailed
from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem, Result, Status, Trace
from orchestrator.jobs.job import Job, open_job, result_row
from orchestrator.jobs.openai_batch import write_batch_output
from orchestrator.jobs.problems import ProblemFile
from orchestrator.jobs.rows import Format
from orchestrator.jobs.source import (
    PLAN_FILE,
    JobSource,
    job_source,
    read_source,
    require_same_file,
    require_unchanged,
    write_source,
)
from orchestrator.plan import auto
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import LoadedPlan, load_plan
from orchestrator.plan.file.sources import published
from orchestrator.studies.evaluate import References, RightAnswers
from orchestrator.studies.summary import Summary, correctness, summarise

_RESUMABLE = ("execution.", "supervision.")  # keys that may change when a job is resumed


@click.command(cls=PlanCommand)
@plan_argument
@limit_option
@retry_option
@display_options
def run(
    plan_file: str | None,
    flags: Mapping[str, str],
    limit: int,
    retry_failed: bool,
    display: DisplayOptions,
) -> int:
    """Run a file of problems. The same command again continues an interrupted run.

    It also tries problems again that failed, unless --no-retry-failed is given.

    Every key of a plan is also a flag, and a flag wins over the file. Options of the strategy, the
    selector, the engine, a domain or a model are flags by their dotted names: --strategy.n 16,
    --execution.engine.replicas 2, --models.main.revision v1. `leadline plugins` lists them.

    \b
    Examples:
      leadline run examples/arithmetic.toml
      leadline run --problems problems.jsonl --strategy adaptive --strategy.n 32
      leadline run plan.toml --sampling.temperature 0.9 --out runs/hotter --limit 20
    """
    loaded = read_plan(plan_file, flags)
    directory = job_directory(loaded, "run")
    loaded, problems = local_problems(loaded, directory, limit)
    source = job_source(problems, limit, loaded.format, loaded.origin)
    require_same_file(directory, source)
    plan = _with_recorded_choice(loaded, directory)
    exit_code = _run_job(directory, plan, loaded.execution, source, display, retry_failed)
    if loaded.recipe and not (display.quiet or display.as_json):
        for line in published(loaded.recipe, plan):
            message(line)
    return exit_code


@click.command(cls=PlanCommand, accepts=lambda key: key.startswith(_RESUMABLE))
@click.argument("directory", type=click.Path(), metavar="DIR")
@retry_option
@display_options
def resume(
    directory: str, flags: Mapping[str, str], retry_failed: bool, display: DisplayOptions
) -> int:
    """Continue an interrupted job from its directory alone.

    Problems that failed are tried again, unless --no-retry-failed is given. The plan is the one
    that the job started with. Only what decides no answer may change: the flags of `execution` and
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
    loaded = read_plan(path / PLAN_FILE, flags)
    require_unchanged(path, source, loaded.plan)
    return _run_job(path, loaded.plan, loaded.execution, source, display, retry_failed)


@click.command(
    cls=PlanCommand,
    accepts=lambda key: not key.startswith("columns."),
    without=("problems", "format"),
)
@click.argument("question")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(),
    metavar="PLAN.toml",
    help="Use the plan in this file; its problems are ignored.",
)
@click.option("--show-traces", is_flag=True, help="Also print the text of every trace.")
@display_options
def solve(
    question: str,
    plan_file: str | None,
    flags: Mapping[str, str],
    show_traces: bool,
    display: DisplayOptions,
) -> int:
    """Answer one question and show the vote. "-" reads the question from the standard input.

    Nothing is saved unless --out names a directory for the job.

    \b
    Examples:
      leadline solve "What is 17 + 25?" --strategy.n 16
      leadline solve "Which is larger, 9.11 or 9.9?" --strategy adaptive --show-traces
      leadline solve - --domain text < question.txt
    """
    text = sys.stdin.read() if question == "-" else question
    if not text.strip():
        raise PlanError("the question is empty")
    loaded = read_plan(plan_file, flags)
    plan, execution = loaded.plan, loaded.execution
    _report_choice(plan, display)
    with contextlib.ExitStack() as stack:
        directory = flags.get("out") or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="leadline-")
        )
        problem = Problem("question", text, plan.domain)
        job = stack.enter_context(open_job(Path(directory), plan, [problem]))
        title = f"{one_line(text)} · {run_name(plan, execution)}"
        outcome = _run_remaining(job, plan, execution, title, display)
        results = job.results()
        traces = sorted(job.journal.pool(problem.id), key=lambda t: t.ordinal)
    if not results:
        kept = f"finished traces are kept in {directory}; the same command continues"
        message(f"\nstopped; {kept if 'out' in flags else 'nothing is kept without --out'}")
        return outcome.exit_code
    [result] = results
    _print_solution(text, result, traces if show_traces else None, outcome.seconds, display)
    return 1 if result.status is Status.FAILED else 0


def _print_solution(
    question: str,
    result: Result,
    traces: Sequence[Trace] | None,
    seconds: float,
    display: DisplayOptions,
) -> None:
    """Print the answer and its vote; the traces too, unless they are None."""
    if display.as_json:
        rows = None if traces is None else list(map(trace_row, traces))
        row = result_row(result)
        print_json({"question": question, "result": row, "traces": rows, "seconds": seconds})
        return
    console = results_console()
    if traces is not None:
        print_traces(console, traces)
        console.rule(style="dim")
    console.print(solution_table(result, seconds or result.seconds))


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
    source: JobSource,
    display: DisplayOptions,
    retry_failed: bool,
) -> int:
    """Run the remaining problems of a job and print the summary."""
    file = first_problems(source.problems, plan, source.limit)
    report_rows(file, display)
    domains = file.domains(plan.domain)
    references = references_and_notes(source.problems, domains, plan, execution)
    _report_choice(plan, display)
    resume_command = f"{_program()} resume {shlex.quote(str(directory))}"
    with (
        _naming_remedy(resume_command),
        open_job(
            directory,
            plan,
            file.problems,
            file.invalid,
            file.order,
            retry_failed=retry_failed,
        ) as job,
    ):
        write_source(job, plan, execution, source)
        n_resumed = len(file.problems) - len(job.remaining())
        title = f"{directory} · {_extent(job, n_resumed)} · {run_name(plan, execution)}"
        outcome = _run_remaining(job, plan, execution, title, display)
        job.export()  # before the evaluation, which may fail or be interrupted
        summary = _summary(job, plan, execution, source, file, references, outcome, n_resumed)
    if display.as_json:
        print_json(summary)
    if outcome.signal_number:
        n_done = len(file.problems) - summary.n_open
        message(
            f"\nstopped: {n_done:,} of {len(file.problems):,} problems are done; all other "
            f"finished traces are kept in {directory}"
        )
        message(f"to continue: {resume_command}")
        return outcome.exit_code
    if display.quiet and (failed := [*summary.failed, *summary.invalid]):
        by_status = summary.report.n_by_status
        n_failed = by_status[Status.FAILED] + by_status[Status.INVALID]
        fault = f"{failed[0].id}: {one_line(failed[0].error)}"
        message(f"leadline: {counted(n_failed, 'problem')} failed, e.g. {fault}")
    if not display.as_json and not display.quiet:
        if sys.stdout.isatty():
            results_console().print()
        results_console().print(summary_table(summary))
    return _exit_code(summary, execution, resume_command)


def _extent(job: Job, n_resumed: int) -> str:
    """Return how many problems a job has, and how many of them are not new."""
    n_retried = len(job.journal.failed().intersection(p.id for p in job.remaining()))
    notes = (
        f", {n_resumed:,} of them done before" if n_resumed else "",
        f", {n_retried:,} that failed are tried again" if n_retried else "",
    )
    return counted(len(job.problems), "problem") + "".join(notes)


def _exit_code(summary: Summary, execution: Execution, resume_command: str) -> int:
    """Return the exit code of a finished job; print how failed problems are tried again."""
    n_failed = summary.report.n_by_status[Status.FAILED]
    n_problems = summary.report.n_results - summary.report.n_by_status[Status.INVALID]
    if n_failed:
        problems, are = counted(n_failed, "problem"), "is" if n_failed == 1 else "are"
        message(f"\n{problems} failed and {are} tried again by: {resume_command}")
    if not execution.supervision.allows(n_failed, n_problems):
        message(f"more failed than supervision.max_failed = {execution.supervision.max_failed:g}")
        return TOO_MANY_FAILED
    return 1 if summary.all_failed else 0


def _run_remaining(
    job: Job, plan: Plan, execution: Execution, title: str, display: DisplayOptions
) -> Outcome:
    if not job.remaining():  # no engine, so no log of one
        return Outcome()
    with engine_log(job.directory, display) as stream:
        return run_in_foreground(job, plan, execution, title, display, stream)


def _summary(
    job: Job,
    plan: Plan,
    execution: Execution,
    source: JobSource,
    file: ProblemFile,
    references: References,
    outcome: Outcome,
    n_resumed: int,
) -> Summary:
    is_done = not outcome.signal_number
    answers = references.answers if is_done else {}
    domains = file.domains(plan.domain)
    wants_batch = source.format == "openai-batch" or (
        source.format == "auto" and file.format is Format.OPENAI_BATCH
    )
    return summarise(
        job,
        _correctness(job, answers, domains, plan, execution),
        [reference.problem_id for reference in references.unreadable],
        seconds=outcome.seconds,
        start_seconds=outcome.start_seconds,
        n_resumed=n_resumed,
        n_new_tokens=outcome.progress.output_tokens if outcome.progress else 0,
        outages=outcome.progress.outages if outcome.progress else None,
        batch_output=write_batch_output(job, plan) if wants_batch and is_done else None,
        interrupted=not is_done,
        chosen=auto.description(plan) or "",
    )


def _correctness(
    job: Job,
    answers: RightAnswers,
    domains: Mapping[str, str],
    plan: Plan,
    execution: Execution,
) -> Mapping[str, bool | None]:
    """Return which problems were answered correctly; nothing, with a note, if that fails."""
    try:
        return correctness(job.iter_results(), answers, domains, plan, execution)
    except (LeadlineError, OSError, KeyboardInterrupt) as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        message(
            f"note: the accuracy was not computed: {reason}; the results are complete. For the "
            f"accuracy: leadline eval {shlex.quote(str(job.directory))}"
        )
        return {}


def _program() -> str:
    """Return the command to call this program: its bare name if the shell finds it."""
    called = sys.argv[0]
    found = shutil.which("leadline")
    is_plain = Path(called).name != "leadline" or (
        found is not None and Path(found).resolve() == Path(called).resolve()
    )
    return "leadline" if is_plain else shlex.quote(called)


@contextlib.contextmanager
def _naming_remedy(resume_command: str) -> Iterator[None]:
    """Add the command to continue to the message of an error that ends the run in the block."""
    try:
        yield
    except (EngineError, TooManyFailed) as error:
        raise type(error)(
            f"{error}\nresults and finished traces are kept; when the cause is fixed, continue "
            f"with: {resume_command}"
        ) from error


def _report_choice(plan: Plan, display: DisplayOptions) -> None:
    """Print the choice of `auto`."""
    choice = auto.description(plan)
    if choice and not display.quiet:
        message(f"auto chose {choice}")
