"""`leadline depth search`: a tree search for a good order of layers for a task.

The table goes to the standard output, progress and remarks to the error stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from orchestrator.cli.console import message, print_json, results_console, write_json
from orchestrator.cli.inputs import (
    local_problems,
    read_plan,
    references_and_notes,
    required_references,
)
from orchestrator.cli.options import (
    DisplayOptions,
    PlanCommand,
    display_options,
    limit_option,
)
from orchestrator.cli.view import layers as views
from orchestrator.cli.view.numbers import duration, share
from orchestrator.core.errors import PlanError
from orchestrator.core.layers import Schedule
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Problem
from orchestrator.jobs.files import write_atomically
from orchestrator.jobs.problems import read_problems
from orchestrator.plan import registry
from orchestrator.plan.file import LoadedPlan, plan_toml
from orchestrator.plan.file.sources import title_of
from orchestrator.studies.evaluate import RightAnswers
from orchestrator.studies.layers import search as tree_search
from orchestrator.studies.layers.loading import load_decoder, shipped_order
from orchestrator.studies.layers.mcts import SearchOptions
from orchestrator.studies.layers.scoring import OrderScore, SearchReward
from orchestrator.studies.layers.search import SearchResult, SearchTask, chosen_reward

INTERRUPTED = 130
_LENGTH_FACTOR = 2  # an order may have twice the model's layers, unless --max-layers is given


@click.command(
    cls=PlanCommand,
    accepts=lambda key: (
        key in ("problems", "out", "domain", "seed") or key.startswith(("sampling.", "domains."))
    ),
    without=(
        "sampling.depth",
        "sampling.top_p",
        "sampling.top_k",
        "sampling.min_p",
        "sampling.repetition_penalty",
    ),
    short_help="Search for an order of layers for a task.",
)
@click.argument("model")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(),
    metavar="PLAN.toml",
    help="Use the problems, domain, template and limits of this plan.",
)
@click.option(
    "--reward",
    type=click.Choice(["auto", "accuracy", "agreement"]),
    default="auto",
    show_default=True,
    help=(
        "Objective of the search: accuracy needs reference answers; agreement is with the model's "
        "own vote; auto is accuracy if there are reference answers."
    ),
)
@click.option(
    "--holdout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.5,
    metavar="SHARE",
    show_default=True,
    help=(
        "Share of the problems held out to evaluate the winner. 0: evaluate on the problems of "
        "the search, which is called an oracle."
    ),
)
@limit_option
@click.option(
    "--simulations",
    "n_simulations",
    type=click.IntRange(min=1),
    default=200,
    metavar="N",
    show_default=True,
    help="Number of orders to try.",
)
@click.option(
    "--length-penalty",
    type=click.FloatRange(min=0),
    default=5.0,
    metavar="λ",
    show_default=True,
    help="How much the search favours short orders.",
)
@click.option(
    "--exploration",
    type=click.FloatRange(min=0),
    default=0.1,
    metavar="c",
    show_default=True,
    help="How much the search favours rarely tried orders; the paper gives no value.",
)
@click.option(
    "--max-layers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Longest order to try.  [default: twice the model's]",
)
@click.option(
    "--votes",
    "n_votes",
    type=click.IntRange(min=1),
    default=8,
    metavar="N",
    show_default=True,
    help="For agreement: replies sampled for each problem.",
)
@display_options
def search(
    model: str,
    plan_file: str | None,
    flags: Mapping[str, str],
    reward: Literal["auto", "accuracy", "agreement"],
    holdout: float,
    limit: int,
    n_simulations: int,
    length_penalty: float,
    exploration: float,
    max_layers: int | None,
    n_votes: int,
    display: DisplayOptions,
) -> int:
    """Search for an order of MODEL's layers for a task, with skipped and repeated layers.

    This is CoLa's tree search, for one order for all problems. The objective is accuracy if the
    problems have reference answers, or else agreement with the model's own vote; the winner is
    evaluated on held-out problems. Prints the Pareto set of reward against layers run and writes
    schedule.toml, a plan for `leadline run`. Ctrl-C keeps the results so far; run the same command
    again to continue.

    \b
    Examples:
      leadline depth search smollm2 --plan examples/arithmetic.toml --sampling.max_new_tokens 40
      leadline depth search smollm2 --problems dev.jsonl --domain number --simulations 50
        --length-penalty 0.5
    """
    loaded = read_plan(plan_file, {**flags, "model": model})
    if loaded.problems is None:
        raise PlanError(
            "name the problems to search on: --problems FILE, or a plan that has a `problems` key"
        )
    folder = Path(flags.get("out", f"runs/depth-{loaded.recipe or title_of(loaded.problems)}"))
    loaded, problems = local_problems(loaded, folder)
    guide, usable, references = _usable_problems(loaded, problems, limit, reward)
    plan = _plan_as_shipped(loaded.plan)
    own_model = plan.models[plan.default_model]
    message("loading the model")
    decoder = load_decoder(own_model.path, own_model.revision)
    own = shipped_order(own_model.path, decoder.n_layers)
    bound = max_layers or _LENGTH_FACTOR * len(own)
    if bound < len(own):
        raise PlanError(
            f"--max-layers {bound} is less than the {len(own)} layers that the model runs itself"
        )
    task = SearchTask(
        plan,
        loaded.execution,
        str(problems),
        usable,
        references,
        guide,
        holdout,
        n_votes,
        SearchOptions(bound, n_simulations, length_penalty, exploration=exploration),
    )
    progress = _Progress(n_simulations, len(own), display)
    outcome = tree_search.search(decoder, own, task, folder / "orders.jsonl", progress)
    _write_schedule(folder, loaded, plan, outcome)
    document = _search_document(outcome, model, task)
    write_json(folder / "search.json", document)
    if display.as_json:
        print_json(document)
    else:
        results_console().print(views.search_view(outcome, folder))
    return INTERRUPTED if outcome.interrupted else 0


def _usable_problems(
    loaded: LoadedPlan, path: Path, limit: int, reward: str
) -> tuple[SearchReward, tuple[Problem, ...], RightAnswers]:
    """Return the objective, the usable problems and their references.

    Prints a note on the problems that are left out.
    """
    plan = loaded.plan
    file = read_problems(path, default_domain=plan.domain, domains=plan.domains)
    problems = file.problems[: limit or None]
    domains = {problem.id: problem.domain for problem in problems}
    read = required_references if reward != SearchReward.AGREEMENT else references_and_notes
    references = read(path, domains, plan, loaded.execution).answers
    guide, usable = chosen_reward(reward, problems, references)
    n_invalid, n_unknown = len(file.order) - len(file.problems), len(problems) - len(usable)
    notes = list(file.warnings)
    if n_invalid:
        notes.append(f"{n_invalid} of {len(file.order)} rows are invalid and are left out")
    if n_unknown:
        notes.append(
            f"{n_unknown} of {len(problems)} problems have no reference answer that can be read "
            "and are left out"
        )
    for note in notes:
        message(f"note: {note}")
    return guide, usable, references


class _Progress:
    """Prints the progress of a search: one updated line on a terminal, periodic lines elsewhere."""

    def __init__(self, n_simulations: int, n_layers: int, display: DisplayOptions) -> None:
        self._n_simulations = n_simulations
        self._n_layers = n_layers
        self._display = display
        self._began = time.monotonic()
        self._printed_at = 0.0
        self._is_live = sys.stderr.isatty()

    def __call__(self, n_orders: int, scored: OrderScore, best: OrderScore) -> None:
        """Count one more order."""
        now = time.monotonic()
        is_last = n_orders > self._n_simulations
        is_due = self._is_live or is_last or now - self._printed_at >= self._display.every_seconds
        if self._display.quiet or not is_due:
            return
        self._printed_at = now
        line = (
            f"{n_orders - 1} of {self._n_simulations} simulations, {duration(now - self._began)}; "
            f"best {share(best.reward)} with {len(best.order)} of {self._n_layers} layers; "
            f"last {share(scored.reward)} with {len(scored.order)}"
        )
        end = "\n" if is_last or not self._is_live else ""
        sys.stderr.write(f"{chr(13)}\x1b[K{line}{end}" if self._is_live else f"{line}{end}")
        sys.stderr.flush()


def _plan_as_shipped(plan: Plan) -> Plan:
    """Return the plan with its model as it ships and without depths: an order replaces both."""
    shipped = replace(
        plan.models[plan.default_model], layers="", max_depth=0, damped=False, residual=0.0, exit=""
    )
    models = {**plan.models, plan.default_model: shipped}
    options = {
        key: value
        for key, value in plan.strategy.options.items()
        if not key.endswith(("depth", "depths"))
    }
    strategy = PluginSpec(plan.strategy.name, options)
    # a strategy that uses several depths has none left to use
    if hasattr(registry.load("strategies", plan.strategy), "depths"):
        strategy = PluginSpec(
            "consistency", {key: options[key] for key in ("n", "model") if key in options}
        )
    return replace(plan, models=models, strategy=strategy, sampling=replace(plan.sampling, depth=0))


def _write_schedule(folder: Path, loaded: LoadedPlan, plan: Plan, outcome: SearchResult) -> None:
    """Write the winner as a plan for `leadline run`."""
    winner = replace(plan.models[plan.default_model], layers=str(Schedule(outcome.winner.order)))
    chosen = replace(plan, models={**plan.models, plan.default_model: winner})
    assert isinstance(loaded.problems, Path)
    head = "".join(f"# {line}\n" for line in views.search_remarks(outcome))
    text = plan_toml(
        chosen, loaded.execution, problems=str(loaded.problems.resolve()), out=str(folder / "run")
    )
    write_atomically(folder / "schedule.toml", f"{head}\n{text}".encode())


def _search_document(outcome: SearchResult, model: str, task: SearchTask) -> dict[str, object]:
    def row(scored: OrderScore) -> dict[str, object]:
        return {
            "layers": str(Schedule(scored.order)),
            "n_layers_run": len(scored.order),
            "reward": scored.reward,
            "n": len(scored.right),
        }

    return {
        "model": model,
        "problems": task.file,
        "reward": outcome.reward,
        "knobs": task.options,
        "n_problems": outcome.n_problems,
        "n_orders": outcome.n_orders,
        "n_whole": outcome.n_whole,
        "own": row(outcome.own),
        "winner": row(outcome.winner),
        "front": [row(scored) for scored in outcome.front],
        "comparison": outcome.comparison,
        "interrupted": outcome.interrupted,
    }
