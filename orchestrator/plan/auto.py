"""Resolves `strategy = "auto"` to a strategy, a selector and the reason for the choice.

The one rule: a choice is a function of the plan and of what its engine can do. It is made when the
plan is loaded and recorded in it, so that a job resumes with it; the text of a reason is part of
the plan's fingerprint. Nothing is measured here (`orchestrator.studies.pilot` does that). Each rule
names the measurement behind it; docs/auto.md has them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget, Plan, same_weights
from orchestrator.core.values import Capability, PluginSpec
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.plan.looped import latent_of
from orchestrator.plan.models import known_config
from orchestrator.plan.spec_syntax import one_spec, spelled

NAME = "auto"
# attempts without a budget: 10 are 0.3 to 4.5 points below 100 in replays (benchmarks/README.md)
N_DEFAULT = 16
N_SECONDS = 8  # attempts side by side under a budget of seconds alone
# of that many long ones: the first 5 that finish vote half a point below all 8, in 37 % less time
# (benchmarks/README.md)
M_SECONDS = 5
N_ADAPTIVE = 40  # Adaptive-Consistency's published limit
N_SOUNDING = 64  # the width at which `sounding` was measured
LEAST_TO_STOP = 8  # attempts below which stopping early saves too little: unanimous votes stop at 4
LEAST_PER_MODEL = 4  # attempts of a model below which its agreement says little
LONG_TOKENS = 4096  # a limit from which attempts are taken for those of a reasoning model
MAJORITY = PluginSpec("majority")


@dataclass(frozen=True, slots=True)
class Situation:
    """The inputs of a choice.

    `models` are the pools that may answer, of different weights, in the plan's order. `vote` is the
    selector that the user named. `own_depth` is the depth at which a looped model ships; 0 for
    other models and if unknown.
    """

    budget: Budget = Budget()
    max_new_tokens: int = 512
    models: tuple[str, ...] = ("main",)
    verifiers: tuple[str, ...] = ()
    capabilities: frozenset[Capability] = frozenset()
    vote: PluginSpec | None = None
    own_depth: int = 0


@dataclass(frozen=True, slots=True)
class AutoChoice:
    """A strategy, how its pool is voted on, and why: one or two sentences."""

    strategy: PluginSpec
    selector: PluginSpec
    why: str


def resolve(plan: Plan, execution: Execution, vote: PluginSpec | None = None) -> Plan:
    """Return the plan with the choice written into its strategy `auto`; other plans unchanged.

    An existing choice is kept, and so is `vote`, the selector that the user named.
    PluginError when the engine or a verifier does not load.
    """
    if plan.strategy.name != NAME or "chosen" in plan.strategy.options:
        return plan
    return with_choice(plan, choose(situation(plan, execution, vote)))


def with_choice(plan: Plan, choice: AutoChoice) -> Plan:
    """Return a plan with a choice written into its strategy `auto`."""
    options = {**plan.strategy.options, "chosen": choice.strategy, "why": choice.why}
    return replace(plan, strategy=PluginSpec(NAME, options), selector=choice.selector)


def description(plan: Plan) -> str | None:
    """Return a plan's choice and its reason in one line; None unless the strategy is `auto`."""
    if plan.strategy.name != NAME:
        return None
    why = plan.strategy.options.get("why") or "as the plan says"
    return f"{spelled(chosen_strategy(plan))}, vote by {spelled(plan.selector)}: {why}"


def chosen_strategy(plan: Plan) -> PluginSpec:
    """Return the strategy that `auto` stands for in a plan, as the plan writes it."""
    chosen = plan.strategy.options.get("chosen")
    if isinstance(chosen, Mapping) and "name" in chosen:
        options = {key: value for key, value in chosen.items() if key != "name"}
        return PluginSpec(str(chosen["name"]), options)
    if isinstance(chosen, str) and chosen:
        return one_spec("strategy.chosen", chosen)
    return registry.spec_of("strategies", registry.load("strategies", plan.strategy).chosen)


def situation(plan: Plan, execution: Execution, vote: PluginSpec | None = None) -> Situation:
    """Return the situation of a plan; PluginError when its engine or a verifier does not load."""
    of_verifiers: set[object] = set()
    for spec in plan.verifiers:
        for _, part in registry.walk_parts(registry.load("verifiers", spec), ""):
            of_verifiers.update((getattr(part, "model", ""), *getattr(part, "pools", ())))
    models: list[str] = []
    for name, model in plan.models.items():
        known = any(same_weights(model, plan.models[other]) for other in models)
        if not (known or model.task or name in of_verifiers):
            models.append(name)
    return Situation(
        budget=plan.budget,
        max_new_tokens=plan.sampling.max_new_tokens,
        models=tuple(models) or (plan.default_model,),
        verifiers=tuple(spec.name for spec in plan.verifiers),
        capabilities=registry.load("engines", execution.engine).capabilities(),
        vote=vote,
        own_depth=plan.sampling.depth or _own_depth(plan),
    )


def _own_depth(plan: Plan) -> int:
    model = plan.models[plan.default_model]
    config = known_config(model.path)
    try:
        latent = None if config is None else latent_of(config, model, plan.default_model)
    except PlanError:  # `check_plan` reports it
        return 0
    return latent.depth if latent is not None and latent.depth > 1 else 0


