"""How a model loops over its layers, from its configuration and from the plan's entry.

The one rule: a setting that the model does not support is refused here, with the remedy, before an
engine starts. Pure: reads no file and needs no vLLM. Supported are the families of `FAMILIES` under
a layer schedule, and the published looped checkpoints, Ouro and Huginn. Not covered: running them
(`orchestrator.engines.vllm.latent`).

To support another vLLM model of the form `embed -> layer(positions, hidden, residual)* -> norm`
with its one Attention at `layer.self_attn.attn`, add a row to `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import (
    Schedule,
    parse_cascade,
    parse_exit,
    parse_schedule,
    require_layers,
)
from orchestrator.core.plan import Model

KEY = "latent"  # of config.json
# of SamplingParams.extra_args: a request's depth, noise on its states, and a warm start
DEPTH_ARGUMENT, NOISE_ARGUMENT, WARM_ARGUMENT = "latent_depth", "latent_noise", "latent_warm"
# the fields of a model, beside its depths, that say something of its loop
_LOOP_FIELDS = (
    *("damped", "residual", "exit", "cascade", "kv_iterations", "kv_writes", "warm_start"),
)
FIRST, LAST = KV_WRITES = ("first", "last")
_MODELS_MODULE = "orchestrator.engines.vllm.latent.models"
# checkpoints that loop by themselves, of which vLLM has no model
LOOPED: Mapping[str, str] = {
    "OuroForCausalLM": "LeadlineOuroForCausalLM",
    "RavenForCausalLM": "LeadlineRavenForCausalLM",
}
# architecture in config.json -> architecture that `latent.plugin` registers with vLLM
FAMILIES: Mapping[str, str] = {
    "LlamaForCausalLM": "LeadlineLlamaForCausalLM",
    "MistralForCausalLM": "LeadlineMistralForCausalLM",
    "Qwen2ForCausalLM": "LeadlineQwen2ForCausalLM",
    "Qwen3ForCausalLM": "LeadlineQwen3ForCausalLM",
    **LOOPED,
}
# the names that Huginn's config.json has for sizes that every other one names alike
_RAVEN_NAMES = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "max_position_embeddings": "block_size",
}


@dataclass(frozen=True, slots=True)
class Draft:
    """How a model drafts for itself: up to `tokens` at once, at `depth` or with fewer `layers`.

    A model that does not loop has depth 0 here, since its requests have depth 1. A pass over n
    tokens costs 1 + n / `step_tokens` times what one over few tokens costs.
    """

    depth: int
    tokens: int
    step_tokens: int
    layers: str = ""  # those that run, of a model that does not loop

    def n_layers(self, schedule: Schedule) -> int:
        """Return how many layers a drafted token passes, of a model with this schedule."""
        return (parse_schedule(self.layers) if self.layers else schedule).n_layers_run(self.depth)


@dataclass(frozen=True, slots=True)
class Latent:
    """How a model runs its layers.

    `depth` applies to requests that name none; `max_depth` is the largest depth, for which memory
    is reserved.
    """

    architecture: str  # ours, as vLLM knows it
    schedule: Schedule
    depth: int = 1
    max_depth: int = 1
    damped: bool = False
    residual: float = 0.0  # the share of its state that an iteration keeps
    exit: str = ""  # a rule for `orchestrator.core.layers.parse_exit`
    cascade: str = ""  # a cascade for `orchestrator.core.layers.parse_cascade`
    kv_iterations: int = 0  # KV slots that the iterations share; 0: one for each
    kv_writes: str = FIRST  # which of the iterations that share a slot write it
    warm_start: float = 0.0  # the share of the last state of the token before in a first state
    draft: Draft | None = None

    @property
    def n_visits(self) -> int:
        """The number of layer-sized KV caches that a token occupies."""
        return self.schedule.n_layers_run(self.kv_iterations or self.max_depth)

    def overrides(self) -> dict[str, Any]:
        """Return the changes to the model's configuration for vLLM (its `hf_overrides`)."""
        table = {
            "layers": str(self.schedule),
            "depth": self.depth,
            "max_depth": self.max_depth,
            "damped": self.damped,
            "residual": self.residual,
        }
        if self.kv_iterations:
            table |= {"kv_iterations": self.kv_iterations, "kv_writes": self.kv_writes}
        draft = {} if self.draft is None else {"draft": asdict(self.draft)}
        rules = {"exit": self.exit, "cascade": self.cascade, "warm_start": self.warm_start}
        return {"architectures": [self.architecture], KEY: {**table, **rules, **draft}}


# the type of each value under `KEY`
_KEY_TYPES = {"layers": str} | {
    f.name: type(f.default)
    for f in fields(Latent)
    if f.name in {"depth", "max_depth", *_LOOP_FIELDS}
}


