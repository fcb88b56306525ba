"""Checks of a plan's model pools: the depths and the thinking that the strategy requests of them.

The one rule: `sampling` applies to the pools that the strategy names. What a pool must be for the
plugins that use it is checked in `plan`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.plan import Model, Plan, same_weights
from orchestrator.core.values import Capability, Sampling
from orchestrator.plan import registry
from orchestrator.plan.check.adapters import require_adapter
from orchestrator.plan.looped import latent_of, require_depth
from orchestrator.plan.models import known_config

THINKING = "sampling.thinking_tokens"
NOISE = "sampling.latent_noise"
_LOGPROBS_FIRST = "left out, or sampling.logprobs must be true"
_PLAIN = Model("")
# the fields of a Model that change which of its layers run, and how
LAYER_FIELDS = (
    *("layers", "max_depth", "damped", "residual", "exit", "cascade", "kv_iterations", "kv_writes"),
    "warm_start",
)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The facts about an engine that the check needs; some engines load no models themselves."""

    name: str
    capabilities: frozenset[Capability]
    loads_models: bool


def require_that(holds: bool, key: str, value: object, expected: str) -> None:
    """Raise PlanFault, naming the key, its value and what is expected, unless this holds."""
    if not holds:
        raise PlanFault(key, f"{key} = {value!r}: it must be {expected}")


@contextmanager
def fault(key: str, label: str = "") -> Iterator[None]:
    """Turn a PlanError into a PlanFault of this key, with the label as prefix."""
    try:
        yield
    except PlanError as error:
        raise PlanFault(key, f"{label}{error}") from error


def attempt_pools(plan: Plan, strategy: object) -> tuple[str, ...]:
    """Return the pools of a strategy that are more than judges."""
    return tuple(_pools(plan, strategy).attempts)


def check_thinking(plan: Plan, strategy: object, engine: EngineFacts, backend: object) -> None:
    """Raise PlanFault unless the engine can end the thinking, with tokens left for the reply.

    The pools are those of the strategy. An engine without a model, as in a dry run, can.
    """
    n, most = plan.sampling.thinking_tokens, plan.sampling.max_new_tokens
    if not n:
        return
    expected = f"less than sampling.max_new_tokens ({most}), which thinking and reply share"
    require_that(n < most, THINKING, n, expected)
    if not engine.loads_models:
        return
    require = getattr(backend, "require_thinking", None)
    if require is None:
        raise PlanFault(
            THINKING,
            f"{THINKING} = {n}: the engine {engine.name!r} cannot end the thinking; "
            f"{without_limit(n)}",
        )
    require(n, {name: plan.models[name] for name in attempt_pools(plan, strategy)})


def without_limit(n: int) -> str:
    """Return the advice for an engine that cannot limit thinking to `n` tokens, as a remedy."""
    return (
        f"leave {THINKING} out, and use the strategy budget-forcing with thinking = {n} if the "
        "engine continues traces"
    )


def check_noise(plan: Plan, strategy: object, engine: EngineFacts, backend: object) -> None:
    """Raise PlanFault for noise on latent states, unless engine and models have such states."""
    noise = plan.sampling.latent_noise
    if not noise:
        return
    require = getattr(backend, "require_noise", None)
    if require is None:
        raise PlanFault(
            NOISE,
            f"{NOISE} = {noise:g}: the engine {engine.name!r} changes no latent states; leave it "
            "out, or use an engine that does (vllm, or ray over it)",
        )
    require(noise, {name: plan.models[name] for name in attempt_pools(plan, strategy)})


def check_logprobs(sampling: Sampling, engine: EngineFacts) -> None:
    """Raise PlanFault for log-probabilities that no trace could have."""
    key = "sampling.top_logprobs"
    if not sampling.logprobs:
        require_that(not sampling.top_logprobs, key, sampling.top_logprobs, _LOGPROBS_FIRST)
    elif Capability.LOGPROBS not in engine.capabilities:
        raise PlanFault(
            "sampling.logprobs",
            f"sampling.logprobs: the engine {engine.name!r} reports no log-probabilities",
        )


def check_adapters(models: Mapping[str, Model], engine: EngineFacts) -> None:
    """Raise PlanFault for an adapter that engine or model cannot have."""
    for name, model in models.items():
        if not model.lora:
            continue
        key = f"models.{name}.lora"
        if Capability.ADAPTERS not in engine.capabilities:
            raise PlanFault(
                key,
                f"{key} = {model.lora!r}: the engine {engine.name!r} loads no adapters; start the "
                f"server with it (vllm serve --enable-lora --lora-modules {name}=FOLDER) and set "
                f"models.{name}.path to the name that the server has for it",
            )
        changed = [f for f in (*LAYER_FIELDS, "task") if getattr(model, f) != getattr(_PLAIN, f)]
        expected = f"left out where {', '.join(changed)} is set: it runs the layers as they ship"
        require_that(not changed, key, model.lora, expected)
        if engine.loads_models:
            config = known_config(model.path)
            with fault(key, f"{key}: "):
                require_adapter(model.lora, config)
                if config is not None and latent_of(config, model, name) is not None:
                    raise PlanError(
                        f"{model.path!r} loops, and adapters are not applied to the layers of a "
                        "loop; leave it out"
                    )


