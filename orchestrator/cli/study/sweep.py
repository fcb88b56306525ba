"""What `leadline sweep` does: an ordinary job per depth on one engine, then the surface of their
pools, as a table, files and pictures.

The directory of a sweep holds one job directory per depth (each can be resumed, evaluated and
looked at like any other), surface.json, surface.png, best.toml and, where depths were compared,
deepen.toml. The same command again goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

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
from orchestrator.cli.view.sweep import best_lines, surface_table
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Trace
from orchestrator.jobs.files import write_atomically
from orchestrator.jobs.job import open_job
from orchestrator.jobs.problems import ProblemFile, read_problems
from orchestrator.jobs.source import JobSource, job_source, require_same_file, write_source
from orchestrator.plan import registry
from orchestrator.plan.check import check_plan
from orchestrator.plan.document import plan_toml
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import LoadedPlan
from orchestrator.studies.evaluate import Same, read_references, right_keys
from orchestrator.studies.summary import compare_answers
from orchestrator.studies.sweep.levels import Right
from orchestrator.studies.sweep.plans import best_plan, deepen_plan, fixed_plan, own_depth
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
    at = parse_counts(depths, "--depths") if depths else (own_depth(plan),)
    across = parse_counts(widths, "--widths")
    for name in ("traces", "tokens", "seconds"):
        if getattr(plan.budget, name):
            raise PlanError(
                f"a sweep samples every problem in full, and budget.{name} would cut it short; leave it out, or give --budget.{name} 0"
            )
    plans = {depth: fixed_plan(plan, depth, max(across)) for depth in at}
    for one in plans.values():
        check_plan(one, loaded.execution)
    file = read_problems(
        loaded.problems, default_domain=plan.domain, domains=plan.domains, limit=limit
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
    asked = job_source(loaded.problems, limit, loaded.format)
    for depth in plans:
        require_same_file(_place(directory, depth), asked)
    return _Sweep(directory, plans, loaded.execution, across, file, asked, references)


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
                write_source(job, plan, todo.execution, todo.asked)
                if job.remaining():
                    title = f"{job.directory} · {number} of {len(todo.plans)} · depth {depth or 'as it ships'} · {who(plan, todo.execution)}"
                    outcome = perform(job, plan, todo.execution, title, shown, stream, kept)
                    if outcome.exit_code:
                        return pools, outcome.exit_code
                pools[depth] = {id: job.journal.pool(id) for id in todo.references}
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
    return surface(
        pools, compare_answers(todo.plan, todo.execution, judged), todo.widths, spec.name, chances
    )


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
        _plan_file(best_plan(todo.plan, found), best_lines(found), todo, "best"),
    )
    names = ["surface.json", "best.toml"]
    if found.settings[found.cheapest].depth:
        write_atomically(
            directory / "deepen.toml",
            _plan_file(*deepen_plan(todo.plan, found), todo, "deepen"),
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


def _plan_file(plan: Plan, remarks: Iterable[str], todo: _Sweep, name: str) -> bytes:
    """Return a plan file for the problems swept, its remarks on top."""
    out = str((todo.directory / name).resolve())
    text = plan_toml(plan, todo.execution, problems=todo.asked.problems, out=out)
    return ("".join(f"# {line}\n" for line in remarks) + text).encode()
