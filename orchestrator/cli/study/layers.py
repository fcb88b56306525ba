"""What `leadline depth probe` and `leadline depth search` do, once their arguments are parsed; each
returns its exit code.

Tables go to the standard output, progress and remarks to the error stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import msgspec
from rich.console import Console, RenderableType

from orchestrator.cli.run import read_plan
from orchestrator.cli.view import layers as views
from orchestrator.cli.view.live import Screen
from orchestrator.core.errors import JournalError, PlanError
from orchestrator.core.layers import Schedule
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import PluginSpec
from orchestrator.jobs.job import write_atomically
from orchestrator.jobs.problems import read_problems
from orchestrator.plan import registry
from orchestrator.plan.file import plan_toml
from orchestrator.plan.file import LoadedPlan
from orchestrator.studies.evaluate import read_references
from orchestrator.studies.layers.loading import load_decoder, shipped_order
from orchestrator.studies.layers.mcts import Knobs
from orchestrator.studies.layers.scoring import Scored
from orchestrator.studies.layers.search import Found, Task, chosen_reward
from orchestrator.studies.layers.search import search as searched
from orchestrator.studies.layers.think_block import Probe, built_in_text
from orchestrator.studies.layers.think_block import probe as probed

INTERRUPTED = 130
LENGTHS = 2  # an order may have twice the model's layers, unless --max-layers says otherwise


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options of `depth search` say beside the keys of the plan.

    `max_layers` 0: twice the model's.
    """

    reward: str
    holdout: float
    n_votes: int
    limit: int
    n_simulations: int
    length_penalty: float
    exploration: float
    max_layers: int
    every_seconds: float
    quiet: bool
    as_json: bool


def probe(
    model: str, text_file: str | None, depths: Sequence[int], out: str | None, as_json: bool
) -> int:
    """Measure a model's layers, propose a schedule, and say what looping it does."""
    text = built_in_text() if text_file is None else _text(Path(text_file))
    folder = Path(out) if out else Path("runs") / f"probe-{_plain_name(model)}"
    _say("loading the model")
    decoder = load_decoder(model)
    _say("measuring")
    found = probed(decoder, model, text, depths)
    document = _encoded(_probe_document(found, text_file))
    _folder(folder)
    write_atomically(folder / "probe.json", document)
    if find_spec("matplotlib") is not None:
        from orchestrator.cli.view.plots import draw_distances

        draw_distances(
            folder / "probe.png",
            found.distances,
            found.schedule,
            f"{model}: {found.n_tokens:,} tokens",
        )
    else:
        _say(
            "no picture was drawn, since matplotlib is not installed: pip install 'leadline[plot]'"
        )
    if as_json:
        sys.stdout.write(document.decode())
        return 0
    _print(views.probe_view(found, folder))
    return 0


def search(model: str, plan_file: str | None, flags: Mapping[str, str], asked: Asked) -> int:
    """Look for the order of layers that suits a task."""
    loaded = read_plan(plan_file, {**flags, "model": model})
    if loaded.problems is None:
        raise PlanError(
            "name the problems to search on: --problems FILE, or a plan that has a `problems` key"
        )
    file = read_problems(
        loaded.problems, default_domain=loaded.plan.domain, domains=loaded.plan.domains
    )
    references = read_references(loaded.problems)
    problems = file.problems[: asked.limit or None]
    reward, usable = chosen_reward(asked.reward, problems, references)
    for remark in (
        *file.warnings,
        *_left_out(len(file.order), len(file.problems), len(problems), len(usable)),
    ):
        _say(f"note: {remark}")
    plan = _bare(loaded.plan)
    folder = (
        Path(flags["out"]) if "out" in flags else Path("runs") / f"depth-{loaded.problems.stem}"
    )
    pool = plan.models[plan.default_model]
    _say("loading the model")
    decoder = load_decoder(pool.path, pool.revision)
    own = shipped_order(pool.path, decoder.n_layers)
    bound = asked.max_layers or LENGTHS * len(own)
    if bound < len(own):
        raise PlanError(
            f"--max-layers {bound} is less than the {len(own)} layers that the model runs itself"
        )
    knobs = Knobs(bound, asked.n_simulations, asked.length_penalty, exploration=asked.exploration)
    task = Task(
        plan,
        loaded.execution,
        str(loaded.problems),
        usable,
        references,
        reward,
        asked.holdout,
        asked.n_votes,
        knobs,
    )
    found = searched(decoder, own, task, folder / "orders.jsonl", _Progress(asked, len(own)))
    _write_schedule(folder, loaded, plan, found)
    document = _encoded(_search_document(found, model, task))
    write_atomically(folder / "search.json", document)
    if asked.as_json:
        sys.stdout.write(document.decode())
    else:
        _print(views.search_view(found, folder, task))
    return INTERRUPTED if found.interrupted else 0


