"""`leadline sweep`: a job at each depth on one engine, then the surface accuracy(depth, width) of
their pools as tables, files and pictures.

The directory of a sweep holds one job directory per depth (each can be resumed, evaluated and
looked at like any other), surface.json, surface.png, best.toml and, where depths were compared,
deepen.toml. The same command again continues an interrupted sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from orchestrator.cli.console import print_json, results_console, write_json
from orchestrator.cli.foreground import run_series
from orchestrator.cli.inputs import (
    first_problems,
    problems_and_directory,
    read_plan,
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
from orchestrator.core.values import PluginSpec
from orchestrator.jobs.files import write_atomically
from orchestrator.plan import registry
from orchestrator.plan.document import plan_toml
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import LoadedPlan
from orchestrator.studies.evaluate import Same, read_references, right_keys
from orchestrator.studies.series import Member, Pools, Series, series
from orchestrator.studies.summary import compare_answers
from orchestrator.studies.sweep import (
    Chances,
    Right,
    Surface,
    by_drawing,
    by_majority,
    first_look,
    parse_counts,
    surface,
)


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What to measure: a job at each depth, and the widths to evaluate in their pools."""

    jobs: Series
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    references: Mapping[str, str]

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
    """Measure accuracy over latent depth and width with its cost, and name the cheapest setting
    that is as good as the best.

    Samples every problem once at each depth, at the largest width, and evaluates smaller widths
    from the same traces. Writes surface.json, best.toml (a plan for `leadline run`) and surface.png
    to the directory --out, by default that of the plan's job with "-sweep" added. The same command
    again continues an interrupted sweep.

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
    """Return what to measure; PlanError before anything starts."""
    problems, _ = problems_and_directory(loaded, "sweep")
    plan = loaded.plan
    all_depths = parse_counts(depths, "--depths") if depths else (_own_depth(plan),)
    all_widths = parse_counts(widths, "--widths")
    for name in ("traces", "tokens", "seconds"):
        if getattr(plan.budget, name):
            raise PlanError(
                f"a sweep samples every problem in full, and budget.{name} would cut it short; leave it out, or give --budget.{name} 0"
            )
    members = [
        Member(
            fixed_plan(plan, depth, max(all_widths)),
            f"depth-{depth}" if depth else "depth-own",
            f"depth {depth_name(depth)}",
        )
        for depth in all_depths
    ]
    file = first_problems(problems, plan, limit)
    jobs = series(loaded, study_directory(loaded, flags, "sweep"), members, file, limit)
    ids = {problem.id for problem in file.problems}
    references = {id: text for id, text in read_references(problems).items() if id in ids}
    if not references:
        raise PlanError(
            f"{problems} has no reference answers (`answer`), without which there is no accuracy to sweep"
        )
    return _Sweep(jobs, all_depths, all_widths, references)


def _own_depth(plan: Plan) -> int:
    """Return the depth that a plan's strategy or its sampling requests, 0 for none; PlanError when
    the strategy uses several.
    """
    strategy = registry.load("strategies", plan.strategy)
    if hasattr(strategy, "depths"):
        raise PlanError(
            f"strategy {plan.strategy.name!r} uses several depths: name those to sweep, as in --depths 1,2,4,8"
        )
    return getattr(strategy, "depth", None) or plan.sampling.depth


def fixed_plan(plan: Plan, depth: int, width: int) -> Plan:
    """Return the plan that takes `width` attempts at `depth` (0: as the model ships) of every
    problem; all else stays.
    """
    return replace(
        plan,
        strategy=PluginSpec("consistency", {"n": width, **_model_option(plan)}),
        sampling=replace(plan.sampling, depth=depth),
    )


def _model_option(plan: Plan) -> dict[str, object]:
    """Return the strategy's option `model`, where it is set."""
    model = plan.strategy.options.get("model")
    return {"model": model} if model else {}


def _surface(study: _Sweep, pools: Sequence[Pools]) -> Surface:
    by_depth = {
        depth: {id: of_depth[id] for id in study.references}
        for depth, of_depth in zip(study.depths, pools, strict=True)
    }
    domains = {problem.id: problem.domain for problem in study.jobs.file.problems}

    async def right_answers(same: Same) -> dict[int, Right]:
        return {
            depth: await right_keys(of_depth, study.references, domains, same)
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
    """Write numbers, plans and pictures; return their names, and how to get pictures where there
    are none.
    """
    directory, problems = jobs.directory, jobs.source.problems
    write_json(directory / "surface.json", measured)
    plans = {"best.toml": best_plan}
    if measured.settings[measured.cheapest].depth:
        plans["deepen.toml"] = deepen_plan
    for name, document in plans.items():
        text = document(plan, jobs.execution, measured, problems, directory)
        write_atomically(directory / name, text.encode())
    names = ["surface.json", *plans]
    try:
        from orchestrator.cli.view.plots import surface_picture
    except ModuleNotFoundError:
        return [
            *names,
            "and with matplotlib (pip install 'leadline[plot]') the same command draws surface.png",
        ]
    write_atomically(directory / "surface.png", surface_picture(measured))
    return [*names, "surface.png"]


def best_plan(
    plan: Plan, execution: Execution, measured: Surface, problems: str, directory: Path
) -> str:
    """Return a plan file for the cheapest setting that is as good as the best, with its numbers on
    top.
    """
    chosen = measured.settings[measured.cheapest]
    text = plan_toml(
        fixed_plan(plan, chosen.depth, chosen.width),
        execution,
        problems=problems,
        out=str((directory / "best").resolve()),
    )
    return "".join(f"# {line}\n" for line in best_lines(measured)) + text


def deepen_plan(
    plan: Plan, execution: Execution, measured: Surface, problems: str, directory: Path
) -> str:
    """Return a plan file for `deepen` that ends at the chosen depth, after a first look if one
    saves, calibrated as measured.

    It may take as many traces as the chosen setting does, and its first look beside them. Its
    confidence allows stopping early to cost about one of the problems swept.
    """
    chosen = measured.settings[measured.cheapest]
    deep = next(level for level in measured.levels if level.depth == chosen.depth)
    shallow = first_look(measured.levels, deep)
    used = [deep] if shallow is None else [shallow, deep]
    options: dict[str, object] = {
        **_model_option(plan),
        "depths": [level.depth for level in used],
        "n": chosen.width + (len(used) - 1) * deep.n_agreed,
        "confidence": round(min(0.999, max(0.95, 1.0 - 1.0 / measured.n_problems)), 4),
        "accuracies": [round(level.accuracy, 4) for level in used],
        "alternatives": round(deep.n_alternatives, 3),
    }
    deepen = replace(
        plan,
        strategy=PluginSpec("deepen", options),
        selector=PluginSpec(
            "depth-weighted",
            {"depths": [level.depth for level in used], "weights": [round(level.weight, 4) for level in used]},
        ),
        sampling=replace(plan.sampling, depth=0),
    )
    look = (
        "no shallower first look saves layer-tokens"
        if shallow is None
        else f"a first look at depth {shallow.depth}"
    )
    note = f"# Up to {options['n']} traces, ending at depth {deep.depth}, as many as the vote needs; {look}.\n"
    weights = f"# A vote weighs its log-odds, measured on {measured.n_problems} problems.\n"
    return (
        note
        + weights
        + plan_toml(deepen, execution, problems=problems, out=str((directory / "deepen").resolve()))
    )
