"""What a plan asks of its models' layers and depths, against the models as far as they lie on this machine. Reads config.json, no more.

A model of a hub, or one that only other machines have, is not known here: its engine refuses the same things when it opens, before it
starts anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator import embedded
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model, Plan
from orchestrator.latent.check import latent_of, require_depth
from orchestrator.latent.native import usual_names


def check_model(name: str, model: Model) -> None:
    """Raise PlanError when a plan's model is known here and cannot run as its entry asks."""
    config = known_config(model.path)
    if config is not None:
        latent_of(config, model, name)


def check_depth(plan: Plan) -> None:
    """Raise PlanError when the default model is known here and does not serve `sampling.depth`."""
    name = plan.default_model
    config = known_config(plan.models[name].path)
    if plan.sampling.depth and config is not None:
        require_depth(plan.sampling.depth, latent_of(config, plan.models[name], name), "sampling.depth")


def require_stock(model: Model, engine: str) -> None:
    """Raise PlanError when a model is to run otherwise than it ships, on an engine that cannot do that."""
    stock = Model("")
    for key in ("layers", "max_depth", "damped", "residual", "exit"):
        if getattr(model, key) != getattr(stock, key):
            raise PlanError(f"{key} = {getattr(model, key)!r}: {_as_they_ship(engine)}")


def require_no_depth(depth: int, engine: str) -> None:
    """Raise PlanError when a depth is asked of an engine that cannot do that."""
    if depth > 1:
        raise PlanError(f"sampling.depth = {depth}: {_as_they_ship(engine)}")


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