def latent_of(config: Mapping[str, Any], model: Model, name: str) -> Latent | None:
    """Return how the plan's model `name` loops; None when vLLM runs it unchanged.

    `model.layers` replaces a schedule in the configuration together with its depths, which belong
    to that schedule. PlanError for unsupported settings.
    """
    where = f"models.{name}"
    looped = own_loop(config)
    _require(
        not (looped and model.layers),
        f"{where}: the model loops by itself, over layers of its own: drop layers; max_depth may "
        "stay",
    )
    own = {} if model.layers else _own(config, looped)
    if not own and not model.layers:
        settings = {"max_depth": model.max_depth, **_loop_settings(model)}
        _require(
            model.max_depth <= 1 and len(settings) == 1,
            f"{where}: {', '.join(f'{key} = {value!r}' for key, value in settings.items())}, but "
            'the model has no think block; name its layers, as in layers = "0-9 (10-19)*r 20-29"',
        )
        return None
    schedule = parse_schedule(model.layers or str(own.get("layers", "")))
    require_layers(schedule, int(config.get("num_hidden_layers", 0)))
    depth = int(own.get("depth", 1))
    max_depth = model.max_depth or int(own.get("max_depth", depth))
    # a smaller max_depth saves memory, and the published depths are large
    depth = min(depth, max_depth) if looped else depth
    _require(
        1 <= depth <= max_depth,
        f"{where}: max_depth = {max_depth}; it must be at least the model's own depth, {depth}",
    )
    loop = {**{key: own[key] for key in _LOOP_FIELDS if own.get(key)}, **_loop_settings(model)}
    if not schedule.think:
        _require(
            max_depth == 1 and not loop,
            f"{where}: the schedule '{schedule}' has no block to repeat, so max_depth, "
            f"{', '.join(_LOOP_FIELDS)} have no effect; write one, as in 0-9 (10-19)*r 20-29",
        )
    _require_loop(loop, max_depth, where)
    _require_slots(loop, max_depth, where)
    architecture = _architecture(config, where)
    _require_warm(loop, max_depth, architecture, where)
    return Latent(architecture, schedule, depth, max_depth, **loop)


def unlooped(config: Mapping[str, Any], where: str, remedy: str) -> Latent:
    """Return how our class runs an ordinary model: each layer once, as vLLM's own class does.

    PlanError, with `where` and `remedy`, if we have none for it.
    """
    architecture = _architecture(config, where, remedy)
    return Latent(architecture, Schedule(tuple(range(int(config["num_hidden_layers"])))))


def cache_salt(depth: int) -> str:
    """Return the salt that separates requests of different depths in the prefix cache.

    After the think block, their layers see different inputs.
    """
    return f"depth {depth}"


def require_depth(depth: int, latent: Latent | None, what: str) -> None:
    """Raise PlanError unless a model serves this depth. `what` names the key that requests it."""
    largest = 1 if latent is None else latent.max_depth
    if 1 <= depth <= largest:
        return
    if latent is None or not latent.schedule.think:
        raise PlanError(
            f"{what} requests latent depth {depth}; this model has no think block, so only depth 1 "
            "is possible (models.NAME.layers)"
        )
    raise PlanError(
        f"{what} requests latent depth {depth}; the model serves 1 to {largest} "
        "(raise models.NAME.max_depth)"
    )


def _loop_settings(model: Model) -> dict[str, Any]:
    """Return the fields of a plan's model that change its loop."""
    return {key: value for key in _LOOP_FIELDS if (value := getattr(model, key))}


def _require_loop(loop: Mapping[str, Any], max_depth: int, where: str) -> None:
    _require(
        len({"damped", "residual"} & set(loop)) < 2,
        f"{where}: damped and residual both set how far an iteration moves the state: drop one",
    )
    _require(
        0 <= loop.get("residual", 0.0) < 1,
        f"{where}: residual = {loop.get('residual')}; it must be at least 0 and below 1",
    )
    if loop.get("exit"):
        rule = parse_exit(loop["exit"])
        _require(
            max_depth > 1,
            f"{where}: exit = {loop['exit']!r}, but max_depth = 1 leaves nothing to exit from: "
            "raise max_depth",
        )
        _require(
            rule.measure != "agreement" or rule.threshold < max_depth,
            f"{where}: exit = {loop['exit']!r}, but with max_depth = {max_depth} that is every "
            "iteration, so no token would stop early: take a smaller number",
        )
    if loop.get("cascade"):
        _require_cascade(loop, max_depth, where)


def _require_cascade(loop: Mapping[str, Any], max_depth: int, where: str) -> None:
    cascade = parse_cascade(loop["cascade"])
    what = f"{where}: cascade = {loop['cascade']!r}"
    _require(
        cascade.depth < max_depth,
        f"{what}, but the model serves depths up to {max_depth}: an early iteration comes before "
        "the last; take an earlier one, or raise max_depth",
    )
    _require(
        not loop.get("exit"),
        f"{what}, and exit = {loop.get('exit')!r}: by one an early iteration predicts and all of "
        "them run, by the other they do not; drop one",
    )
    _require(
        not loop.get("damped"),
        f"{what}, but damped: an iteration's step depends on the depth, so none of them is that of "
        "a smaller depth; drop one",
    )


