"""`leadline choose`: the choice of `auto` for a plan and the reason, optionally tested by a pilot.

Without a pilot nothing is started. A pilot is an ordinary job in the directory that --out names,
which then also contains the numbers (pilot.json) and the plan with the choice (chosen.toml).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import click
from rich.text import Text

from orchestrator.cli.console import message, print_json, results_console, write_json
from orchestrator.cli.foreground import run_series
from orchestrator.cli.inputs import (
    first_problems,
    job_directory,
    local_problems,
    read_plan,
    required_references,
    study_directory,
)
from orchestrator.cli.options import DisplayOptions, PlanCommand, display_options, plan_argument
from orchestrator.cli.view.numbers import counted
from orchestrator.cli.view.replay import replay_tables
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget
from orchestrator.core.values import PluginSpec
from orchestrator.jobs.files import write_atomically
from orchestrator.plan import auto
from orchestrator.plan.auto import AutoChoice, Situation
from orchestrator.plan.file import LoadedPlan, plan_toml
from orchestrator.plan.spec_syntax import spelled
from orchestrator.studies.replay import pilot
from orchestrator.studies.replay.experiment import Conditions, ReplayRow, play_all
from orchestrator.studies.replay.files import read_recording
from orchestrator.studies.sweep.series import Member, Series, series


@dataclass(frozen=True, slots=True)
class _Pilot:
    """A job of `n` attempts at each problem, and the plan to choose for."""

    loaded: LoadedPlan
    situation: Situation
    jobs: Series
    n: int


@click.command(
    cls=PlanCommand, accepts=lambda key: key != "strategy" and not key.startswith("strategy.")
)
@plan_argument
@click.option(
    "--pilot",
    "n_problems",
    type=click.IntRange(min=2),
    metavar="K",
    help="Measure on the first K problems, which need reference answers: starts the engine.",
)
@display_options
def choose(
    plan_file: str | None,
    flags: Mapping[str, str],
    n_problems: int | None,
    display: DisplayOptions,
) -> int:
    """Print the choice of `strategy = "auto"` for a plan and the reason.

    Without --pilot nothing is started. The choice depends on the budget of a problem
    (budget.tokens, .traces, .seconds), the longest attempt (sampling.max_new_tokens), the plan's
    verifiers and models, and the engine's capabilities. With --pilot the first K problems are
    sampled in full and all settings that can be replayed on their attempts are compared; a setting
    that is significantly better replaces the choice. pilot.json and chosen.toml (a plan for
    `leadline run`) are written to the directory --out, by default that of the plan's job with
    "-choose" added. Run the same command again to continue an interrupted pilot.

    \b
    Examples:
      leadline choose plan.toml --budget.tokens 8192
      leadline choose plan.toml --pilot 40
    """
    loaded = read_plan(plan_file, {**flags, "strategy": auto.NAME})
    situation = auto.situation(loaded.plan, loaded.execution, loaded.vote)
    if n_problems is None:
        return _report(auto.choose(situation), display)
    return _measure(_pilot(loaded, situation, flags, n_problems), display)


def _report(choice: AutoChoice, display: DisplayOptions, remark: str = "") -> int:
    if display.as_json:
        print_json(_choice_document(choice))
        return 0
    console = results_console()
    specs = f"strategy  {spelled(choice.strategy)}\nselector  {spelled(choice.selector)}"
    console.print(Text(specs, style="bold"))
    console.print(Text(f"why       {choice.why}"), soft_wrap=True)
    if remark:
        console.print(Text(remark, style="dim"), soft_wrap=True)
    return 0


def _choice_document(choice: AutoChoice) -> dict[str, object]:
    return {"strategy": choice.strategy, "selector": choice.selector, "why": choice.why}


def _pilot(
    loaded: LoadedPlan, situation: Situation, flags: Mapping[str, str], n_problems: int
) -> _Pilot:
    """Return the job to run; PlanError before anything starts."""
    job_directory(loaded, "measure")
    n = min(auto.affordable(situation)[0], pilot.N_MAX)
    if n == 1:
        raise PlanError(
            "the budget allows one attempt per problem, which leaves nothing to choose; raise "
            "budget.tokens or budget.traces"
        )
    plan = replace(
        loaded.plan,
        strategy=PluginSpec("consistency", {"n": n}),
        selector=situation.vote or auto.MAJORITY,
        budget=Budget(),
    )
    directory = study_directory(loaded, flags, "choose")
    loaded, problems = local_problems(loaded, directory)
    file = first_problems(problems, plan, n_problems)
    domains = {problem.id: problem.domain for problem in file.problems}
    answers = required_references(problems, domains, plan, loaded.execution).answers
    usable = tuple(problem for problem in file.problems if problem.id in answers)
    if not usable:
        raise PlanError(
            f"none of the first {n_problems} rows of {problems} has a reference answer "
            "(`answer`) to measure against"
        )
    ids = {problem.id for problem in usable}
    order = tuple(id for id in file.order if id in ids)
    file = replace(file, problems=usable, order=order, invalid=())
    member = Member(plan, "", f"pilot of {counted(len(usable), 'problem')}")
    return _Pilot(loaded, situation, series(loaded, directory, [member], file, n_problems), n)


def _measure(study: _Pilot, display: DisplayOptions) -> int:
    """Sample the pilot, replay the candidates on it, and write the choice to files."""
    _, exit_code = run_series(study.jobs, display)
    if exit_code:
        return exit_code
    directory, budget = study.jobs.directory, study.loaded.plan.budget
    recording = read_recording(directory)
    ids = {problem.id for problem in study.jobs.file.problems}
    recorded = tuple(p for p in recording.problems if p.problem.id in ids)
    rows = play_all(
        [replace(recording, problems=recorded)],
        pilot.candidates(study.situation, study.n),
        Conditions(pilot.N_SEEDS, budget=Budget(tokens=budget.tokens)),
        n_processes=1,
    )
    choice = pilot.measured(rows, budget.tokens)
    _write(study, rows, choice)
    if display.as_json or display.quiet:
        return _report(choice, display)
    if budget.seconds:
        message(
            "note: a pilot compares tokens; budget.seconds limits the last column, tokens "
            "generated in sequence"
        )
    title = f"{directory} · {study.n} attempts each, {pilot.N_SEEDS} draws"
    results_console().print(replay_tables(rows, title))
    written = f"written to {directory}: pilot.json, chosen.toml"
    return _report(
        choice, display, f"{written}; continue with: leadline run {directory / 'chosen.toml'}"
    )


def _write(study: _Pilot, rows: list[ReplayRow], choice: AutoChoice) -> None:
    settings = [
        {
            "strategy": row.setting.strategy,
            "selector": row.setting.selector,
            "accuracy": row.accuracy,
            "tokens": row.tokens,
        }
        for row in rows
    ]
    directory, loaded = study.jobs.directory, study.loaded
    write_json(directory / "pilot.json", {"chosen": _choice_document(choice), "settings": settings})
    text = plan_toml(
        auto.with_choice(replace(loaded.plan, strategy=PluginSpec(auto.NAME)), choice),
        loaded.execution,
        problems=study.jobs.source.problems,
        out=str(directory / "chosen"),
    )
    write_atomically(directory / "chosen.toml", text.encode())