class _Progress:
    """Says how far a search is: on a terminal in one line that changes, elsewhere a line now and
    then.
    """

    def __init__(self, asked: Asked, n_layers: int) -> None:
        self._asked = asked
        self._n_layers = n_layers
        self._begun = time.monotonic()
        self._said = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, n_orders: int, scored: Scored, best: Scored) -> None:
        """Hear of one more order."""
        now = time.monotonic()
        last = n_orders > self._asked.n_simulations
        if self._asked.quiet or (
            not self._live and not last and now - self._said < self._asked.every_seconds
        ):
            return
        self._said = now
        line = (
            f"{n_orders - 1} of {self._asked.n_simulations} simulations, {now - self._begun:.0f} s; "
            f"best {best.reward:.1%} with {len(best.order)} of {self._n_layers} layers; last {scored.reward:.1%} with {len(scored.order)}"
        )
        sys.stderr.write(f"\r\x1b[K{line}{chr(10) if last else ''}" if self._live else f"{line}\n")
        sys.stderr.flush()


def _bare(plan: Plan) -> Plan:
    """Return the plan with its model as it ships and nothing in it that asks for a depth: what an
    order of layers replaces.
    """
    shipped = Model("")
    plain = {
        key: getattr(shipped, key) for key in ("layers", "max_depth", "damped", "residual", "exit")
    }
    models = {
        name: replace(m, **plain) if name == plan.default_model else m
        for name, m in plan.models.items()
    }
    options = {
        key: value
        for key, value in plan.strategy.options.items()
        if key not in ("depth", "depths", "judge_depth")
    }
    strategy = PluginSpec(plan.strategy.name, options)
    # one that goes through several depths has nothing to go through
    if hasattr(registry.load("strategies", plan.strategy), "depths"):
        strategy = PluginSpec(
            "consistency", {key: options[key] for key in ("n", "model") if key in options}
        )
    return replace(plan, models=models, strategy=strategy, sampling=replace(plan.sampling, depth=0))


def _write_schedule(folder: Path, loaded: LoadedPlan, plan: Plan, found: Found) -> None:
    """Write the winner as a plan that `leadline run` takes."""
    layers = str(Schedule(found.winner.order))
    pool = plan.default_model
    chosen = replace(plan, models={**plan.models, pool: replace(plan.models[pool], layers=layers)})
    assert loaded.problems is not None
    head = "".join(f"# {line}\n" for line in views.search_remarks(found))
    text = plan_toml(
        chosen, loaded.execution, problems=str(loaded.problems.resolve()), out=str(folder / "run")
    )
    write_atomically(folder / "schedule.toml", f"{head}\n{text}".encode())


def _left_out(n_rows: int, n_valid: int, n_taken: int, n_usable: int) -> list[str]:
    remarks = []
    if n_valid < n_rows:
        remarks.append(f"{n_rows - n_valid} of {n_rows} rows are no problems and are left out")
    if n_usable < n_taken:
        remarks.append(
            f"{n_taken - n_usable} of {n_taken} problems have no reference answer and are left out"
        )
    return remarks


def _probe_document(found: Probe, text_file: str | None) -> dict[str, object]:
    schedule = None if found.schedule is None else str(found.schedule)
    return {
        "model": found.model,
        "text": text_file or "built in",
        "n_tokens": found.n_tokens,
        "distances": found.distances,
        "schedule": schedule,
        "loops": found.loops,
    }


def _search_document(found: Found, model: str, task: Task) -> dict[str, object]:
    def row(scored: Scored) -> dict[str, object]:
        return {
            "layers": str(Schedule(scored.order)),
            "n_layers_run": len(scored.order),
            "reward": scored.reward,
            "n": len(scored.right),
        }

    return {
        "model": model,
        "problems": task.file,
        "reward": found.reward,
        "knobs": task.knobs,
        "n_problems": found.n_problems,
        "n_orders": found.n_orders,
        "n_whole": found.n_whole,
        "own": row(found.own),
        "winner": row(found.winner),
        "front": [row(scored) for scored in found.front],
        "comparison": found.comparison,
        "interrupted": found.interrupted,
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path} is not text in UTF-8: byte {error.start + 1} is not") from error


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}; choose another folder with --out") from error


def _plain_name(model: str) -> str:
    return Path(model.rstrip("/")).name or "model"


def _encoded(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _print(view: RenderableType) -> None:
    console: Console = Screen(file=sys.stdout, highlight=False)
    console.print(view)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
