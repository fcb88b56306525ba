"""What a plan asks of its models' layers and depths, against the models as far as they lie on this machine. Reads config.json, no more.

A model of a hub, or one that only other machines have, is not known here: its engine refuses the same things when it opens, before it
starts anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator import embedded
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model, Plan
from orchestrator.latent.check import latent_of, require_depth


def check_model(name: str, model: Model) -> None:
    """Raise PlanError when a plan's model is known here and cannot run as its entry asks."""
    config = known_config(model.path)
    if config is not None:
        latent_of(config, model, name)


def asked_depths(plan: Plan, strategy: object) -> Iterator[tuple[str, str, int]]:
    """Yield each depth a plan asks for: its key, the pool it is asked of, and the depth.

    Of a strategy these are, by convention, its options `depth` and `depths`, asked of the pool that its option `model` names.
    """
    if plan.sampling.depth:
        yield "sampling.depth", plan.default_model, plan.sampling.depth
    named = getattr(strategy, "model", "")
    pool = named if isinstance(named, str) and named in plan.models else plan.default_model
    depth, depths = getattr(strategy, "depth", None), getattr(strategy, "depths", ())
    if isinstance(depth, int):
        yield "strategy.depth", pool, depth
    if isinstance(depths, tuple):
        yield from (("strategy.depths", pool, one) for one in depths if isinstance(one, int))


def check_depth(key: str, pool: str, depth: int, model: Model) -> None:
    """Raise PlanError when a model known here, or a plan's `max_depth` for one that is not, does not reach a depth."""
    config = known_config(model.path)
    if config is not None:
        require_depth(depth, latent_of(config, model, pool), key)
    elif depth < 1 or (model.max_depth and depth > model.max_depth):
        raise PlanError(
            f"{key} asks for latent depth {depth}; the model serves 1 to {model.max_depth or 'its own'} (raise models.{pool}.max_depth)"
        )


def require_stock(model: Model, engine: str) -> None:
    """Raise PlanError when a model is to run otherwise than it ships, on an engine that cannot do that."""
    stock = Model("")
    for key in ("layers", "max_depth", "damped"):
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
    return config if isinstance(config, dict) else None
