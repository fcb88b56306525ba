"""The plans of a sweep: those that sample one effort in full, and those that it recommends.

Values only. The caller that writes a plan to a file adds the problems it runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.plan import registry
from orchestrator.studies.sweep.levels import Effort, first_look
from orchestrator.studies.sweep.surface import Surface

FORCING = "budget-forcing"  # the strategy that limits thinking where the engine cannot
Planner: TypeAlias = Callable[[Plan, Effort, int], Plan]

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


def planner(plan: Plan, sweeps_thinking: bool) -> Planner:
    """Return what makes the plan of one effort and width.

    Where thinking is swept and the plan's strategy is budget-forcing, that strategy limits it:
    `forced_plan`. Otherwise the engine does: `fixed_plan`.
    """
    return forced_plan if sweeps_thinking and plan.strategy.name == FORCING else fixed_plan


def fixed_plan(plan: Plan, effort: Effort, width: int) -> Plan:
    """Return the plan that samples `width` traces of every problem at `effort`."""
    return replace(
        plan,
        strategy=PluginSpec("consistency", {"n": width, **_model_option(plan)}),
        sampling=replace(plan.sampling, depth=effort.depth, thinking_tokens=effort.thinking),
    )


def forced_plan(plan: Plan, effort: Effort, width: int) -> Plan:
    """Return the plan that runs `width` attempts of budget-forcing at `effort`.

    PlanError for an effort without a limit of thinking, which that strategy always has.
    """
    if not effort.thinking:
        raise PlanError(
            f"--thinking 0: the strategy {FORCING} always limits thinking; leave out the 0, or "
            "the strategy"
        )
    options = {name: value for name, value in plan.strategy.options.items() if name != "depth"}
    return replace(
        plan,
        strategy=PluginSpec(FORCING, {**options, "n": width, "thinking": effort.thinking}),
        sampling=replace(plan.sampling, depth=effort.depth, thinking_tokens=0),
    )


def deepen_plan(plan: Plan, surface: Surface) -> tuple[Plan, list[str]]:
    """Return the plan for `deepen` that ends at the recommended depth, with lines that explain it.

    It first samples a shallower depth if that saves layer-tokens, and its calibration is the
    measured one. It may sample as many traces as the recommended setting, plus those of the
    shallower depth.
    """
    setting = surface.settings[surface.cheapest]
    alike = [e for e in surface.levels if e.thinking == setting.thinking]
    deep = next(e for e in alike if e.depth == setting.depth)
    shallow = first_look(alike, deep)
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
    sampling = replace(plan.sampling, depth=0, thinking_tokens=setting.thinking)
    return replace(plan, strategy=strategy, selector=selector, sampling=sampling), lines


def _model_option(plan: Plan) -> dict[str, object]:
    model = plan.strategy.options.get("model")
    return {"model": model} if model else {}
