"""What a model's configuration and a plan's model ask of the layer stack, or why they cannot have
it. Pure: reads no file, needs no vllm.

Everything that is refused is refused here, before an engine starts, with what would mend it.

What the configuration of a checkpoint that loops by itself says of its loop: Ouro's and Huginn's.
Pure: reads no file, needs no vllm.

The model families that can run under a layer schedule: a table, and nothing that needs vllm.

A row is enough for a family of vLLM whose model is `embed -> layer(positions, hidden, residual)* ->
norm` with its one Attention at `layer.self_attn.attn`; `models` makes the class.

Configurations of looped checkpoints that transformers does not know: those of Ouro and Huginn, with
their own names and defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import Schedule, parse_exit, parse_schedule, require_layers
from orchestrator.core.plan import Model

KEY = "latent"  # of config.json
DEPTH_ARGUMENT = "latent_depth"  # of SamplingParams.extra_args: the depth of one request
# keys of a model beside its depths that say something of its loop
_LOOP = ("damped", "residual", "exit")
# a block of our KV caches on a CPU (`vllm_host`), the largest in use: caches are made of whole
# blocks
_BLOCK_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Latent:
    """How a model is to run: `depth` for requests that name none, `max_depth` what memory is set
    aside for.
    """

    architecture: str  # ours, as vLLM knows it
    schedule: Schedule
    depth: int = 1
    max_depth: int = 1
    damped: bool = False
    residual: float = 0.0  # the share of its state that an iteration keeps
    exit: str = ""  # a rule of `core.exits`

    @property
    def n_visits(self) -> int:
        """How many KV caches of a layer's size a token has."""
        return self.schedule.n_layers_run(self.max_depth)

    def overrides(self) -> dict[str, Any]:
        """Return what vLLM is to change in the model's configuration (its `hf_overrides`)."""
        table = {
            "layers": str(self.schedule),
            "depth": self.depth,
            "max_depth": self.max_depth,
            "damped": self.damped,
        }
        return {
            "architectures": [self.architecture],
            KEY: {**table, "residual": self.residual, "exit": self.exit},
        }


def latent_of(config: Mapping[str, Any], model: Model, name: str) -> Latent | None:
    """Return how the plan's model `name` is to run; None when it runs as vLLM has it. PlanError
    naming what is wrong.

    `model.layers` runs instead of a schedule in the configuration, which then counts for nothing:
    its depths were that schedule's.
    """
    where = f"models.{name}"
    looped = own_loop(config)
    _require(
        not (looped and model.layers),
        f"{where}: the model loops by itself, over layers of its own: drop layers; max_depth may stay",
    )
    own = {} if model.layers else _own(config, looped)
    if not own and not model.layers:
        asked = {"max_depth": model.max_depth, **_of_the_loop(model)}
        _require(
            model.max_depth <= 1 and len(asked) == 1,
            f"{where}: {', '.join(f'{key} = {value!r}' for key, value in asked.items())}, but the model has no think block; "
            'name its layers, as in layers = "0-9 (10-19)*r 20-29"',
        )
        return None
    schedule = parse_schedule(model.layers or str(own.get("layers", "")))
    require_layers(schedule, int(config.get("num_hidden_layers", 0)))
    depth = int(own.get("depth", 1))
    max_depth = model.max_depth or int(own.get("max_depth", depth))
    # of the published ones one may want less memory than theirs takes
    depth = min(depth, max_depth) if looped else depth
    _require(
        1 <= depth <= max_depth,
        f"{where}: max_depth = {max_depth}; it must be at least the model's own depth, {depth}",
    )
    loop = {**{key: own[key] for key in _LOOP if own.get(key)}, **_of_the_loop(model)}
    if not schedule.think:
        _require(
            max_depth == 1 and not loop,
            f"{where}: the schedule '{schedule}' has no block to repeat, so max_depth, damped, residual and exit mean nothing; "
            "write one, as in 0-9 (10-19)*r 20-29",
        )
    _require_loop(loop, max_depth, where)
    return Latent(_architecture(config, where), schedule, depth, max_depth, **loop)


