"""What `leadline sweep` does: an ordinary job per depth on one engine, then the surface of their
pools, as a table, files and pictures.

The directory of a sweep holds one job directory per depth (each can be resumed, evaluated and
looked at like any other), surface.json, surface.png, best.toml and, where depths were compared,
deepen.toml. The same command again goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from orchestrator.cli.foreground import KeptEngine
from orchestrator.cli.run import (
    DisplayOptions,
    engine_log,
    give_notice,
    limited,
    perform,
    print_json,
    read_plan,
    say,
    stdout,
    who,
)
from orchestrator.cli.view.sweep import best_lines, surface_table
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Trace
from orchestrator.jobs.job import open_job, write_atomically
from orchestrator.jobs.problems import ProblemFile, read_problems
from orchestrator.jobs.source import JobSource, commission, record, require_same_file
from orchestrator.plan import registry
from orchestrator.plan.check import check_plan
from orchestrator.plan.file import plan_toml
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import LoadedPlan
from orchestrator.studies.evaluate import Same, read_references, right_keys
from orchestrator.studies.summary import judge, pool
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
    """What is to be done: a plan per depth, over these problems, into this directory."""

    directory: Path
    plans: Mapping[int, Plan]
    execution: Execution
    widths: tuple[int, ...]
    file: ProblemFile
    asked: JobSource
    references: Mapping[str, str]

    @property
    def plan(self) -> Plan:
        """The plan of the first depth: they differ in the depth alone."""
        return next(iter(self.plans.values()))


def sweep(
    plan_file: str | None,
    flags: Mapping[str, str],
    depths: str,
    widths: str,
    limit: int,
    shown: DisplayOptions,
) -> int:
    """Sweep depth and width, or go on with it."""
    todo = _prepared(read_plan(plan_file, flags), flags, depths, widths, limit)
    give_notice(todo.file, shown)
    pools, exit_code = _sampled(todo, shown)
    if exit_code:
        say(f"\nstopped; what arrived is kept in {todo.directory}: the same command goes on")
        return exit_code
    found = _surface(todo, pools)
    pictured = _write(todo, found)
    if shown.as_json:
        print_json(found)
    elif not shown.quiet:
        console = stdout()
        console.print(surface_table(found))
        for line in (*best_lines(found), f"written to {todo.directory}: {', '.join(pictured)}"):
            console.print(line, soft_wrap=True, markup=False)
    return 0


def _prepared(
    loaded: LoadedPlan, flags: Mapping[str, str], depths: str, widths: str, limit: int
) -> _Sweep:
    """Return the work to do, or PlanError before anything is started."""
    if loaded.problems is None or loaded.out is None:
        raise PlanError(
            "there is nothing to sweep: name a plan with a `problems` key, or give --problems FILE (see `leadline sweep --help`)"
        )
    plan = loaded.plan
    at = parse_counts(depths, "--depths") if depths else (_own_depth(plan),)
    across = parse_counts(widths, "--widths")
    for name in ("traces", "tokens", "seconds"):
        if getattr(plan.budget, name):
            raise PlanError(
                f"a sweep samples every problem in full, and budget.{name} would cut it short; leave it out, or give --budget.{name} 0"
            )
    plans = {depth: fixed_plan(plan, depth, max(across)) for depth in at}
    for one in plans.values():
        check_plan(one, loaded.execution)
    file = limited(
        read_problems(loaded.problems, default_domain=plan.domain, domains=plan.domains), limit
    )
    ids = {problem.id for problem in file.problems}
    references = {id: text for id, text in read_references(loaded.problems).items() if id in ids}
    if not references:
        raise PlanError(
            f"{loaded.problems} has no reference answers (`answer`), without which there is no accuracy to sweep"
        )
    directory = loaded.out if "out" in flags else loaded.out.with_name(f"{loaded.out.name}-sweep")
    if (directory / "journal.db").exists():
        raise PlanError(
            f"{directory} is the directory of a job; choose another for the sweep with --out"
        )
    asked = commission(loaded.problems, limit, loaded.format)
    for depth in plans:
        require_same_file(_place(directory, depth), asked)
    return _Sweep(directory, plans, loaded.execution, across, file, asked, references)


def _own_depth(plan: Plan) -> int:
    """Return the depth that a plan's strategy or its sampling asks for, 0 for none; PlanError when
    the strategy goes through several.
    """
    strategy = registry.load("strategies", plan.strategy)
    if hasattr(strategy, "depths"):
        raise PlanError(
            f"strategy {plan.strategy.name!r} goes through several depths: say which ones to sweep, as in --depths 1,2,4,8"
        )
    return getattr(strategy, "depth", None) or plan.sampling.depth


def fixed_plan(plan: Plan, depth: int, width: int) -> Plan:
    """Return the plan that takes `width` traces at `depth` (0: as the model ships) of every
    problem; all else stays.
    """
    pool = {"model": plan.strategy.options["model"]} if plan.strategy.options.get("model") else {}
    return replace(
        plan,
        strategy=PluginSpec("consistency", {"n": width, **pool}),
        sampling=replace(plan.sampling, depth=depth),
    )


def _place(directory: Path, depth: int) -> Path:
    return directory / (f"depth-{depth}" if depth else "depth-own")


def _sampled(todo: _Sweep, shown: DisplayOptions) -> tuple[dict[int, dict[str, list[Trace]]], int]:
    """Return the pools of every depth and 0, or those so far and the exit code of the signal that
    ended it.
    """
    pools: dict[int, dict[str, list[Trace]]] = {}
    todo.directory.mkdir(parents=True, exist_ok=True)
    with engine_log(todo.directory, shown) as stream, KeptEngine(todo.execution) as kept:
        for number, (depth, plan) in enumerate(todo.plans.items(), 1):
            file = todo.file
            with open_job(
                _place(todo.directory, depth), plan, file.problems, file.invalid, file.order
            ) as job:
                record(job, plan, todo.execution, todo.asked)
                if job.remaining():
                    title = f"{job.directory} · {number} of {len(todo.plans)} · depth {depth or 'as it ships'} · {who(plan, todo.execution)}"
                    outcome = perform(job, plan, todo.execution, title, shown, stream, kept)
                    if outcome.exit_code:
                        return pools, outcome.exit_code
                pools[depth] = {id: pool(job.journal, id) for id in todo.references}
    return pools, 0


def _surface(todo: _Sweep, pools: Mapping[int, Mapping[str, Sequence[Trace]]]) -> Surface:
    domains = {problem.id: problem.domain for problem in todo.file.problems}

    async def judged(same: Same) -> dict[int, Right]:
        return {
            depth: await right_keys(pools[depth], todo.references, domains, same) for depth in pools
        }

    spec = todo.plan.selector
    chances: Chances = (
        by_majority if spec.name == "majority" else by_drawing(registry.load("selectors", spec))
    )
    return surface(pools, judge(todo.plan, todo.execution, judged), todo.widths, spec.name, chances)


def _write(todo: _Sweep, found: Surface) -> list[str]:
    """Write numbers, plans and pictures; return their names, and how to get pictures where there
    are none.
    """
    directory = todo.directory
    write_atomically(
        directory / "surface.json",
        msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n",
    )
    write_atomically(
        directory / "best.toml",
        best_plan(todo.plan, todo.execution, found, todo.asked.problems, directory).encode(),
    )
    names = ["surface.json", "best.toml"]
    if found.settings[found.cheapest].depth:
        write_atomically(
            directory / "deepen.toml",
            deepen_plan(todo.plan, todo.execution, found, todo.asked.problems, directory).encode(),
        )
        names.append("deepen.toml")
    try:
        from orchestrator.cli.view.plots import surface_picture
    except ModuleNotFoundError:
        return [
            *names,
            "and with matplotlib (pip install 'leadline[plot]') the same command draws surface.png",
        ]
    write_atomically(directory / "surface.png", surface_picture(found))
    return [*names, "surface.png"]


def best_plan(
    plan: Plan, execution: Execution, found: Surface, problems: str, directory: Path
) -> str:
    """Return a plan file for the cheapest setting that is as good as the best, with its numbers on
    top.
    """
    chosen = found.settings[found.cheapest]
    text = plan_toml(
        fixed_plan(plan, chosen.depth, chosen.width),
        execution,
        problems=problems,
        out=str((directory / "best").resolve()),
    )
    return "".join(f"# {line}\n" for line in best_lines(found)) + text


def deepen_plan(
    plan: Plan, execution: Execution, found: Surface, problems: str, directory: Path
) -> str:
    """Return a plan file for `deepen` that ends at the chosen depth, after a first look if one
    saves, calibrated as measured.

    It may take as many traces as the chosen setting does, and its first look beside them. Its
    confidence allows stopping early to cost about one of the problems swept.
    """
    chosen = found.settings[found.cheapest]
    deep = next(e for e in found.levels if e.depth == chosen.depth)
    shallow = first_look(found.levels, deep)
    used = [deep] if shallow is None else [shallow, deep]
    options: dict[str, object] = {
        key: value for key, value in plan.strategy.options.items() if key == "model" and value
    }
    options |= {
        "depths": [e.depth for e in used],
        "n": chosen.width + (len(used) - 1) * deep.n_agreed,
        "confidence": round(min(0.999, max(0.95, 1.0 - 1.0 / found.n_problems)), 4),
        "accuracies": [round(e.accuracy, 4) for e in used],
        "alternatives": round(deep.n_alternatives, 3),
    }
    made = replace(
        plan,
        strategy=PluginSpec("deepen", options),
        selector=PluginSpec(
            "depth-weighted",
            {"depths": [e.depth for e in used], "weights": [round(e.weight, 4) for e in used]},
        ),
        sampling=replace(plan.sampling, depth=0),
    )
    look = (
        "no shallower first look saves layer-tokens"
        if shallow is None
        else f"a first look at depth {shallow.depth}"
    )
    note = f"# Up to {options['n']} traces, ending at depth {deep.depth}, as many as the vote needs; {look}.\n"
    weights = f"# A vote weighs its log-odds, measured on {found.n_problems} problems.\n"
    return (
        note
        + weights
        + plan_toml(made, execution, problems=problems, out=str((directory / "deepen").resolve()))
    )
