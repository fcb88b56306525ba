"""`leadline solve`: answers one question and shows the vote."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from orchestrator.cli.console import message, print_json, results_console
from orchestrator.cli.foreground import run_remaining
from orchestrator.cli.inputs import report_choice, run_name
from orchestrator.cli.options import DisplayOptions, PlanCommand, display_options, server_option
from orchestrator.cli.runs.server import read_served_plan
from orchestrator.cli.view.numbers import one_line
from orchestrator.cli.view.tables import print_traces, solution_table
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem, Result, Status, Trace
from orchestrator.core.votes import AttemptState
from orchestrator.jobs.job import open_job, result_row
from orchestrator.report.losses import LossCause, Losses, loss_causes
from orchestrator.report.tables.rows import attempts_json
from orchestrator.runtime.sinks.reporting import reporting


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
@server_option
@click.option("--show-traces", is_flag=True, help="Also print the text of every trace.")
@display_options
def solve(
    question: str,
    plan_file: str | None,
    flags: Mapping[str, str],
    server: str | None,
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
    loaded, engines = read_served_plan(plan_file, flags, server, display, is_batch=False)
    plan, execution = loaded.plan, loaded.execution
    report_choice(plan, display)
    with contextlib.ExitStack() as stack:
        directory = flags.get("out") or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="leadline-")
        )
        problem = Problem("question", text, plan.domain)
        job = stack.enter_context(open_job(Path(directory), plan, [problem]))
        title = f"{one_line(text)} · {run_name(plan, execution)}"
        with reporting(job, plan, execution, run_name(plan, execution), message) as sinks:
            outcome = run_remaining(job, plan, execution, title, display, sinks, engines)
        results = job.results()
        causes = _causes(results, plan, directory)
        traces = sorted(job.journal.arrived(problem.id), key=lambda t: t.ordinal)
    if not results:
        if outcome.spent:
            message(f"\n{outcome.spent}")
        kept = f"finished traces are kept in {directory}; the same command continues"
        message(f"\nstopped; {kept if 'out' in flags else 'nothing is kept without --out'}")
        return outcome.exit_code
    [result] = results
    _print_solution(text, result, traces if show_traces else None, outcome.seconds, display)
    if not display.as_json:
        for cause in causes:
            message(f"{cause.cause}: {cause.n} {cause.text}")
    return 1 if result.status is Status.FAILED else 0


def _causes(results: Sequence[Result], plan: Plan, directory: str) -> list[LossCause]:
    """Return the cause of lost accuracy that needs no job to look into: attempts that were cut."""
    states = results[0].attempts if results else {}
    causes = loss_causes(Losses(states, 1), plan, directory)
    return [cause for cause in causes if cause.cause == AttemptState.CUT_OFF]


def _print_solution(
    question: str,
    result: Result,
    traces: Sequence[Trace] | None,
    seconds: float,
    display: DisplayOptions,
) -> None:
    """Print the answer and its vote; the traces too, unless they are None."""
    if display.as_json:
        document = {"question": question, "result": result_row(result), "seconds": seconds}
        print_json(document | ({} if traces is None else attempts_json(traces, result)))
        return
    console = results_console()
    if traces is not None:
        print_traces(console, traces)
        console.rule(style="dim")
    console.print(solution_table(result, seconds or result.seconds))
