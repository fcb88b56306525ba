"""`leadline temperature`: TURN's choice, from the entropies of a small job at each temperature."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import log
from typing import Literal

import click
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import print_json, results_console, write_json
from orchestrator.cli.foreground import run_series
from orchestrator.cli.inputs import (
    first_problems,
    job_directory,
    local_problems,
    read_plan,
    study_directory,
)
from orchestrator.cli.options import DisplayOptions, PlanCommand, display_options, plan_argument
from orchestrator.cli.view.tables import numbers_table
from orchestrator.core.errors import PlanError
from orchestrator.studies.sweep.series import Member, Series, series
from orchestrator.studies.temperature import (
    FOR_BEST,
    FOR_VOTING,
    GRID,
    TemperatureChoice,
    chosen_from,
    mean_entropy,
    plan_at,
    require_processed,
)


@click.command(
    cls=PlanCommand,
    accepts=lambda key: not key.startswith(("strategy", "selector", "verifiers", "budget")),
    without=(
        "sampling.temperature",
        "sampling.top_p",
        "sampling.top_k",
        "sampling.min_p",
        "sampling.max_new_tokens",
    ),
)
@plan_argument
@click.option(
    "--temperatures",
    default="",
    metavar="T,T,...",
    help="At least three, ascending.  [default: 0.1,0.2,...,1.4]",
)
@click.option(
    "--samples",
    "n_samples",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Number of traces at each temperature.",
)
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["vote", "best"]),
    default="vote",
    show_default=True,
    help="Use of the traces: a vote uses the turning point, best-of-n 0.1 more.",
)
@display_options
def temperature(
    plan_file: str | None,
    flags: Mapping[str, str],
    temperatures: str,
    n_samples: int,
    purpose: Literal["vote", "best"],
    display: DisplayOptions,
) -> int:
    """Choose the sampling temperature by the method TURN.

    TURN chooses the temperature at which the log of the mean token entropy turns from concave to
    convex. Samples N traces of at most 1024 tokens at each temperature, one for each of the first N
    problems. No reference answers are needed. The engine must report log-probabilities at the
    sampling temperature (vllm: --execution.engine.processed_logprobs true). The jobs and
    temperature.json go to the directory --out, by default that of the plan's job with
    "-temperature" added. The same command again continues an interrupted measurement.

    \b
    Examples:
      leadline temperature plan.toml
      leadline temperature plan.toml --temperatures 0.4,0.6,0.8,1.0,1.2 --for best
    """
    grid = _grid(temperatures)
    jobs = _series(plan_file, flags, grid, n_samples)
    pools, exit_code = run_series(jobs, display)
    if exit_code:
        return exit_code
    entropies = [
        mean_entropy(list(by_problem.values()), t)
        for t, by_problem in zip(grid, pools, strict=True)
    ]
    choice = chosen_from(grid, entropies, FOR_BEST if purpose == "best" else FOR_VOTING)
    write_json(jobs.directory / "temperature.json", choice)
    if display.as_json:
        print_json(choice)
        return 0
    console = results_console()
    if not display.quiet:
        console.print(_table(choice, purpose))
    console.print(Text(f"sampling.temperature = {choice.temperature:g}", style="bold"))
    if not display.quiet:
        written = Text(f"written to {jobs.directory}: temperature.json", style="dim")
        console.print(written, soft_wrap=True)
    return 0


def _grid(text: str) -> tuple[float, ...]:
    if not text:
        return GRID
    error = PlanError(
        f"--temperatures {text!r}: give at least three numbers above 0, ascending, as in "
        "0.4,0.6,0.8,1.0"
    )
    try:
        grid = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise error from None
    if len(grid) < 3 or not all(0 < a < b < float("inf") for a, b in pairwise(grid)):
        raise error
    return grid


def _series(
    plan_file: str | None, flags: Mapping[str, str], grid: tuple[float, ...], n_samples: int
) -> Series:
    """Return the jobs to run, one a temperature; PlanError before anything starts."""
    loaded = read_plan(plan_file, flags)
    job_directory(loaded, "sample")
    require_processed(loaded.execution)
    directory = study_directory(loaded, flags, "temperature")
    loaded, problems = local_problems(loaded, directory)
    file = first_problems(problems, loaded.plan, n_samples)
    n_each = max(1, n_samples // len(file.problems))
    members = [
        Member(plan_at(loaded.plan, t, n_each), f"t-{t:g}", f"temperature {t:g}") for t in grid
    ]
    return series(loaded, directory, members, file, n_samples)


def _table(choice: TemperatureChoice, purpose: str) -> Table:
    offset = " and 0.1 more for best-of-n" if purpose == "best" else ""
    table = numbers_table(
        ("temperature", "nats a token", "log", ""),
        title=f"Mean token entropy; ◆ where its log turns convex{offset}",
    )
    for t, entropy in zip(choice.temperatures, choice.entropies, strict=True):
        mark = "◆" if t == choice.turn else ""
        table.add_row(f"{t:g}", f"{entropy:.3f}", f"{log(entropy):.2f}", mark)
    return table
