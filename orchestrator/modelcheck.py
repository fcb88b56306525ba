"""What a plan asks of its models' layers and depths, against the models as far as they lie on this machine. Reads config.json, no more.

A model of a hub, or one that only other machines have, is not known here: its engine refuses the same things when it opens, before it
starts anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator import embedded, registry
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model, Plan, same_weights
from orchestrator.latent.check import latent_of, require_depth
from orchestrator.latent.native import usual_names

SHAPE = ("layers", "max_depth", "damped", "residual", "exit")  # the fields of a Model that change which of its layers run, and how


def check_model(name: str, model: Model) -> None:
    """Raise PlanError when a plan's model is known here and cannot run as its entry asks."""
    config = known_config(model.path)
    if config is not None:
        latent_of(config, model, name)


def asked_depths(plan: Plan, strategy: object) -> Iterator[tuple[str, str, int]]:
    """Yield each depth a plan asks for: its key, the pool it is asked of, and the depth.

    `sampling.depth` is asked of every pool that the strategy or a part of it names. Of a strategy's own they are, by convention, its
    options `depth` and `depths`, asked of the pool that its option `model` names, and `judge_depth`, asked of the one that `judge` names. A
    part that names no pool is asked of those of what it is a part of.
    """

    def named(name: object) -> str:
        return name if isinstance(name, str) and name in plan.models else plan.default_model

    every = list(registry.composed(strategy, "strategy"))
    runs_on: dict[str, tuple[str, ...]] = {}
    beside: list[str] = []
    for key, part in every:
        others = [named(name) for name in getattr(part, "pools", ())]
        model = getattr(part, "model", None)
        own = (named(model),) if model else tuple(others) if model is None else ()
        runs_on[key] = own or runs_on.get(key.rpartition(".")[0], (plan.default_model,))
        beside += others
    if plan.sampling.depth:
        for pool in dict.fromkeys([*(pool for found in runs_on.values() for pool in found), *beside]):
            yield "sampling.depth", pool, plan.sampling.depth
    for key, part in every:
        yield from _own_depths(key, part, runs_on[key], named(getattr(part, "judge", "")))


def _own_depths(key: str, part: object, pools: tuple[str, ...], judge: str) -> Iterator[tuple[str, str, int]]:
    judge_depth = getattr(part, "judge_depth", None)
    if isinstance(judge_depth, int):
        yield f"{key}.judge_depth", judge, judge_depth
    depth, depths = getattr(part, "depth", None), getattr(part, "depths", ())
    for pool in pools:
        if isinstance(depth, int):
            yield f"{key}.depth", pool, depth
        if isinstance(depths, tuple):
            yield from ((f"{key}.depths", pool, one) for one in depths if isinstance(one, int))


def check_depth(key: str, pool: str, depth: int, models: Mapping[str, Model], look: bool = True) -> None:
    """Raise PlanError when a pool does not reach a depth, nor another pool of the same weights, to which a fleet would send it.

    `look` False: models are names to the engine, and only what the plan says of them counts.
    """
    others = [name for name in models if name != pool and same_weights(models[name], models[pool])]
    try:
        _check_depth(key, pool, depth, models[pool], known_config(models[pool].path) if look else None)
    except PlanError:
        if not others:
            raise
        check_depth(key, others[0], depth, {name: models[name] for name in others}, look)


def _check_depth(key: str, pool: str, depth: int, model: Model, config: Mapping[str, Any] | None) -> None:
    """Raise PlanError when a model known here, or a plan's `max_depth` for one that is not, does not reach a depth."""
    if config is not None:
        require_depth(depth, latent_of(config, model, pool), key)
    elif depth < 1 or (model.max_depth and depth > model.max_depth):
        raise PlanError(
            f"{key} asks for latent depth {depth}; the model serves 1 to {model.max_depth or 'its own'} (raise models.{pool}.max_depth)"
        )


def require_stock(model: Model, engine: str) -> None:
    """Raise PlanError when a model is to run otherwise than it ships, on an engine that cannot do that."""
    stock = Model("")
    for key in SHAPE:
        if getattr(model, key) != getattr(stock, key):
            raise PlanError(f"{key} = {getattr(model, key)!r}: {_as_they_ship(engine)}")


def require_no_depth(key: str, depth: int, engine: str) -> None:
    """Raise PlanError: a depth is asked of an engine that cannot do that."""
    raise PlanError(f"{key} = {depth}: {_as_they_ship(engine)}")


def _as_they_ship(engine: str) -> str:
    return f"the engine {engine!r} runs models as they ship; leave it out, or use an engine that offers 'depth' (vllm, ray)"


def known_config(path: str) -> Mapping[str, Any] | None:
    """Return the config.json of a model that lies here; None for one that does not, or whose file is none."""
    try:
        folder, there = embedded.embedded_folder() if path == embedded.NAME else (Path(embedded.resolve_model(path)), True)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if there else None
    except (PlanError, OSError, ValueError):  # a hub name, or no model: what opens it says so in its own words
        return None
    return usual_names(config) if isinstance(config, dict) else None
