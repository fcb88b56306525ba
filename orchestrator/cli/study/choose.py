"""What `leadline choose` does: says what `auto` would take for a plan and why, or measures it on a
pilot of a few problems.

Without a pilot nothing is started. A pilot is an ordinary job in the directory that --out names;
beside it lie the numbers (pilot.json) and the plan with the choice written in (chosen.toml).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from rich.text import Text

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
from orchestrator.cli.view.replay import replay_tables
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget, Plan
from orchestrator.core.values import PluginSpec
from orchestrator.jobs.job import open_job, write_atomically
from orchestrator.jobs.problems import ProblemFile, read_problems
from orchestrator.jobs.source import JobSource, commission, record, require_same_file
from orchestrator.plan import auto
from orchestrator.plan.auto import Choice, Situation
from orchestrator.plan.check import check_plan
from orchestrator.plan.file import plan_toml
from orchestrator.plan.file import LoadedPlan
from orchestrator.plan.spec_syntax import spelled
from orchestrator.studies import pilot
from orchestrator.studies.evaluate import read_references
from orchestrator.studies.replay.experiment import Conditions, Row, play_all
from orchestrator.studies.replay.files import read_recording
from orchestrator.studies.replay.recording import Recording


@dataclass(frozen=True, slots=True)
class _Pilot:
    """What is to be sampled: `n` attempts of each of these problems, into this directory."""

    directory: Path
    plan: Plan
    n: int
    file: ProblemFile
    asked: JobSource


def choose(
    plan_file: str | None, flags: Mapping[str, str], n_problems: int, shown: DisplayOptions
) -> int:
    """Say what `auto` takes for a plan; with `n_problems` measure it on so many of its problems
    first.
    """
    loaded = read_plan(plan_file, {**flags, "strategy": auto.NAME})
    found = auto.situation(loaded.plan, loaded.execution, loaded.vote)
    if not n_problems:
        return _say(auto.choose(found), shown)
    return _measure(_prepared(loaded, found, flags, n_problems), found, loaded, shown)


def _say(choice: Choice, shown: DisplayOptions, *more: str) -> int:
    if shown.as_json:
        print_json(_document(choice))
    else:
        console = stdout()
        console.print(
            Text(
                f"strategy  {spelled(choice.strategy)}\nselector  {spelled(choice.selector)}",
                style="bold",
            )
        )
        console.print(Text(f"why       {choice.why}"), soft_wrap=True)
        for line in more:
            console.print(Text(line, style="dim"), soft_wrap=True)
    return 0


def _document(choice: Choice) -> dict[str, object]:
    return {"strategy": choice.strategy, "selector": choice.selector, "why": choice.why}


def _prepared(
    loaded: LoadedPlan, found: Situation, flags: Mapping[str, str], n_problems: int
) -> _Pilot:
    """Return the work to do, or PlanError before anything is started."""
    if loaded.problems is None or loaded.out is None:
        raise PlanError(
            "there is nothing to measure on: name a plan with a `problems` key, or give --problems FILE"
        )
    n = min(auto.affordable(found)[0], pilot.N_MAX)
    if n == 1:
        raise PlanError(
            "the budget holds one attempt a problem, which leaves nothing to choose; raise budget.tokens or budget.traces"
        )
    plan = replace(
        loaded.plan,
        strategy=PluginSpec("consistency", {"n": n}),
        selector=found.vote or auto.MAJORITY,
        budget=Budget(),
    )
    check_plan(plan, loaded.execution)
    file = limited(
        read_problems(loaded.problems, default_domain=plan.domain, domains=plan.domains), n_problems
    )
    references = read_references(loaded.problems)
    known = tuple(problem for problem in file.problems if problem.id in references)
    if not known:
        raise PlanError(
            f"none of the first {n_problems} rows of {loaded.problems} has a reference answer (`answer`) to measure against"
        )
    directory = loaded.out if "out" in flags else loaded.out.with_name(f"{loaded.out.name}-choose")
    asked = commission(loaded.problems, n_problems, loaded.format)
    require_same_file(directory, asked)
    kept = {problem.id for problem in known}
    return _Pilot(
        directory,
        plan,
        n,
        replace(
            file, problems=known, order=tuple(id for id in file.order if id in kept), invalid=()
        ),
        asked,
    )


def _measure(todo: _Pilot, found: Situation, loaded: LoadedPlan, shown: DisplayOptions) -> int:
    """Sample, replay the candidates, and write down which one is taken."""
    give_notice(todo.file, shown)
    exit_code = _sample(todo, loaded, shown)
    if exit_code:
        say(f"\nstopped; what arrived is kept in {todo.directory}: the same command goes on")
        return exit_code
    recording = _recording(todo)
    budget = loaded.plan.budget
    conditions = Conditions(pilot.N_SEEDS, budget=Budget(tokens=budget.tokens))
    rows = play_all([recording], pilot.candidates(found, todo.n), conditions, n_processes=1)
    choice = pilot.measured(rows, budget.tokens)
    names = _write(todo, loaded, rows, choice)
    if shown.as_json or shown.quiet:
        return _say(choice, shown)
    if budget.seconds:
        say(
            "note: a pilot compares tokens; the last column, tokens one after another, is what budget.seconds bears on"
        )
    stdout().print(
        replay_tables(rows, f"{todo.directory} · {todo.n} attempts each, {pilot.N_SEEDS} draws")
    )
    return _say(
        choice,
        shown,
        f"written to {todo.directory}: {', '.join(names)}; go on with: leadline run {todo.directory / 'chosen.toml'}",
    )


def _sample(todo: _Pilot, loaded: LoadedPlan, shown: DisplayOptions) -> int:
    with open_job(todo.directory, todo.plan, todo.file.problems, (), todo.file.order) as job:
        record(job, todo.plan, loaded.execution, todo.asked)
        if not job.remaining():
            return 0
        title = f"{todo.directory} · pilot of {len(todo.file.problems):,} problems · {who(todo.plan, loaded.execution)}"
        with engine_log(todo.directory, shown) as stream:
            return perform(job, todo.plan, loaded.execution, title, shown, stream).exit_code


def _recording(todo: _Pilot) -> Recording:
    recording = read_recording(todo.directory)
    known = {problem.id for problem in todo.file.problems}
    return replace(
        recording, problems=tuple(p for p in recording.problems if p.problem.id in known)
    )


def _write(todo: _Pilot, loaded: LoadedPlan, rows: list[Row], choice: Choice) -> list[str]:
    settings = [
        {
            "strategy": r.setting.strategy,
            "selector": r.setting.selector,
            "accuracy": r.accuracy,
            "tokens": r.tokens,
        }
        for r in rows
    ]
    numbers = {"chosen": _document(choice), "settings": settings}
    write_atomically(
        todo.directory / "pilot.json",
        msgspec.json.format(msgspec.json.encode(numbers), indent=2) + b"\n",
    )
    plan = auto.with_choice(replace(loaded.plan, strategy=PluginSpec(auto.NAME)), choice)
    text = plan_toml(
        plan,
        loaded.execution,
        problems=todo.asked.problems,
        out=str((todo.directory / "chosen").resolve()),
    )
    write_atomically(todo.directory / "chosen.toml", text.encode())
    return ["pilot.json", "chosen.toml"]
