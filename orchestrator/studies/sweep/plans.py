"""The plans of a sweep: those that sample one depth in full, and those that the surface recommends.

Values only. The caller that writes a plan to a file adds the problems it runs on.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.plan import registry
from orchestrator.studies.sweep.levels import first_look
from orchestrator.studies.sweep.surface import Surface

# The confidence at which `deepen` stops is chosen so that early stopping may cost about one of the
# swept problems, within these bounds.
_LEAST_CONFIDENCE, _MOST_CONFIDENCE = 0.95, 0.999


def own_depth(plan: Plan) -> int:
    """Return the depth that a plan's strategy or its sampling names, 0 for none.

    Raises PlanError when the strategy uses several depths.
    """
    strategy = registry.load("strategies", plan.strategy)
    if hasattr(strategy, "depths"):
        raise PlanError(
            f"strategy {plan.strategy.name!r} uses several depths: "
            "name those to sweep, as in --depths 1,2,4,8"
        )
    return getattr(strategy, "depth", None) or plan.sampling.depth


def fixed_plan(plan: Plan, depth: int, width: int) -> Plan:
    """Return the plan that samples `width` traces of every problem at `depth`, otherwise unchanged.

    Depth 0 is the model's shipped depth.
    """
    return replace(
        plan,
        strategy=PluginSpec("consistency", {"n": width, **_model_option(plan)}),
        sampling=replace(plan.sampling, depth=depth),
    )


def best_plan(plan: Plan, surface: Surface) -> Plan:
    """Return the plan for the cheapest setting that is as good as the best."""
    setting = surface.settings[surface.cheapest]
    return fixed_plan(plan, setting.depth, setting.width)


def deepen_plan(plan: Plan, surface: Surface) -> tuple[Plan, list[str]]:
    """Return the plan for `deepen` that ends at the recommended depth, with lines that explain it.

    It first samples a shallower depth if that saves layer-tokens, and its calibration is the
    measured one. It may sample as many traces as the recommended setting, plus those of the
    shallower depth.
    """
    setting = surface.settings[surface.cheapest]
    deep = next(e for e in surface.levels if e.depth == setting.depth)
    shallow = first_look(surface.levels, deep)
    levels = [deep] if shallow is None else [shallow, deep]
    depths = [e.depth for e in levels]
    n = setting.width + (len(levels) - 1) * deep.n_agreed
    confidence = min(_MOST_CONFIDENCE, max(_LEAST_CONFIDENCE, 1.0 - 1.0 / surface.n_problems))
    strategy = PluginSpec(
        "deepen",
        {
            **_model_option(plan),
            "depths": depths,
            "n": n,
            "confidence": round(confidence, 4),
            "accuracies": [round(e.accuracy, 4) for e in levels],
            "alternatives": round(deep.n_alternatives, 3),
        },
    )
    weights = [round(e.weight, 4) for e in levels]
    selector = PluginSpec("depth-weighted", {"depths": depths, "weights": weights})
    look = (
        "no shallower first look saves layer-tokens"
        if shallow is None
        else f"a first look at depth {shallow.depth}"
    )
    lines = [
        f"Up to {n} traces, ending at depth {deep.depth}, as many as the vote needs; {look}.",
        f"A vote's weight is its log-odds, measured on {surface.n_problems} problems.",
    ]
    sampling = replace(plan.sampling, depth=0)
    return replace(plan, strategy=strategy, selector=selector, sampling=sampling), lines


def _model_option(plan: Plan) -> dict[str, object]:
    model = plan.strategy.options.get("model")
    return {"model": model} if model else {}
