"""The commands that answer a file of problems: `leadline run` and `resume`.

Results and tables go to the standard output, messages to the error stream. A LeadlineError is
printed by `main`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from orchestrator.cli.inputs import job_directory, local_problems
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
from orchestrator.cli.runs.closing import print_recipe, print_report
from orchestrator.cli.runs.dry_run import DryRun, dry_run_options, print_costs
from orchestrator.cli.runs.job import JobRun, run_job
from orchestrator.cli.runs.server import is_address, read_served_plan
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.jobs.source import (
    PLAN_FILE,
    fresh_directory,
    job_source,
    read_source,
    require_unchanged,
    same_or_wider,
)
from orchestrator.plan import auto
from orchestrator.plan.file import LoadedPlan, load_plan

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
    code = run_job(
        JobRun(directory, plan, loaded.execution, engines, source, display, retry_failed, limit)
    )
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
    return run_job(
        JobRun(path, loaded.plan, loaded.execution, engines, source, display, retry_failed)
    )


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