def cache_salt(depth: int) -> str:
    """Return what keeps requests of one depth apart in the prefix cache: after the think block
    their layers see something else.
    """
    return f"depth {depth}"


def require_depth(depth: int, latent: Latent | None, what: str) -> None:
    """Raise PlanError unless a model serves this depth. `what` says who asks."""
    largest = 1 if latent is None else latent.max_depth
    if 1 <= depth <= largest:
        return
    if latent is None or not latent.schedule.think:
        raise PlanError(
            f"{what} asks for latent depth {depth}; this model has no think block, so 1 is all it has (models.NAME.layers)"
        )
    raise PlanError(
        f"{what} asks for latent depth {depth}; the model serves 1 to {largest} (raise models.NAME.max_depth)"
    )


def require_room(
    latent: Latent,
    config: Mapping[str, Any],
    context_tokens: int,
    element_bytes: int,
    cache_bytes: int,
    name: str,
) -> None:
    """Raise PlanError when a KV cache of `cache_bytes` cannot hold one request of the whole context
    at the largest depth.
    """
    needed = kv_bytes(latent, config, context_tokens, element_bytes)
    if needed <= cache_bytes:
        return
    deep = f" at depth {latent.max_depth}" if latent.schedule.think else ""
    smaller = " or max_depth" if latent.max_depth > 1 else ""
    raise PlanError(
        f"models.{name}: one request of {context_tokens} tokens{deep} needs {needed / 2**30:.2f} GiB of KV cache ({latent.n_visits} layers "
        f"run, each with its own), and {cache_bytes / 2**30:.2f} GiB are set aside: set a smaller max_context_tokens{smaller}, or a "
        "larger kv_cache_gib"
    )


