"""`leadline sweep`: runs a job at each effort and reports accuracy over depth, thinking and width.

The surface is written as tables, files and plots. The directory of a sweep contains one job
directory per effort (an ordinary one, which can be resumed and evaluated), surface.json,
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
    report_option,
)
from orchestrator.cli.runs.closing import print_report
from orchestrator.cli.view.sweep import best_lines, effort_name, surface_table
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.jobs.files import write_atomically
from orchestrator.plan import registry
from orchestrator.plan.file import LoadedPlan, plan_toml
from orchestrator.runtime.annotate import Annotator
from orchestrator.studies.evaluate import RightAnswers, right_keys
from orchestrator.studies.summary import compare_answers
from orchestrator.studies.sweep.levels import Effort, Right
from orchestrator.studies.sweep.plans import Planner, deepen_plan, fixed_plan, own_depth, planner
from orchestrator.studies.sweep.series import Member, Pools, Series, series
from orchestrator.studies.sweep.surface import (
    Chances,
    Surface,
    by_drawing,
    by_majority,
    parse_counts,
    parse_limits,
    surface,
)


@dataclass(frozen=True, slots=True)
class _Sweep:
    """The measurement: a job at each effort, and the widths to evaluate in their pools."""

    jobs: Series
    efforts: tuple[Effort, ...]
    planner: Planner
    widths: tuple[int, ...]
    references: RightAnswers

    @property
    def plan(self) -> Plan:
        """The plan of the first effort: they differ in the effort alone."""
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
    "--thinking",
    default="",
    metavar="T,T,...",
    help="Limits of an attempt's thinking in tokens, as 512,1024 or 256..4096 (doubling); 0 is no "
    "limit.  [default: the plan's own]",
)
@click.option(
    "--widths",
    default="1..16",
    metavar="K,K,...",
    show_default=True,
    help="Attempts per problem, as 1,4,16 or 1..64 (doubling).",
)
@limit_option
@report_option
@display_options
def sweep(
    plan_file: str | None,
    flags: Mapping[str, str],
    depths: str,
    thinking: str,
    widths: str,
    limit: int,
    with_report: bool,
    display: DisplayOptions,
) -> int:
    """Measure accuracy and cost over latent depth, thinking and width.

    Also finds the cheapest setting that is as good as the best. Samples every problem once at each
    depth and each limit of thinking, at the largest width, and evaluates smaller widths from the
    same traces. Writes surface.json, best.toml (a plan for `leadline run`) and surface.png to the
    directory --out, by default that of the plan's job with "-sweep" added. Run the same command
    again to continue an interrupted sweep.

    \b
    Examples:
      leadline sweep plan.toml --depths 1,2,4,8 --widths 1..64
      leadline sweep plan.toml --depths 1..8 --widths 1,4,16 --limit 100 --out runs/surface
      leadline sweep plan.toml --thinking 512,1024,2048 --sampling.max_new_tokens 3072
    """
    axes = _Axes(depths, thinking, widths)
    study = _prepared(read_plan(plan_file, flags), flags, axes, limit)
    pools, exit_code = run_series(study.jobs, display)
    if exit_code:
        return exit_code
    measured = _surface(study, pools)
    files = _write(study, measured)
    if display.as_json:
        print_json(measured)
    elif not display.quiet:
        console = results_console()
        console.print(surface_table(measured))
        written = f"written to {study.jobs.directory}: {', '.join(files)}"
        for line in (*best_lines(measured), written):
            console.print(line, soft_wrap=True, markup=False)
    if with_report:
        print_report(study.jobs.directory, 0, display)
    return 0


@dataclass(frozen=True, slots=True)
class _Axes:
    """The axes as the command line has them; an empty one is the plan's own value."""

    depths: str
    thinking: str
    widths: str

    def efforts(self, plan: Plan) -> tuple[Effort, ...]:
        """Return each thinking of each depth; PlanError for what is no number."""
        depths = parse_counts(self.depths, "--depths") if self.depths else (own_depth(plan),)
        own = (plan.sampling.thinking_tokens,)
        thinking = parse_limits(self.thinking, "--thinking") if self.thinking else own
        return tuple(Effort(depth, n) for depth in depths for n in thinking)


def _prepared(loaded: LoadedPlan, flags: Mapping[str, str], axes: _Axes, limit: int) -> _Sweep:
    """Return the measurement to run; PlanError before anything starts."""
    job_directory(loaded, "sweep")
    plan = loaded.plan
    efforts, planned = axes.efforts(plan), planner(plan, bool(axes.thinking))
    widths = parse_counts(axes.widths, "--widths")
    for name in ("traces", "tokens", "seconds"):
        if getattr(plan.budget, name):
            raise PlanError(
                f"a sweep samples every problem in full, and budget.{name} would cut it "
                f"short; leave it out, or give --budget.{name} 0"
            )
    members = [
        Member(planned(plan, effort, max(widths)), _folder(effort), effort_name(effort))
        for effort in efforts
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
    return _Sweep(jobs, efforts, planned, widths, references)


def _folder(effort: Effort) -> str:
    """Return the folder of an effort's job, the same whatever else is swept."""
    depth = f"depth-{effort.depth or 'own'}"
    thinking = f"thinking-{effort.thinking}"
    if not effort.thinking:
        return depth
    return f"{depth}-{thinking}" if effort.depth else thinking


def _surface(study: _Sweep, pools: Sequence[Pools]) -> Surface:
    by_effort = {
        effort: {id: of_effort[id] for id in study.references}
        for effort, of_effort in zip(study.efforts, pools, strict=True)
    }
    domains = {problem.id: problem.domain for problem in study.jobs.file.problems}

    async def right_answers(annotator: Annotator) -> dict[Effort, Right]:
        return {
            effort: await right_keys(of_effort, study.references, domains, annotator.accepts)
            for effort, of_effort in by_effort.items()
        }

    selector = study.plan.selector
    chances: Chances = (
        by_majority
        if selector.name == "majority"
        else by_drawing(registry.load("selectors", selector))
    )
    right = compare_answers(study.plan, study.jobs.execution, right_answers)
    return surface(by_effort, right, study.widths, selector.name, chances)


def _write(study: _Sweep, measured: Surface) -> list[str]:
    """Write numbers, plans and plots; return the files' names, and a remark on missing plots."""
    jobs, plan, chosen = study.jobs, study.plan, measured.settings[measured.cheapest]
    directory = jobs.directory
    write_json(directory / "surface.json", measured)
    best = study.planner(plan, chosen.effort, chosen.width)
    _write_plan(jobs, "best", best, best_lines(measured))
    names = ["surface.json", "best.toml"]
    if chosen.depth and study.planner is fixed_plan:  # `deepen` forces no thinking
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