def check_depths(plan: Plan, strategy: object, engine: EngineFacts) -> None:
    """Raise PlanFault for a depth, or for a way to run layers, that engine or model lacks."""
    offers_depth = Capability.DEPTH in engine.capabilities
    for name, model in plan.models.items():
        with fault(f"models.{name}"):
            if not offers_depth:
                _require_own_layers(model, engine.name)
            elif engine.loads_models and (config := known_config(model.path)) is not None:
                latent_of(config, model, name)
    for key, pool, depth in depth_requests(plan, strategy):
        with fault(key):
            if not offers_depth:
                raise PlanError(f"{key} = {depth}: {_own_layers_only(engine.name)}")
            _check_depth(key, pool, depth, plan.models, engine.loads_models)


def check_drafts(plan: Plan, strategy: object, backend: object) -> None:
    """Let an engine that can draft for its pools check that they, and the sampling, allow it."""
    require = getattr(backend, "require_drafts", None)
    if require is not None:
        require(plan.sampling, plan.models, tuple(_pools(plan, strategy).named))


def _require_own_layers(model: Model, engine: str) -> None:
    for name in LAYER_FIELDS:
        if getattr(model, name) != getattr(Model(""), name):
            raise PlanError(f"{name} = {getattr(model, name)!r}: {_own_layers_only(engine)}")


def _own_layers_only(engine: str) -> str:
    return (
        f"the engine {engine!r} runs models as they ship; leave it out, or use an engine that "
        "offers 'depth' (vllm, ray)"
    )


def depth_requests(plan: Plan, strategy: object) -> Iterator[tuple[str, str, int]]:
    """Yield each depth that a plan requests: its key, its pool, and the depth.

    `sampling.depth` applies to every pool that the strategy or one of its parts names. By
    convention a strategy's options `depth` and `depths` apply to the pool of its option `model`,
    and `judge_depth` to the pool of `judge`. A part that names no pool uses those of the plugin
    that it belongs to.
    """

    pools = _pools(plan, strategy)
    if plan.sampling.depth:
        yield from (("sampling.depth", pool, plan.sampling.depth) for pool in pools.named)
    for key, part in registry.walk_parts(strategy, "strategy"):
        judge = _known(getattr(part, "judge", ""), plan)
        yield from _own_depths(key, part, pools.runs_on[key], judge)


@dataclass(frozen=True, slots=True)
class _StrategyPools:
    """The pools of each part of a strategy, all that it names, and those that are more than judges.

    The keys of the mappings are in order, and their values mean nothing.
    """

    runs_on: dict[str, tuple[str, ...]]
    named: dict[str, None]
    attempts: dict[str, None]


def _pools(plan: Plan, strategy: object) -> _StrategyPools:
    pools = _StrategyPools({}, {}, {})
    for key, part in registry.walk_parts(strategy, "strategy"):
        others = tuple(_known(name, plan) for name in getattr(part, "pools", ()))
        model = getattr(part, "model", None)
        own = (_known(model, plan),) if model else others if model is None else ()
        outer = pools.runs_on.get(key.rpartition(".")[0], (plan.default_model,))
        pools.runs_on[key] = own or outer
        judge = getattr(part, "judge", "")
        pools.named.update(dict.fromkeys((*pools.runs_on[key], *others)))
        attempts = (*pools.runs_on[key], *(name for name in others if name != judge))
        pools.attempts.update(dict.fromkeys(attempts))
    return pools


def _known(name: object, plan: Plan) -> str:
    return name if isinstance(name, str) and name in plan.models else plan.default_model


def _own_depths(
    key: str, part: object, pools: Collection[str], judge: str
) -> Iterator[tuple[str, str, int]]:
    judge_depth = getattr(part, "judge_depth", None)
    if isinstance(judge_depth, int):
        yield f"{key}.judge_depth", judge, judge_depth
    depth, depths = getattr(part, "depth", None), getattr(part, "depths", ())
    for pool in pools:
        if isinstance(depth, int):
            yield f"{key}.depth", pool, depth
        if isinstance(depths, tuple):
            yield from ((f"{key}.depths", pool, one) for one in depths if isinstance(one, int))


def _check_depth(
    key: str, pool: str, depth: int, models: Mapping[str, Model], loads_models: bool
) -> None:
    """Raise PlanError unless a pool, or another pool of the same weights, reaches a depth.

    A fleet sends the request to that other pool.
    """
    model = models[pool]
    equals = (name for name in models if same_weights(models[name], model) and name != pool)
    errors = []
    for name in (pool, *equals):
        try:
            _require_pool_depth(key, name, depth, models[name], loads_models)
        except PlanError as error:
            errors.append(error)
        else:
            return
    raise errors[-1]


def _require_pool_depth(key: str, pool: str, depth: int, model: Model, loads_models: bool) -> None:
    """Raise PlanError when a model on this machine does not reach a depth.

    For other models only the plan's `max_depth` counts.
    """
    config = known_config(model.path) if loads_models else None
    if config is not None:
        require_depth(depth, latent_of(config, model, pool), key)
    elif depth < 1 or (model.max_depth and depth > model.max_depth):
        raise PlanError(
            f"{key} requests latent depth {depth}; the model serves 1 to "
            f"{model.max_depth or 'its own'} (raise models.{pool}.max_depth)"
        )
