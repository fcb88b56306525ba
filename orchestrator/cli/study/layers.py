"""`leadline depth probe` and `leadline depth search`: choose the layers that a model runs.

Tables go to the standard output, progress and remarks to the error stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import click

from orchestrator.cli.console import message, print_json, results_console, write_json
from orchestrator.cli.inputs import read_plan
from orchestrator.cli.options import (
    EXIT_CODES,
    DisplayOptions,
    PlanCommand,
    debug_option,
    display_options,
    json_option,
    limit_option,
)
from orchestrator.cli.view import layers as views
from orchestrator.cli.view.numbers import duration, share
from orchestrator.core.errors import JournalError, PlanError
from orchestrator.core.layers import Schedule
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.jobs.files import write_atomically
from orchestrator.jobs.problems import read_problems
from orchestrator.plan import registry
from orchestrator.plan.document import plan_toml
from orchestrator.plan.file import LoadedPlan
from orchestrator.studies.evaluate import read_references
from orchestrator.studies.layers import search as tree_search
from orchestrator.studies.layers import think_block
from orchestrator.studies.layers.loading import load_decoder, shipped_order
from orchestrator.studies.layers.mcts import SearchOptions
from orchestrator.studies.layers.scoring import OrderScore
from orchestrator.studies.layers.search import SearchResult, SearchTask, chosen_reward
from orchestrator.studies.sweep.surface import parse_counts

INTERRUPTED = 130
_LENGTH_FACTOR = 2  # an order may have twice the model's layers, unless --max-layers is given


@click.group(epilog=EXIT_CODES)
def depth() -> None:
    """Choose the layers that a model runs, and their order.

    Measured in plain PyTorch, without an engine.

    \b
    Examples:
      leadline depth probe smollm2
      leadline depth search smollm2 --plan examples/arithmetic.toml
    """


@depth.command(short_help="Propose a think block.", epilog=EXIT_CODES)
@click.argument("model")
@click.option(
    "--text",
    "text_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measure on this text instead of the built-in one.",
)
@click.option(
    "--depths",
    default="1,2,3",
    metavar="R,R,...",
    show_default=True,
    help="Measure what looping does at these depths.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where probe.json and probe.png go.  [default: runs/probe-MODEL]",
)
@json_option
@debug_option
def probe(model: str, text_file: Path | None, depths: str, out: Path | None, as_json: bool) -> int:
    """Measure how far each layer of MODEL turns the residual stream, and propose the block to loop.

    Prints the angular distance of each layer, a schedule `encode (think)*r decode` from the knees
    of that curve, and what looping the block does to the likelihood of the text, plain and damped.
    MODEL is smollm2, a folder or a hub name.

    \b
    Examples:
      leadline depth probe smollm2
      leadline depth probe ./my-model --text sample.txt --depths 1,2,4
    """
    all_depths = parse_counts(depths, "--depths")
    text = think_block.built_in_text() if text_file is None else _read_text(text_file)
    model_name = Path(model.rstrip("/")).name or "model"
    folder = out or Path("runs") / f"probe-{model_name}"
    message("loading the model")
    decoder = load_decoder(model)
    message("measuring")
    measured = think_block.probe(decoder, model, text, all_depths)
    document = _probe_document(measured, text_file)
    _make_folder(folder)
    write_json(folder / "probe.json", document)
    if find_spec("matplotlib") is None:
        message(
            "no picture was drawn, since matplotlib is not installed: pip install 'leadline[plot]'"
        )
    else:
        from orchestrator.cli.view.plots import draw_distances

        title = f"{model}: {measured.n_tokens:,} tokens"
        draw_distances(folder / "probe.png", measured.distances, measured.schedule, title)
    if as_json:
        print_json(document)
    else:
        results_console().print(views.probe_view(measured, folder))
    return 0


@depth.command(
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
    short_help="Search an order of layers for a task.",
)
@click.argument("model")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(),
    metavar="PLAN.toml",
    help="Take problems, domain, template and limits from this plan.",
)
@click.option(
    "--reward",
    type=click.Choice(["auto", "accuracy", "agreement"]),
    default="auto",
    show_default=True,
    help=(
        "What guides the search: accuracy needs reference answers; agreement is with the model's "
        "own vote. auto: accuracy where there are reference answers."
    ),
)
@click.option(
    "--holdout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.5,
    metavar="SHARE",
    show_default=True,
    help=(
        "Share of the problems kept out of the search, to evaluate its winner on. 0: evaluate on "
        "the same ones, which is called an oracle."
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
    help="Orders to try.",
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
    """Search an order of MODEL's layers for a task: layers skipped, blocks repeated (CoLa's tree
    search).

    One order for all problems. The search is guided by accuracy where the problems have reference
    answers, else by agreement with the model's own vote; the winner is evaluated on problems that
    were kept out of the search. Prints the Pareto set of reward against layers run and writes
    schedule.toml, a plan that `leadline run` takes. Ctrl-C keeps what was found; the same command
    continues.

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
    file = read_problems(
        loaded.problems, default_domain=loaded.plan.domain, domains=loaded.plan.domains
    )
    references = read_references(loaded.problems)
    problems = file.problems[: limit or None]
    guide, usable = chosen_reward(reward, problems, references)
    left_out = _left_out(len(file.order), len(file.problems), len(problems), len(usable))
    for remark in (*file.warnings, *left_out):
        message(f"note: {remark}")
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
        str(loaded.problems),
        usable,
        references,
        guide,
        holdout,
        n_votes,
        SearchOptions(bound, n_simulations, length_penalty, exploration=exploration),
    )
    folder = Path(flags["out"]) if "out" in flags else _default_folder(loaded.problems)
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


def _default_folder(problems: Path) -> Path:
    return Path("runs") / f"depth-{problems.stem}"


class _Progress:
    """Prints how far a search is: on a terminal one line that changes, elsewhere a line now and
    then.
    """

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
    """Return the plan with its model as it ships and nothing in it that requests a depth: an order
    of layers replaces both.
    """
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
    """Write the winner as a plan that `leadline run` takes."""
    winner = replace(plan.models[plan.default_model], layers=str(Schedule(outcome.winner.order)))
    chosen = replace(plan, models={**plan.models, plan.default_model: winner})
    assert loaded.problems is not None
    head = "".join(f"# {line}\n" for line in views.search_remarks(outcome))
    text = plan_toml(
        chosen, loaded.execution, problems=str(loaded.problems.resolve()), out=str(folder / "run")
    )
    write_atomically(folder / "schedule.toml", f"{head}\n{text}".encode())


def _left_out(n_rows: int, n_valid: int, n_taken: int, n_usable: int) -> list[str]:
    remarks = []
    if n_valid < n_rows:
        remarks.append(f"{n_rows - n_valid} of {n_rows} rows are invalid and are left out")
    if n_usable < n_taken:
        remarks.append(
            f"{n_taken - n_usable} of {n_taken} problems have no reference answer and are left out"
        )
    return remarks


def _probe_document(measured: think_block.LayerProbe, text_file: Path | None) -> dict[str, object]:
    return {
        "model": measured.model,
        "text": str(text_file or "built in"),
        "n_tokens": measured.n_tokens,
        "distances": measured.distances,
        "schedule": measured.schedule and str(measured.schedule),
        "loops": measured.loops,
    }


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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path} is not text in UTF-8: byte {error.start + 1} is not") from error


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}; choose another folder with --out") from error
