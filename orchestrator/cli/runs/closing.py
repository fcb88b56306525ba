"""What a run prints when it ends, and its exit code.

The tables themselves are in `orchestrator.cli.view.tables`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from orchestrator.cli.console import message, print_json, results_console
from orchestrator.cli.inputs import report_choice
from orchestrator.cli.options import TOO_MANY_FAILED, DisplayOptions
from orchestrator.cli.view.numbers import counted, estimate_text, one_line
from orchestrator.cli.view.tables import summary_table
from orchestrator.core.errors import BudgetSpent
from orchestrator.core.plan import Plan
from orchestrator.core.values import Status
from orchestrator.jobs.finished import read_finished
from orchestrator.plan.execution import Execution
from orchestrator.plan.file.recipes import RECIPES
from orchestrator.plan.file.sources import published
from orchestrator.report.kept import KeptReport
from orchestrator.report.losses import loss_causes, losses_of
from orchestrator.studies.summary import Summary, passing_share

_SIGNALLED = 128  # the first exit code of a run that a signal ended


def print_stop(
    summary: Summary, n_problems: int, plan: Plan, resume_command: str, display: DisplayOptions
) -> None:
    """Print that a signal ended the run, what is kept, and how it continues."""
    if display.as_json:
        _print_json(summary, plan)
    n_done = f"{n_problems - summary.n_open:,} of {n_problems:,}"
    message(
        f"\nstopped: {n_done} problems are done; all other finished traces are kept in "
        f"{summary.directory}\nto continue: {resume_command}"
    )


def print_known(known: KeptReport, plan: Plan, display: DisplayOptions) -> None:
    """Print the kept report of a finished job."""
    for note in (*(() if display.quiet else known.rows), *known.references):
        message(note)
    report_choice(plan, display)
    print_summary(known.summary, plan, display)


def _print_json(summary: Summary, plan: Plan) -> None:
    causes = loss_causes(losses_of(summary.report), plan, summary.directory)
    print_json({**msgspec.to_builtins(summary), "losses": causes})


def print_summary(summary: Summary, plan: Plan, display: DisplayOptions) -> None:
    """Print the summary of a job that came to its end."""
    if display.as_json:
        _print_json(summary, plan)
    if display.quiet and (failed := [*summary.failed, *summary.invalid]):
        by_status = summary.report.n_by_status
        n_failed = by_status[Status.FAILED] + by_status[Status.INVALID]
        fault = f"{failed[0].id}: {one_line(failed[0].error)}"
        message(f"leadline: {counted(n_failed, 'problem')} failed, e.g. {fault}")
    if not display.as_json and not display.quiet:
        if sys.stdout.isatty():
            results_console().print()
        causes = loss_causes(losses_of(summary.report), plan, summary.directory)
        results_console().print(summary_table(summary, causes))


def print_report(directory: Path, code: int, display: DisplayOptions) -> None:
    """Write the report of a job or sweep that came to its end, and print where it is."""
    if code >= _SIGNALLED:
        return
    from orchestrator.cli.study.results.report import REPORT, write_report  # of use to few runs

    written = write_report([directory], directory / REPORT, directory.name)
    if not display.quiet:
        for line in (
            *(f"note: {note}" for note in written.notes),
            f"report       {directory / REPORT}",
        ):
            message(line)


def print_end_of_budget(spent: BudgetSpent, summary: Summary, resume_command: str) -> None:
    """Print which budget of the job ended the run, and how it continues."""
    limit = getattr(summary.budget, spent.key)
    n_open = f"{counted(summary.n_open, 'problem')} {'is' if summary.n_open == 1 else 'are'}"
    message(f"\n{spent}; {n_open} not done yet, and all finished traces are kept")
    message(
        f"to continue with a larger budget: {resume_command} --budget.{spent.key} {2 * limit:g}"
    )


def exit_code(summary: Summary, execution: Execution, resume_command: str) -> int:
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


def print_recipe(name: str, plan: Plan, directory: Path) -> None:
    """Print the published number of a model, and ours where it is a share of passed tests."""
    for verifier in {v.name for v in plan.verifiers}.intersection(RECIPES[name].verifiers):
        share = passing_share(read_finished(directory), verifier)
        message(f"answers that pass {verifier}: {estimate_text(share)}")
    for line in published(name, plan):
        message(line)
