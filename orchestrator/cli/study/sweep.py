"""`leadline sweep`: runs a job at each depth and reports accuracy over depth and width.

The surface is written as tables, files and plots. The directory of a sweep contains one job
directory per depth (an ordinary one, which can be resumed and evaluated), surface.json,
surface.png, best.toml and, if depths were compared, deepen.toml. The same command again continues
an interrupted sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import click

from orchestrator.cli.console import print_json, results_console, write_json
from orchestrator.cli.foreground import run_series
from orchestrator.cli.inputs import (
    first_problems,
    job_directory,
    local_problems,
    read_plan,
    required_references,
    study_directory,
)
from orchestrator.cli.options import (
    DisplayOptions,
    PlanCommand,
    display_options,
    limit_option,
    plan_argument,
)
from orchestrator.cli.view.numbers import depth_name
from orchestrator.cli.view.sweep import best_lines, surface_table
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.jobs.files import write_atomically
from orchestrator.plan import registry
from orchestrator.plan.file import LoadedPlan, plan_toml
from orchestrator.runtime.annotate import Annotator
from orchestrator.studies.evaluate import RightAnswers, right_keys
from orchestrator.studies.summary import compare_answers
from orchestrator.studies.sweep.levels import Right
from orchestrator.studies.sweep.plans import best_plan, deepen_plan, fixed_plan, own_depth
from orchestrator.studies.sweep.series import Member, Pools, Series, series
from orchestrator.studies.sweep.surface import (
    Chances,
    Surface,
    by_drawing,
    by_majority,
    parse_counts,
    surface,
)


@dataclass(frozen=True, slots=True)
class _Sweep:
    """The measurement: a job at each depth, and the widths to evaluate in their pools."""

    jobs: Series
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    references: RightAnswers

    @property
    def plan(self) -> Plan:
        """The plan of the first depth: they differ in the depth alone."""
        return self.jobs.members[0].plan


@click.command(cls=PlanCommand)
@plan_argument
@click.option(
    "--depths",
    default="",
    metavar="D,D,...",
    help="Latent depths, as 1,2,6 or 1..8 (doubling).  [default: the plan's own]",
)
@click.option(
    "--widths",
    default="1..16",
    metavar="K,K,...",
    show_default=True,
    help="Attempts per problem, as 1,4,16 or 1..64 (doubling).",
)
@limit_option
@display_options
def sweep(
    plan_file: str | None,
    flags: Mapping[str, str],
    depths: str,
    widths: str,
    limit: int,
    display: DisplayOptions,
) -> int:
    """Measure accuracy and cost over latent depth and width.

    Also finds the cheapest setting that is as good as the best. Samples every problem once at each
    depth, at the largest width, and evaluates smaller widths from the same traces. Writes
    surface.json, best.toml (a plan for `leadline run`) and surface.png to the directory --out, by
    default that of the plan's job with "-sweep" added. Run the same command again to continue an
    interrupted sweep.

    \b
    Examples:
      leadline sweep plan.toml --depths 1,2,4,8 --widths 1..64
      leadline sweep plan.toml --depths 1..8 --widths 1,4,16 --limit 100 --out runs/surface
    """
    study = _prepared(read_plan(plan_file, flags), flags, depths, widths, limit)
    pools, exit_code = run_series(study.jobs, display)
    if exit_code:
        return exit_code
    measured = _surface(study, pools)
    files = _write(study.jobs, study.plan, measured)
    if display.as_json:
        print_json(measured)
    elif not display.quiet:
        console = results_console()
        console.print(surface_table(measured))
        written = f"written to {study.jobs.directory}: {', '.join(files)}"
        for line in (*best_lines(measured), written):
            console.print(line, soft_wrap=True, markup=False)
    return 0


def _prepared(
    loaded: LoadedPlan, flags: Mapping[str, str], depths: str, widths: str, limit: int
) -> _Sweep:
    """Return the measurement to run; PlanError before anything starts."""
    job_directory(loaded, "sweep")
    plan = loaded.plan
    all_depths = parse_counts(depths, "--depths") if depths else (own_depth(plan),)
    all_widths = parse_counts(widths, "--widths")
    for name in ("traces", "tokens", "seconds"):
        if getattr(plan.budget, name):
            raise PlanError(
                f"a sweep samples every problem in full, and budget.{name} would cut it "
                f"short; leave it out, or give --budget.{name} 0"
            )
    members = [
        Member(
            fixed_plan(plan, depth, max(all_widths)),
            f"depth-{depth}" if depth else "depth-own",
            f"depth {depth_name(depth)}",
        )
        for depth in all_depths
    ]
    directory = study_directory(loaded, flags, "sweep")
    loaded, problems = local_problems(loaded, directory)
    file = first_problems(problems, plan, limit)
    jobs = series(loaded, directory, members, file, limit)
    domains = {problem.id: problem.domain for problem in file.problems}
    references = required_references(problems, domains, plan, loaded.execution).answers
    if not references:
        raise PlanError(
            f"{problems} has no reference answers (`answer`), without which there is no "
            "accuracy to sweep"
        )
    return _Sweep(jobs, all_depths, all_widths, references)


def _surface(study: _Sweep, pools: Sequence[Pools]) -> Surface:
    by_depth = {
        depth: {id: of_depth[id] for id in study.references}
        for depth, of_depth in zip(study.depths, pools, strict=True)
    }
    domains = {problem.id: problem.domain for problem in study.jobs.file.problems}

    async def right_answers(annotator: Annotator) -> dict[int, Right]:
        return {
            depth: await right_keys(of_depth, study.references, domains, annotator.accepts)
            for depth, of_depth in by_depth.items()
        }

    selector = study.plan.selector
    chances: Chances = (
        by_majority
        if selector.name == "majority"
        else by_drawing(registry.load("selectors", selector))
    )
    right = compare_answers(study.plan, study.jobs.execution, right_answers)
    return surface(by_depth, right, study.widths, selector.name, chances)


def _write(jobs: Series, plan: Plan, measured: Surface) -> list[str]:
    """Write numbers, plans and plots; return the files' names, and a remark on missing plots."""
    directory = jobs.directory
    write_json(directory / "surface.json", measured)
    _write_plan(jobs, "best", best_plan(plan, measured), best_lines(measured))
    names = ["surface.json", "best.toml"]
    if measured.settings[measured.cheapest].depth:
        _write_plan(jobs, "deepen", *deepen_plan(plan, measured))
        names.append("deepen.toml")
    try:
        from orchestrator.cli.view.plots import surface_picture
    except ModuleNotFoundError:
        return [
            *names,
            "and with matplotlib (pip install 'leadline[plot]') the same command draws surface.png",
        ]
    write_atomically(directory / "surface.png", surface_picture(measured))
    return [*names, "surface.png"]


def _write_plan(jobs: Series, name: str, plan: Plan, remarks: Iterable[str]) -> None:
    """Write a plan file for the problems of the sweep, with remarks at its top."""
    out = str(jobs.directory / name)
    text = plan_toml(plan, jobs.execution, problems=jobs.source.problems, out=out)
    head = "".join(f"# {line}\n" for line in remarks)
    write_atomically(jobs.directory / f"{name}.toml", f"{head}{text}".encode())
