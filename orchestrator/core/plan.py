"""What decides answers: the Plan, its fingerprint, and the seeds that derive from it.

What decides only speed is `orchestrator.plan.execution.Execution`, never here. Two plans with the
same fingerprint ask for the same work; that guards resuming.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from orchestrator.core.values import PluginSpec, Sampling

# What a model pool may be for, other than writing text, by vLLM's names of its pooling tasks, and
# what a trace's `values` then are. Numbers are raw: of a head with one label its logit, of one with
# two labels the second's logit minus the first's (whose sigmoid is the softmax of the two).
TASKS: Mapping[str, str] = {
    "classify": "one number for the whole text (sequence classifiers, most reward models)",
    "token_classify": "one number at each token asked for, or at the last one "
    "(process reward models, and reward models like Qwen2.5-Math-RM)",
    "embed": "the text's embedding, of length one (sentence-embedding models)",
}
SCHEMA = 1  # raise when the meaning of a plan or a journal row changes


@dataclass(frozen=True, slots=True)
class Model:
    """A model: `path` is an embedded name ("smollm2", "sounder"), a local folder or a hub name.

    `layers` is a layer schedule (`core.layers`) that runs instead of the model's own. `max_depth`
    is the largest depth that a request may have, and what memory is set aside for. `damped`: of a
    think block that was never trained to be repeated, each of r iterations goes 1/r of the way
    (arXiv 2605.23872). `residual`: each iteration keeps this share of the state before it (arXiv
    2506.08552). `exit` is an exit rule (`core.layers`) by which a token stops iterating before its
    request's depth. `task`: one of `TASKS`, for a model that values texts.
    """

    path: str
    revision: str = ""
    max_context_tokens: int = 0  # 0: as the model ships
    layers: str = ""  # "": as the model ships
    max_depth: int = 0  # 0: as the model ships, else 1
    damped: bool = False
    residual: float = 0.0  # in [0, 1); 0: the plain loop
    exit: str = ""  # "": every token takes its request's depth
    task: str = ""  # "": it writes text


def same_weights(a: Model, b: Model) -> bool:
    """Tell whether two models differ at most in how much memory is set aside for them."""
    return replace(a, max_depth=0, max_context_tokens=0) == replace(
        b, max_depth=0, max_context_tokens=0
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits for each problem; 0 means none.

    When one is reached, exploration ends, what runs is cancelled, and the traces so far are voted
    on. `tokens` counts the output tokens of all traces that have arrived; those in flight are
    cancelled then and charged too. `seconds` run from the problem's first request.
    """

    traces: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides answers.

    `models` maps the names of model pools to models; the first is the default pool.
    """

    models: Mapping[str, Model] = field(default_factory=lambda: {"main": Model("smollm2")})
    strategy: PluginSpec = PluginSpec("consistency")
    selector: PluginSpec = PluginSpec("majority")
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    verifiers: tuple[PluginSpec, ...] = ()
    # options for domains, by the name rows use
    domains: Mapping[str, PluginSpec] = field(default_factory=dict)
    domain: str = "math"  # of rows that name none
    seed: int = 0

    @property
    def default_model(self) -> str:
        """The model pool of requests that name none."""
        return next(iter(self.models))


def fingerprint(plan: Plan) -> str:
    """Return 16 hex digits that are equal exactly when two plans ask for the same work."""
    text = json.dumps({"schema": SCHEMA, **document(plan)}, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def document(plan: Plan) -> dict[str, object]:
    """Return a plan as nested mappings, from which its fingerprint is taken."""
    models = {name: asdict(model) for name, model in plan.models.items()}
    for model in models.values():
        if not model["task"]:
            del model["task"]  # so that jobs begun before there were tasks continue
    # the order of `models` decides which pool is the default; a mapping hides it
    return {**asdict(plan), "models": models, "default_model": plan.default_model}


def differences(
    old: Mapping[str, object], new: Mapping[str, object], prefix: str = ""
) -> list[str]:
    """Return one line for each key in which two plans, as nested mappings, differ.

    Such as `sampling.temperature: 0.7 -> 0.9`.
    """
    lines: list[str] = []
    for key in sorted({*old, *new}):
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{name}.")
        elif a != b:
            lines.append(f"{name}: {a!r} -> {b!r}")
    return lines


def derive_seed(run_seed: int, *parts: str | int) -> int:
    """Return a seed in [0, 2**53) for these parts: it fits JSON numbers, vLLM and NumPy alike."""
    text = repr((run_seed, *parts))  # unambiguous for texts and whole numbers
    return (
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "big"
        )
        >> 11
    )