def _require_slots(loop: Mapping[str, Any], max_depth: int, where: str) -> None:
    n, writes = loop.get("kv_iterations", 0), loop.get("kv_writes", "")
    _require(
        not writes or writes in KV_WRITES,
        f"{where}: kv_writes = {writes!r}; it must be one of {', '.join(KV_WRITES)}",
    )
    _require(
        bool(n) or not writes,
        f"{where}: kv_writes = {writes!r}, but each iteration has a KV slot of its own: set "
        "kv_iterations, or leave it out",
    )
    _require(
        not n or 1 <= n < max_depth,
        f"{where}: kv_iterations = {n}; it must be at least 1 and below max_depth ({max_depth}), "
        "where iterations begin to share slots",
    )
    _require(
        not (n and loop.get("exit")),
        f"{where}: kv_iterations = {n} with exit = {loop.get('exit')!r}: a token that exits has to "
        "leave its keys and values in the slots of later iterations, which others share: drop one",
    )
    _require(
        not (n and loop.get("cascade")),
        f"{where}: kv_iterations = {n} with cascade = {loop.get('cascade')!r} has not been tried: "
        "drop one",
    )


def _require_warm(loop: Mapping[str, Any], max_depth: int, architecture: str, where: str) -> None:
    share = loop.get("warm_start", 0.0)
    what = f"{where}: warm_start = {share:g}"
    _require(0 <= share <= 1, f"{what}; it must be at least 0 and at most 1")
    _require(
        not share or max_depth > 1,
        f"{what}, but max_depth = 1 leaves no iteration to save: raise max_depth",
    )
    _require(
        share < 1 or architecture == LOOPED["RavenForCausalLM"],
        f"{what}: this model reads a token only at the start of its loop, where there would be the "
        "state of the token before alone; take less than 1 (1 is for Huginn)",
    )
    _require(
        not (share and loop.get("cascade")),
        f"{what} with cascade = {loop.get('cascade')!r}, which saves time by drafts: these cannot "
        "start from the last state of a token that is not checked; drop one",
    )


def _own(config: Mapping[str, Any], looped: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what config.json has under `KEY`, over the loop that it describes elsewhere."""
    own = config.get(KEY) or {}
    known = ", ".join(_KEY_TYPES)
    _require(isinstance(own, Mapping), f"config.json: {KEY!r} must be an object with {known}")
    for key, value in own.items():
        _require(key in _KEY_TYPES, f"config.json: {KEY}.{key} is unknown; known are {known}")
        _require(
            type(value) is _KEY_TYPES[key],
            f"config.json: {KEY}.{key} = {value!r} must be of type {_KEY_TYPES[key].__name__}",
        )
    _require(
        not (looped and "layers" in own),
        f"config.json: {KEY}.layers, but the model loops by itself, over layers of its own",
    )
    _require(not own or bool(looped or own.get("layers")), f"config.json: {KEY!r} names no layers")
    return {**looped, **own}


def _architecture(
    config: Mapping[str, Any], where: str, remedy: str = "drop layers and max_depth"
) -> str:
    """Return our architecture for a configuration's; PlanError for one that has none."""
    [architecture, *_] = config.get("architectures") or ["none"]
    _require(
        architecture in FAMILIES,
        f"{where}: layer schedules cover {', '.join(sorted(FAMILIES))}, not {architecture}: "
        f"{remedy}, or use a model of one of these",
    )
    _require(
        not (config.get("quantization_config") or config.get("compression_config")),
        f"{where}: the model is quantised, and layer schedules, whose loops add up its errors, are "
        f"for unquantised weights: use these, or {remedy}",
    )
    _require(
        not config.get("dual_chunk_attention_config"),
        f"{where}: dual chunk attention keeps state per layer, which repeated visits would share: "
        f"{remedy}",
    )
    return FAMILIES[architecture]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise PlanError(message)


def usual_names(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration with its sizes under the names that other models use."""
    if config.get("model_type") != "huginn_raven":
        return config
    return {**config, **{name: config[own] for name, own in _RAVEN_NAMES.items() if own in config}}


def own_loop(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a looped checkpoint's own loop in the form of `KEY` in a config.json; else {}.

    Ouro: the whole stack, `total_ut_steps` times. Huginn: prelude, the core `mean_recurrence`
    times, coda.
    """
    if config.get("model_type") == "ouro":
        depth = int(config.get("total_ut_steps", 4))
        layers = f"(0-{int(config['num_hidden_layers']) - 1})*r"
    elif config.get("model_type") == "huginn_raven":
        depth = int(config.get("mean_recurrence", 32))
        core = int(config["n_layers_in_prelude"])
        coda = core + int(config["n_layers_in_recurrent_block"])
        end = coda + int(config["n_layers_in_coda"])
        layers = f"0-{core - 1} ({core}-{coda - 1})*r {coda}-{end - 1}"
    else:
        return {}
    return {"layers": layers, "depth": depth, "max_depth": depth}


def targets() -> dict[str, str]:
    """Return where each architecture that we add to vLLM is found, as "module:Class"."""
    return {name: f"{_MODELS_MODULE}:{name}" for name in FAMILIES.values()}
