"""What decides answers: the Plan. What decides only speed is
`orchestrator.plan.execution.Execution`, never here.

`fingerprint` guards resuming: two plans with the same fingerprint ask for the same work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from orchestrator.core.values import PluginSpec, Sampling

# What a pool may be for, if not for writing text, by vLLM's names of its pooling tasks, and what a
# trace's `values` then are. Numbers are raw: of a head with one label its logit, of one with two
# the second's logit minus the first's (whose sigmoid is the softmax of the two).
TASKS: Mapping[str, str] = {
    "classify": "one number for the whole text (sequence classifiers, most reward models)",
    "token_classify": "one number at each token asked for, or at the last one (process reward models; those of Qwen2.5-Math-RM's kind)",
    "embed": "the text's embedding, of length one (sentence-embedding models)",
}
SCHEMA = 1  # raise when the meaning of a plan or a journal row changes


@dataclass(frozen=True, slots=True)
class Model:
    """A model by name: `path` is an embedded name ("smollm2", "sounder"), a local folder or a hub
    name.

    `layers` is a schedule (`core.schedule`) that runs instead of the model's own; `max_depth` is
    the largest depth that a request may ask for, and what memory is set aside for. `damped`: of a
    think block that was never trained to be repeated, each of r iterations goes 1/r of the way
    (arXiv 2605.23872). `residual`: each iteration keeps this share of the state before it (arXiv
    2506.08552). `exit` is a rule (`core.exits`) by which a token stops iterating before its
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
    """Limits per problem; 0 means none. Reaching one ends exploration, cancels what runs, and the
    pool so far is voted on.

    `tokens` counts output tokens of all traces that have arrived; those in flight when it is
    reached are cancelled and charged too. `seconds` runs from the problem's first request.
    """

    traces: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides answers.

    `models` maps pool names to models; the first is the default pool.
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
        """The pool a request goes to when it names none."""
        return next(iter(self.models))


def fingerprint(plan: Plan) -> str:
    """Return 16 hex digits that are equal exactly when two plans ask for the same work."""
    text = json.dumps({"schema": SCHEMA, **document(plan)}, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def document(plan: Plan) -> dict[str, object]:
    """Return a plan as nested mappings: what its fingerprint is taken from and `differences`
    compares.
    """
    models = {name: asdict(model) for name, model in plan.models.items()}
    for model in models.values():
        if not model["task"]:
            del model["task"]  # jobs begun before there were tasks go on
    # the order of `models` decides; a mapping hides it
    return {**asdict(plan), "models": models, "default_model": plan.default_model}


def differences(
    old: Mapping[str, object], new: Mapping[str, object], prefix: str = ""
) -> list[str]:
    """Return one line per key in which two plans (as nested mappings) differ, e.g.

    `sampling.temperature: 0.7 -> 0.9`.
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
    """Return a seed in [0, 2**53) for these parts: fits JSON numbers, vLLM and NumPy alike."""
    text = repr((run_seed, *parts))  # unambiguous for texts and whole numbers
    return (
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "big"
        )
        >> 11
    )
