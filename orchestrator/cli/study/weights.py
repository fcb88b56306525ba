"""`leadline weights`: the weights of an ensemble, from the pools of finished jobs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import message, print_json, redirected, results_console
from orchestrator.cli.options import EXIT_CODES, debug_option, json_option
from orchestrator.cli.view.numbers import count, estimate_text, interval, share
from orchestrator.cli.view.tables import numbers_table
from orchestrator.studies.ensembles import EnsembleFit, fit_ensemble, read_questions


@click.command(epilog=EXIT_CODES)
@click.argument("jobs", nargs=-1, required=True, type=click.Path(), metavar="JOB...")
@click.option(
    "--problems",
    default="",
    type=click.Path(),
    metavar="FILE",
    help="File with the reference answers, if they are not in the files that were run.",
)
@json_option
@debug_option
def weights(jobs: tuple[str, ...], problems: str, as_json: bool) -> int:
    """Fit the weights with which several models together solve the most problems in one vote.

    The result is for the strategy `ensemble` (the program of Best-of-infinity). A JOB is the
    directory of a finished job with reference answers: one job in which several models answered, or
    one job for each model on the same problems. Prints the accuracy of each model and of the
    weighted vote in the limit of many draws, also on held-out problems (five folds).

    \b
    Examples:
      leadline weights runs/ensemble
      leadline weights runs/small runs/large --problems problems.jsonl
    """
    questions = read_questions([Path(job) for job in jobs], problems)
    for note in questions.notes:
        message(f"note: {note}")
    # HiGHS has left a debugging line in its native code; the standard output may be JSON
    with redirected((1,), os.open(os.devnull, os.O_WRONLY)):
        fit = fit_ensemble(questions)
    if as_json:
        print_json(fit)
        return 0
    console = results_console()
    console.print(_table(fit))
    held_out = f"; held out {estimate_text(fit.held_out)}" if fit.held_out else ""
    vote = (
        f"weighted vote, in the limit: {estimate_text(fit.fitted)} on the problems of the "
        f"fit{held_out}"
    )
    console.print(Text(vote, style="bold"), soft_wrap=True)
    if fit.n_left_out:
        left_out = f"{fit.n_left_out:,} problems are left out: some model has no attempt at them"
        console.print(Text(left_out, style="yellow"), soft_wrap=True)
    rounded = [round(weight, 4) for weight in fit.weights]
    options = f"models = {json.dumps(fit.models)}, weights = {json.dumps(rounded)}"
    plan = f'strategy = {{name = "ensemble", {options}}}'
    console.print(Text(f"in a plan: {plan}", style="dim"), soft_wrap=True)
    return 0


def _table(fit: EnsembleFit) -> Table:
    headings = ("model", "path", "traces", "alone", "95% interval", "weight")
    table = numbers_table(headings, n_texts=2)
    for name, path, n, own, weight in zip(
        fit.models, fit.paths, fit.n_traces, fit.alone, fit.weights, strict=True
    ):
        accuracy_alone = share(own.value if own else None)
        table.add_row(
            Text(name), Text(path), count(n), accuracy_alone, interval(own), f"{weight:.3f}"
        )
    return table
