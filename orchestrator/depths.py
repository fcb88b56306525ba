"""Which latent depths a plan asks for, and whether its models and its engine can serve them. Plan time only; starts nothing.

The one rule: what is asked for is compared with what was said before (`max_depth` of the plan, or of the model folder's config.json), so
that a depth too large is refused before any engine starts. Whether a model has a block that can repeat is the engine's to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from orchestrator.core.plan import Model, Plan

_SHIPPED = Path(__file__).with_name("models")  # models in the package, by name


def largest_depth(model: Model) -> int:
    """Return the largest depth that a request to this model may ask for: the plan's, else that of the model's own folder, else 1."""
    if model.max_depth:
        return model.max_depth
    for folder in (_SHIPPED / model.path, Path(model.path).expanduser()):
        if (folder / "config.json").is_file():
            own = _latent(folder / "config.json")
            return max([1, *(value for key in ("max_depth", "depth") if isinstance(value := own.get(key), int))])
    return 1


def _latent(config: Path) -> dict[str, object]:
    try:
        found = json.loads(config.read_text(encoding="utf-8")).get("latent", {})
    except (OSError, ValueError, AttributeError):  # a folder that holds no sound model is the engine's to refuse
        return {}
    return found if isinstance(found, dict) else {}


def asked_depths(plan: Plan, strategy: object) -> Iterator[tuple[str, str, int]]:
    """Yield each depth a plan asks for: its key, the pool it is asked of, and the depth.

    Of a strategy these are, by convention, its options `depth` and `depths`, asked of the pool that its option `model` names.
    """
    if plan.sampling.depth:
        yield from (("sampling.depth", pool, plan.sampling.depth) for pool in plan.models)
    named = getattr(strategy, "model", "")
    pool = named if isinstance(named, str) and named in plan.models else plan.default_model
    depth, depths = getattr(strategy, "depth", None), getattr(strategy, "depths", ())
    if isinstance(depth, int):
        yield "strategy.depth", pool, depth
    if isinstance(depths, tuple):
        yield from (("strategy.depths", pool, one) for one in depths if isinstance(one, int))