def kv_bytes(
    latent: Latent, config: Mapping[str, Any], context_tokens: int, element_bytes: int
) -> int:
    """Return the KV cache of one request of `context_tokens` at the largest depth, all
    tensor-parallel shares together.
    """
    n_heads = int(config["num_attention_heads"])
    head_size = int(config.get("head_dim") or config["hidden_size"] // n_heads)
    n_kv_heads = int(config.get("num_key_value_heads") or n_heads)
    n_tokens = -(-context_tokens // _BLOCK_TOKENS) * _BLOCK_TOKENS
    return latent.n_visits * n_tokens * 2 * n_kv_heads * head_size * element_bytes


def _of_the_loop(model: Model) -> dict[str, Any]:
    """Return what a plan's model says of a loop and means something, by its key."""
    return {key: value for key in _LOOP if (value := getattr(model, key))}


def _require_loop(loop: Mapping[str, Any], max_depth: int, where: str) -> None:
    _require(
        len({"damped", "residual"} & set(loop)) < 2,
        f"{where}: damped and residual both say how far an iteration goes: drop one",
    )
    _require(
        0 <= loop.get("residual", 0.0) < 1,
        f"{where}: residual = {loop.get('residual')}; it must be at least 0 and below 1",
    )
    if loop.get("exit"):
        parse_exit(loop["exit"])
        _require(
            max_depth > 1,
            f"{where}: exit = {loop['exit']!r}, but max_depth = 1 leaves nothing to exit from: raise max_depth",
        )


def _own(config: Mapping[str, Any], looped: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what config.json says under its key, over what a checkpoint that loops by itself says
    elsewhere.
    """
    own = config.get(KEY) or {}
    known = {
        "layers": str,
        "depth": int,
        "max_depth": int,
        "damped": bool,
        "residual": float,
        "exit": str,
    }
    _require(
        isinstance(own, Mapping), f"config.json: {KEY!r} must be an object with {', '.join(known)}"
    )
    for key, value in own.items():
        _require(key in known, f"config.json: {KEY}.{key} is unknown; known are {', '.join(known)}")
        _require(
            type(value) is known[key],
            f"config.json: {KEY}.{key} = {value!r} must be of type {known[key].__name__}",
        )
    _require(
        not (looped and "layers" in own),
        f"config.json: {KEY}.layers, but the model loops by itself, over layers of its own",
    )
    _require(not own or bool(looped or own.get("layers")), f"config.json: {KEY!r} names no layers")
    return {**looped, **own}


def _architecture(config: Mapping[str, Any], where: str) -> str:
    """Return our architecture for a configuration's; PlanError when the model is none that can be
    scheduled.
    """
    architectures = config.get("architectures") or ["none"]
    covered = FAMILIES.get(str(architectures[0]))
    if covered is None:
        raise PlanError(
            f"{where}: layer schedules cover {', '.join(sorted(FAMILIES))}, not {architectures[0]}: drop layers and max_depth, or take "
            "a model of these"
        )
    if config.get("quantization_config") or config.get("compression_config"):
        raise PlanError(
            f"{where}: the model is quantised, and a loop adds up its errors: use the unquantised weights"
        )
    if config.get("dual_chunk_attention_config"):
        raise PlanError(
            f"{where}: dual chunk attention keeps state per layer, which repeated visits would share: drop layers and max_depth"
        )
    return covered


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise PlanError(message)


# names that Huginn's config.json has for what every other one calls otherwise
_RAVEN_NAMES = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "max_position_embeddings": "block_size",
}


def usual_names(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration with its sizes under the names that other models give them."""
    if config.get("model_type") != "huginn_raven":
        return config
    return {**config, **{name: config[own] for name, own in _RAVEN_NAMES.items() if own in config}}


def own_loop(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loop as the key "latent" of a config.json would write it; {} for a model that has
    none of its own.

    Ouro: the whole stack, `total_ut_steps` times. Huginn: prelude, the core `mean_recurrence`
    times, coda.
    """
    model_type = config.get("model_type")
    if model_type == "ouro":
        depth = int(config.get("total_ut_steps", 4))
        return {
            "layers": f"(0-{int(config['num_hidden_layers']) - 1})*r",
            "depth": depth,
            "max_depth": depth,
        }
    if model_type == "huginn_raven":
        depth = int(config.get("mean_recurrence", 32))
        n_prelude, n_core = (
            int(config["n_layers_in_prelude"]),
            int(config["n_layers_in_recurrent_block"]),
        )
        n_layers = n_prelude + n_core + int(config["n_layers_in_coda"])
        core = f"({n_prelude}-{n_prelude + n_core - 1})*r"
        return {
            "layers": f"0-{n_prelude - 1} {core} {n_prelude + n_core}-{n_layers - 1}",
            "depth": depth,
            "max_depth": depth,
        }
    return {}


_MODULE = "orchestrator.engines.vllm.latent.models"
_LOOPS = "orchestrator.engines.vllm.latent.models"

# of checkpoints that loop by themselves (`native`); vLLM has no model of theirs
LOOPED: Mapping[str, str] = {
    "OuroForCausalLM": "LeadlineOuroForCausalLM",
    "RavenForCausalLM": "LeadlineRavenForCausalLM",
}

# architecture in config.json -> architecture that `plugin` registers with vLLM
FAMILIES: Mapping[str, str] = {
    "LlamaForCausalLM": "LeadlineLlamaForCausalLM",
    "MistralForCausalLM": "LeadlineMistralForCausalLM",
    "Qwen2ForCausalLM": "LeadlineQwen2ForCausalLM",
    "Qwen3ForCausalLM": "LeadlineQwen3ForCausalLM",
    **LOOPED,
}


def targets() -> dict[str, str]:
    """Return where each architecture that we add to vLLM is found, as "module:Class"."""
    return {
        name: f"{_LOOPS if name in LOOPED.values() else _MODULE}:{name}"
        for name in FAMILIES.values()
    }