def choose(context: Situation) -> AutoChoice:
    """Return the choice: how many attempts fit the budget, and what makes the most of them."""
    n, size = affordable(context)
    strategy, vote, reason = _first_rule(context, n)
    why = f"{size}; {reason}"
    if context.own_depth and Capability.DEPTH in context.capabilities:
        why += (
            f"; depth stays at {context.own_depth}: the shipped looped model gained more from "
            "depth than from width"
        )
    return AutoChoice(strategy, context.vote or vote, why)


def affordable(context: Situation) -> tuple[int, str]:
    """Return how many whole attempts fit the budget of a problem, and the reason in words.

    Every attempt is assumed to have the maximum length.
    """
    budget, longest = context.budget, f"{context.max_new_tokens:,} tokens"
    limits: list[tuple[int, str]] = []
    if budget.tokens:
        n = max(1, budget.tokens // context.max_new_tokens)
        fit = f"{n} attempts of {longest} fit" if n > 1 else f"no two attempts of {longest} fit"
        limits.append((n, f"{fit} budget.tokens = {budget.tokens:,}"))
    if budget.traces:
        limits.append((budget.traces, f"budget.traces = {budget.traces}"))
    if limits:
        return min(limits)
    if budget.seconds:
        unknown = f"budget.seconds = {budget.seconds:g} says nothing of attempts"
        return N_SECONDS, f"{unknown}: {N_SECONDS} side by side"
    return N_DEFAULT, f"no budget: up to {N_DEFAULT} attempts"


def _first_rule(context: Situation, n: int) -> tuple[PluginSpec, PluginSpec, str]:
    """Return strategy, vote and reason by the first rule that holds."""
    if n == 1:
        return PluginSpec("consistency", {"n": 1}), MAJORITY, "one attempt leaves nothing to choose"
    by_score = (
        PluginSpec("best-weighted", {"by": f"verdict:{context.verifiers[0]}"})
        if context.verifiers and context.vote is None
        else None
    )
    vote = by_score or MAJORITY
    weighed = f", and the scores of {context.verifiers[0]!r} weigh the votes" if by_score else ""
    if context.budget.seconds:
        first = f" of {context.models[0]!r}" if len(context.models) > 1 else ""
        strategy, more = _fastest(context, n)
        reason = f"all{first} start at once, because waves save tokens and cost time{more}{weighed}"
        return strategy, vote, reason
    per_model = n // len(context.models)
    if len(context.models) > 1 and per_model >= LEAST_PER_MODEL and context.vote is None:
        return _cascade(context.models, per_model, by_score)
    if by_score and n < LEAST_TO_STOP:
        reason = (
            f"for few attempts the scores of {context.verifiers[0]!r} beat the vote (recorded "
            "reward model, n = 2)"
        )
        return PluginSpec("consistency", {"n": n}), by_score, reason
    if _suits_sounding(context, n):
        spec = PluginSpec("sounding", {"n": min(n, N_SOUNDING)})
        reason = (
            "long attempts: sounding took a fifth of the tokens of a vote of 64 at its accuracy "
            "(recorded Qwen3 traces)"
        )
        return spec, registry.own_selector(spec), reason
    if n < LEAST_TO_STOP:
        return PluginSpec("consistency", {"n": n}), vote, "too few to gain by stopping early"
    reason = (
        "sampling stops when the vote is decided, about a point below 100 attempts in replays"
        f"{weighed}"
    )
    return PluginSpec("adaptive", {"n": min(n, N_ADAPTIVE)}), vote, reason


def _cascade(
    models: Sequence[str], n: int, by_score: PluginSpec | None
) -> tuple[PluginSpec, PluginSpec, str]:
    adaptive = PluginSpec("adaptive", {"n": min(n, N_ADAPTIVE)})
    each: dict[str, object] = {"inner": adaptive} if n >= LEAST_TO_STOP else {"n": n}
    vote = PluginSpec("final", {"vote": by_score}) if by_score else PluginSpec("final")
    reason = (
        f"{len(models)} models: in the plan's order, the next where one does not agree with itself "
        "(agreement cascades)"
    )
    return PluginSpec("cascade", {"models": list(models), **each}), vote, reason


def _fastest(context: Situation, n: int) -> tuple[PluginSpec, str]:
    """Return the fastest strategy and the reason: long attempts need not all be awaited."""
    may_stop = Capability.CANCEL in context.capabilities
    if n >= N_SECONDS and context.max_new_tokens >= LONG_TOKENS and may_stop:
        return PluginSpec("short-m@k", {"m": M_SECONDS, "k": N_SECONDS}), (
            f"; the first {M_SECONDS} of {N_SECONDS} that finish vote half a point below all, in "
            "37 % less time (recorded pools)"
        )
    return PluginSpec("consistency", {"n": min(n, N_DEFAULT)}), ""


def _suits_sounding(context: Situation, n: int) -> bool:
    """Tell whether a plan is as `sounding` was measured: many long attempts, and its own vote."""
    needs = registry.needs(registry.load("strategies", PluginSpec("sounding")))
    return (
        needs <= context.capabilities
        and n >= N_DEFAULT
        and context.max_new_tokens >= LONG_TOKENS
        and not context.verifiers
        and context.vote is None
    )
