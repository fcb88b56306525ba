"""What `leadline temperature` does: a small job per temperature on one engine, then TURN's choice
from the entropies of their traces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import log
from pathlib import Path

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from orchestrator.cli.foreground import KeptEngine
from orchestrator.cli.run import (
    DisplayOptions,
    engine_log,
    give_notice,
    perform,
    print_json,
    read_plan,
    say,
    stdout,
    who,
)
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.jobs.files import write_atomically
from orchestrator.jobs.job import open_job
from orchestrator.jobs.problems import ProblemFile, read_problems
from orchestrator.jobs.source import JobSource, job_source, require_same_file, write_source
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution
from orchestrator.studies.temperature import (
    FOR_BEST,
    FOR_VOTING,
    GRID,
    Choice,
    chosen_from,
    mean_entropy,
    plan_at,
    require_processed,
)


@dataclass(frozen=True, slots=True)
class _Curve:
    """What is to be sampled: a plan per temperature, over these problems, into this directory."""

    directory: Path
    plans: Mapping[float, Plan]
    execution: Execution
    file: ProblemFile
    asked: JobSource


def temperature(
    plan_file: str | None,
    flags: Mapping[str, str],
    temperatures: str,
    n_samples: int,
    purpose: str,
    shown: DisplayOptions,
) -> int:
    """Measure the entropy at each temperature, or go on with it, and say at which one to sample."""
    todo = _prepared(plan_file, flags, _grid(temperatures), n_samples)
    give_notice(todo.file, shown)
    entropies, exit_code = _measured(todo, shown)
    if exit_code:
        say(f"\nstopped; what arrived is kept in {todo.directory}: the same command goes on")
        return exit_code
    choice = chosen_from(
        tuple(todo.plans), entropies, FOR_BEST if purpose == "best" else FOR_VOTING
    )
    write_atomically(
        todo.directory / "temperature.json",
        msgspec.json.format(msgspec.json.encode(choice), indent=2) + b"\n",
    )
    if shown.as_json:
        print_json(choice)
        return 0
    console = stdout()
    if not shown.quiet:
        console.print(_table(choice, purpose))
    console.print(Text(f"sampling.temperature = {choice.temperature:g}", style="bold"))
    if not shown.quiet:
        console.print(
            Text(f"written to {todo.directory}: temperature.json", style="dim"), soft_wrap=True
        )
    return 0


def _grid(text: str) -> tuple[float, ...]:
    if not text:
        return GRID
    fault = PlanError(
        f"--temperatures {text!r}: give at least three numbers above 0, ascending, as in 0.4,0.6,0.8,1.0"
    )
    try:
        grid = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise fault from error
    if len(grid) < 3 or not all(0 < a < b < float("inf") for a, b in pairwise(grid)):
        raise fault
    return grid


def _prepared(
    plan_file: str | None, flags: Mapping[str, str], grid: tuple[float, ...], n_samples: int
) -> _Curve:
    """Return the work to do, or PlanError before anything is started."""
    loaded = read_plan(plan_file, flags)
    if loaded.problems is None or loaded.out is None:
        raise PlanError(
            "there is nothing to sample: name a plan with a `problems` key, or give --problems FILE"
        )
    require_processed(loaded.execution)
    file = read_problems(
        loaded.problems,
        default_domain=loaded.plan.domain,
        domains=loaded.plan.domains,
        limit=n_samples,
    )
    plans = {t: plan_at(loaded.plan, t, max(1, n_samples // len(file.problems))) for t in grid}
    for plan in plans.values():
        check_plan(plan, loaded.execution)
    directory = (
        loaded.out if "out" in flags else loaded.out.with_name(f"{loaded.out.name}-temperature")
    )
    if (directory / "journal.db").exists():
        raise PlanError(f"{directory} is the directory of a job; choose another with --out")
    asked = job_source(loaded.problems, n_samples, loaded.format)
    for t in plans:
        require_same_file(_place(directory, t), asked)
    return _Curve(directory, plans, loaded.execution, file, asked)


def _place(directory: Path, t: float) -> Path:
    return directory / f"t-{t:g}"


def _measured(todo: _Curve, shown: DisplayOptions) -> tuple[tuple[float, ...], int]:
    """Return the mean entropy at each temperature and 0, or those so far and the exit code of the
    signal that ended it.
    """
    entropies: list[float] = []
    todo.directory.mkdir(parents=True, exist_ok=True)
    with engine_log(todo.directory, shown) as stream, KeptEngine(todo.execution) as kept:
        for number, (t, plan) in enumerate(todo.plans.items(), 1):
            file = todo.file
            with open_job(
                _place(todo.directory, t), plan, file.problems, file.invalid, file.order
            ) as job:
                write_source(job, plan, todo.execution, todo.asked)
                if job.remaining():
                    title = f"{job.directory} · {number} of {len(todo.plans)} · temperature {t:g} · {who(plan, todo.execution)}"
                    outcome = perform(job, plan, todo.execution, title, shown, stream, kept)
                    if outcome.exit_code:
                        return tuple(entropies), outcome.exit_code
                entropies.append(
                    mean_entropy([job.journal.pool(problem.id) for problem in file.problems], t)
                )
    return tuple(entropies), 0


def _table(choice: Choice, purpose: str) -> Table:
    more = " and 0.1 more for best-of-n" if purpose == "best" else ""
    table = Table(
        box=SIMPLE_HEAD,
        title=Text(f"Mean token entropy; ◆ where its log turns convex{more}", style="bold"),
        title_justify="left",
    )
    for heading in ("temperature", "nats a token", "log", ""):
        table.add_column(heading, justify="right")
    for t, entropy in zip(choice.temperatures, choice.entropies, strict=True):
        table.add_row(
            f"{t:g}", f"{entropy:.3f}", f"{log(entropy):.2f}", "◆" if t == choice.turn else ""
        )
    return table
