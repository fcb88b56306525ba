"""`leadline depth calibrate`: the threshold of an exit rule for a given loss, on a plan's problems.

Runs a job at full depth and one at each threshold, each on an engine of its own, because the rule
belongs to the model. The directory contains these jobs, calibration.json and, if a threshold was
found, calibrated.toml. The same command again continues an interrupted calibration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

import click

from orchestrator.cli.console import message, print_json, results_console, write_json
from orchestrator.cli.foreground import engine_log, run_in_foreground
from orchestrator.cli.inputs import (
    first_problems,
    job_directory,
    local_problems,
    read_plan,
    report_rows,
    row_notes,
    run_name,
    study_directory,
)
from orchestrator.cli.options import (
    DisplayOptions,
    PlanCommand,
    display_options,
    limit_option,
    plan_argument,
)
from orchestrator.cli.view.layers import calibration_lines, calibration_view
from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.layers import OF_PREDICTIONS, OF_STATES, ExitRule
from orchestrator.core.plan import Budget, Plan
from orchestrator.core.values import Finish, PluginSpec, Trace
from orchestrator.jobs.files import write_atomically
from orchestrator.jobs.job import Job
from orchestrator.jobs.journal import Journal
from orchestrator.plan.file import LoadedPlan, plan_toml
from orchestrator.plan.looped import latent_of
from orchestrator.plan.models import known_config
from orchestrator.runtime.annotate import Annotator
from orchestrator.studies.layers import exits
from orchestrator.studies.layers.exits import ExitCalibration, ExitLevel, LossKind
from orchestrator.studies.summary import compare_answers
from orchestrator.studies.sweep.series import Member, Pools, Series, series


@dataclass(frozen=True, slots=True)
class _Aim:
    """The loss that exits may cost, and the confidence with which it is to be shown."""

    of: LossKind
    limit: float
    confidence: float


@dataclass(frozen=True, slots=True)
class _Study:
    """The jobs: the first at full depth, then one for each rule, the strictest first."""

    jobs: Series
    rules: Sequence[ExitRule]
    aim: _Aim
    depth: int
    plan: Plan  # as the user wrote it


@click.command(
    cls=PlanCommand,
    accepts=lambda key: not key.startswith(("strategy", "selector", "verifiers", "budget")),
    short_help="Calibrate the exits of tokens to a loss.",
)
@plan_argument
@click.option(
    "--rule",
    "measure",
    type=click.Choice([*OF_STATES, *OF_PREDICTIONS]),
    default="state",
    show_default=True,
    help="The exit rule whose threshold is sought.",
)
@click.option(
    "--of",
    type=click.Choice(["answers", "tokens"]),
    default="answers",
    show_default=True,
    help="What the loss is: the share of answers that differ from those at full depth, or of an "
    "attempt's tokens from the first that differs on.",
)
@click.option(
    "--loss",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="The largest expected loss.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.9,
    show_default=True,
    metavar="P",
    help="The confidence with which the loss is to be within that.",
)
@click.option(
    "--thresholds",
    default="",
    metavar="X,X,...",
    help="Thresholds to test, the strictest first.  [default: a grid for each rule]",
)
@click.option(
    "--after",
    "least",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="The iterations that every token runs at least.",
)
@limit_option
@display_options
def calibrate(
    plan_file: str | None,
    flags: Mapping[str, str],
    measure: str,
    of: LossKind,
    loss: float,
    confidence: float,
    thresholds: str,
    least: int,
    limit: int,
    display: DisplayOptions,
) -> int:
    """Find the loosest threshold of an exit rule that costs no more than a given loss.

    Runs one attempt of each problem at full depth, then one under each threshold, the strictest
    first, with the same seeds. Stops at the first whose loss is not shown to be within --loss (a
    learn-then-test bound), and prints the line for the plan. No reference answers are needed. The
    jobs, calibration.json and calibrated.toml, the plan with that line, go to the directory --out,
    by default that of the plan's job with "-exits-RULE" added. The same command again continues an
    interrupted calibration.

    \b
    Examples:
      leadline depth calibrate plan.toml --loss 0.05
      leadline depth calibrate plan.toml --rule entropy --of tokens --loss 0.02 --confidence 0.95
      leadline depth calibrate plan.toml --rule agreement --thresholds 4,3,2 --after 2
    """
    aim = _Aim(of, loss, confidence)
    study = _prepared(
        read_plan(plan_file, flags), flags, measure, _numbers(thresholds), least, aim, limit
    )
    found, exit_code = _calibrated(study, display)
    directory = study.jobs.directory
    if found is None:
        message(f"\nstopped; finished traces are kept in {directory}; the same command continues")
        return exit_code
    write_json(directory / "calibration.json", found)
    files = ["calibration.json"]
    if found.rule:
        _write_plan(study, found)
        files.append("calibrated.toml")
    if display.as_json:
        print_json(found)
    elif not display.quiet:
        written = f"written to {directory}: {', '.join(files)}"
        results_console().print(calibration_view(found, study.plan.default_model, written))
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        numbers = (math.nan,)
    if not all(0 < x < math.inf for x in numbers):
        raise PlanError(f"--thresholds {text!r}: give numbers above 0, as in 0.2,0.4,0.6")
    return numbers


def _prepared(
    loaded: LoadedPlan,
    flags: Mapping[str, str],
    measure: str,
    thresholds: Sequence[float],
    least: int,
    aim: _Aim,
    limit: int,
) -> _Study:
    """Return the jobs to run; PlanError before anything starts."""
    job_directory(loaded, "calibrate")
    plan = loaded.plan
    depth = _full_depth(plan)
    rules = exits.rules_of(measure, thresholds, least, depth)
    directory = study_directory(loaded, flags, f"exits-{measure}")
    loaded, problems = local_problems(loaded, directory)
    file = first_problems(problems, plan, limit)
    exits.require_problems(len(file.problems), aim.limit, aim.confidence)
    members = [Member(_plan_under(plan, ""), "full", "full depth")]
    members += [Member(_plan_under(plan, str(rule)), _folder(rule), str(rule)) for rule in rules]
    return _Study(series(loaded, directory, members, file, limit), rules, aim, depth, plan)


def _full_depth(plan: Plan) -> int:
    """Return the depth without exits, as far as it is known here; PlanError without any."""
    name = plan.default_model
    model = replace(plan.models[name], exit="")
    config = known_config(model.path)
    latent = None if config is None else latent_of(config, model, name)
    if config is not None and latent is None:
        raise PlanFault(
            f"models.{name}",
            f"models.{name} has no think block, so no token can stop before its depth; name its "
            'layers, as in layers = "0-9 (10-19)*r 20-29"',
        )
    if latent is not None and latent.exit:
        raise PlanFault(
            f"models.{name}",
            f"models.{name}: its config.json has exit = {latent.exit!r}, so nothing runs at full "
            "depth; remove it there, calibrate, and write the result into the plan",
        )
    return plan.sampling.depth or (model.max_depth if latent is None else latent.depth)


def _plan_under(plan: Plan, rule: str) -> Plan:
    """Return the plan of one attempt of each problem under a rule; "" is full depth."""
    return replace(
        _with_exit(plan, rule),
        strategy=PluginSpec("consistency", {"n": 1}),
        selector=PluginSpec("majority"),
        verifiers=(),
        budget=Budget(),
    )


def _with_exit(plan: Plan, rule: str) -> Plan:
    name = plan.default_model
    return replace(plan, models={**plan.models, name: replace(plan.models[name], exit=rule)})


def _folder(rule: ExitRule) -> str:
    after = f"-after-{rule.least}" if rule.least > 1 else ""
    return f"{rule.measure}-{rule.threshold:g}{after}"


def _calibrated(study: _Study, display: DisplayOptions) -> tuple[ExitCalibration | None, int]:
    """Return the calibration and 0, or None and the exit code of the signal that ended it."""
    jobs, aim = study.jobs, study.aim
    report_rows(row_notes(jobs.file), display)
    levels: list[ExitLevel] = []
    n_failed = 0
    with engine_log(jobs.directory, display) as stream:
        full, exit_code = _pool(study, 0, display, stream)
        if full is None:
            return None, exit_code
        for i, rule in enumerate(study.rules, 1):
            early, exit_code = _pool(study, i, display, stream)
            if early is None:
                return None, exit_code
            losses = _losses(study, full, early)
            pool = [trace for traces in early.values() for trace in traces]
            n_failed += sum(trace.lost for trace in pool)
            levels.append(exits.level_of(rule, losses, pool, aim.of, aim.limit, aim.confidence))
            if not levels[-1].is_shown:
                break
    first = [trace for traces in full.values() for trace in traces]
    n_failed += sum(trace.lost for trace in first)
    depths = [trace.depth for trace in first if trace.depth]
    return ExitCalibration(
        aim.of,
        aim.limit,
        aim.confidence,
        len(full),
        n_failed,
        max(depths, default=study.depth),
        exits.layer_tokens(first),
        tuple(levels),
        exits.chosen(levels),
    ), 0


def _pool(
    study: _Study, number: int, display: DisplayOptions, stream: TextIO
) -> tuple[Pools | None, int]:
    """Run what remains of one job on an engine of its own; return its attempts by problem."""
    jobs = study.jobs
    member = jobs.members[number]
    title = f"{number + 1} of at most {len(jobs.members)} · {member.title}"

    def run_one(job: Job, plan: Plan, _: str) -> int:
        name = f"{jobs.directory} · {title} · {run_name(plan, jobs.execution)}"
        return run_in_foreground(job, plan, jobs.execution, name, display, stream).exit_code

    _, exit_code = replace(jobs, members=[member]).run(run_one)
    if exit_code:
        return None, exit_code
    with Journal.for_reading(jobs.directory / member.folder / "journal.db") as journal:
        return {p.id: list(journal.traces(p.id)) for p in jobs.file.problems}, 0


def _losses(study: _Study, full: Pools, early: Pools) -> list[float]:
    """Return the loss of each problem; an attempt that failed is lost."""
    pairs = [(id, _only(full[id]), _only(early[id])) for id in full]
    if study.aim.of == "tokens":
        return [
            1.0 if a is None or b is None else exits.token_loss(a.token_ids, b.token_ids)
            for _, a, b in pairs
        ]
    domains = {problem.id: problem.domain for problem in study.jobs.file.problems}

    async def differences(annotator: Annotator) -> list[float]:
        return [float(await _differ(annotator, domains[id], a, b)) for id, a, b in pairs]

    return compare_answers(study.plan, study.jobs.execution, differences)


def _only(traces: Sequence[Trace]) -> Trace | None:
    return next((trace for trace in traces if trace.finish is not Finish.FAILED), None)


async def _differ(annotator: Annotator, domain: str, a: Trace | None, b: Trace | None) -> bool:
    if a is None or b is None:
        return True
    if a.answer is None or b.answer is None:
        return a.answer is not b.answer
    if a.answer.text == b.answer.text:
        return False
    return not await annotator.same(domain, a.answer.text, b.answer.text)


def _write_plan(study: _Study, found: ExitCalibration) -> None:
    """Write the user's plan with the rule, and what was shown of it at the top."""
    jobs = study.jobs
    text = plan_toml(
        _with_exit(study.plan, found.rule),
        jobs.execution,
        problems=jobs.source.problems,
        out=str(jobs.directory / "calibrated"),
    )
    head = "".join(f"# {line}\n" for line in calibration_lines(found))
    write_atomically(jobs.directory / "calibrated.toml", f"{head}{text}".encode())
