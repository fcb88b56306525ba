"""`leadline show`: the problems of a job by outcome, or all of one problem."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence

import click

from orchestrator.cli.console import print_json, results_console
from orchestrator.cli.options import debug_option, json_option
from orchestrator.cli.study.results.options import problems_option, rows_option
from orchestrator.cli.view.results.problems import problem_view, problems_view
from orchestrator.core.errors import PlanError
from orchestrator.report.losses import loss_causes
from orchestrator.report.scored import (
    Outcome,
    ScoredJob,
    ScoredProblem,
    read_scored,
    read_scored_problem,
)
from orchestrator.report.tables.rows import attempt_row, problem_row, trace_row
from orchestrator.report.tags import tag_values
from orchestrator.studies.estimates import share_estimate

# Each filter with its help text and its rule.
_FILTERS: dict[str, tuple[str, Callable[[ScoredProblem], bool]]] = {
    "right": ("answered correctly", lambda p: p.outcome is Outcome.RIGHT),
    "wrong": (
        "answered wrongly",
        lambda p: p.outcome in (Outcome.WRONG, Outcome.UNDECIDED),
    ),
    "tied": ("whose first two answers have the same weight", lambda p: p.is_tied),
    "abstained": ("to which no attempt gave an answer", lambda p: p.outcome is Outcome.ABSTAINED),
    "failed": (
        "that failed, and invalid rows",
        lambda p: p.outcome in (Outcome.FAILED, Outcome.INVALID),
    ),
    "dropped": ("in which attempts lost their vote by being dropped", lambda p: p.has_dropped),
}


def _filters(function: Callable[..., int]) -> Callable[..., int]:
    for name, (text, _) in reversed(_FILTERS.items()):
        function = click.option(f"--{name}", is_flag=True, help=f"List problems {text}.")(function)
    return function


@click.command()
@click.argument("directory", type=click.Path(), metavar="DIR")
@click.argument("problem", required=False, metavar="[ID]")
@_filters
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="NAME=VALUE",
    help="List only problems with this tag; may be repeated.",
)
@click.option(
    "--thinking", is_flag=True, help="With ID: print the thinking of attempts, not only its length."
)
@click.option(
    "--others",
    is_flag=True,
    help="With ID: also print the traces that belong to no attempt, such as probes and verdicts.",
)
@rows_option
@problems_option
@json_option
@debug_option
def show(
    directory: str,
    problem: str | None,
    tags: Sequence[str],
    thinking: bool,
    others: bool,
    n_rows: int,
    problems: str,
    as_json: bool,
    **chosen: bool,
) -> int:
    """List the problems of a job with their answers, or show one with all its attempts.

    Several of --right, --wrong, --tied, --abstained, --failed and --dropped list the problems to
    which any of them applies. With the ID of a problem: its question, reference, votes, and every
    attempt with its state, answer and text. A job that still runs is shown as it is now.

    \b
    Examples:
      leadline show runs/arithmetic
      leadline show runs/arithmetic --wrong --abstained
      leadline show runs/arithmetic --wrong --tag level=5 --rows 0
      leadline show runs/arithmetic apples --thinking
    """
    names = [name for name, wanted in chosen.items() if wanted]
    if problem is not None:
        _refuse_lists(names, tags)
        one = read_scored_problem(directory, problem, problems)
        if as_json:
            print_json(_problem_json(one))
        else:
            results_console().print(problem_view(one, thinking, others))
        return 0
    if thinking or others:
        option = "--thinking" if thinking else "--others"
        raise PlanError(f"{option} prints the traces of one problem: give its ID after DIR")
    wanted = _wanted_tags(tags)
    job = read_scored(directory, problems)
    kept = _tagged(job, [p for p in job.problems if _applies(p, names)], wanted)
    if as_json:
        print_json(_listing(job, kept))
    else:
        command = f"leadline show {shlex.quote(directory)}"
        results_console().print(problems_view(job, kept, n_rows, command, names))
    return 0


def _refuse_lists(names: Sequence[str], tags: Sequence[str]) -> None:
    given = [f"--{name}" for name in (*names, *(["tag"] if tags else []))]
    if given:
        raise PlanError(f"{', '.join(given)} lists problems; leave out the ID, or the option")


def _applies(problem: ScoredProblem, names: Sequence[str]) -> bool:
    return not names or any(_FILTERS[name][1](problem) for name in names)


def _wanted_tags(tags: Sequence[str]) -> list[tuple[str, str]]:
    for text in tags:
        if "=" not in text[1:]:
            raise PlanError(f"--tag {text!r} is not NAME=VALUE, such as level=5")
    return [(name, value) for name, _, value in (text.partition("=") for text in tags)]


def _tagged(
    job: ScoredJob, problems: list[ScoredProblem], wanted: Sequence[tuple[str, str]]
) -> list[ScoredProblem]:
    """Return the problems with all the wanted tags; PlanError for a tag that no problem has."""
    if not wanted:
        return problems
    values = tag_values(p.result for p in job.problems if p.result)
    for name, value in wanted:
        if name not in values:
            known = ", ".join(sorted(values)) or "none"
            raise PlanError(f"no problem has the tag {name!r}; the tags are: {known}")
        problems = [p for p in problems if values[name].get(p.problem.id) == value]
    return problems


def _listing(job: ScoredJob, kept: Sequence[ScoredProblem]) -> dict[str, object]:
    return {
        "directory": str(job.directory),
        "n_by_outcome": Counter(p.outcome.value for p in job.problems),
        "accuracy": share_estimate(list(job.correctness.values())),
        "losses": loss_causes(job.losses, job.plan, job.directory),
        "problems": [problem_row(p) for p in kept if p.result is not None],
        "open": [p.problem.id for p in kept if p.result is None],
        "notes": job.notes,
    }


def _problem_json(problem: ScoredProblem) -> dict[str, object]:
    return {
        "problem": problem_row(problem) if problem.result else None,
        "attempts": [attempt_row(problem.problem.id, a) for a in problem.attempts],
        "others": list(map(trace_row, problem.others)),
        "notes": [problem.note] if problem.note else [],
    }
