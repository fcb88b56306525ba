"""Choosing for the user: `strategy = "auto"` becomes a strategy, a selector and the reason, by the
plan's budget and by what it has.

The one rule: a choice is a function of the plan and of what its engine can do, made when the plan
is loaded and recorded in it, so that a job resumes with it. Nothing is measured here (`pilot` does
that). Each rule says which measurement it rests on; docs/auto.md has them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget, Plan, same_weights
from orchestrator.core.values import Capability, PluginSpec
from orchestrator.plan import models as modelcheck
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.plan.looped import latent_of
from orchestrator.plan.spec_syntax import one_spec, spelled

NAME = "auto"
# attempts where no budget says how many: 10 are 0.3 to 4.5 points below 100 in replays
# (benchmarks/README.md)
N_DEFAULT = 16
N_SECONDS = 8  # attempts side by side under a budget of seconds alone
# of so many long ones: the first 5 that finish vote half a point below all 8, in 37 % less time
# (benchmarks/README.md)
M_SECONDS = 5
N_ADAPTIVE = 40  # Adaptive-Consistency's published limit
N_SOUNDING = 64  # the width at which `sounding` was measured
LEAST_TO_STOP = 8  # attempts below which stopping early saves too little: unanimous votes stop at 4
LEAST_PER_MODEL = 4  # attempts of a model below which its agreement says little
LONG_TOKENS = 4096  # attempts that may get this long are taken for those of a reasoning model
MAJORITY = PluginSpec("majority")


@dataclass(frozen=True, slots=True)
class Situation:
    """What a choice is made from.

    `models` are the pools that may answer, of different weights, in the plan's order; `able` is
    what the engine can do; `vote` is the selector that the user named. `own_depth` is the depth at
    which a looped model ships, 0 for others and where it is not known.
    """

    budget: Budget = Budget()
    max_new_tokens: int = 512
    models: tuple[str, ...] = ("main",)
    verifiers: tuple[str, ...] = ()
    able: frozenset[Capability] = frozenset()
    vote: PluginSpec | None = None
    own_depth: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy, how its pool is voted on, and why: one or two sentences."""

    strategy: PluginSpec
    selector: PluginSpec
    why: str


def resolved(plan: Plan, execution: Execution, vote: PluginSpec | None = None) -> Plan:
    """Return a plan whose strategy is `auto` with the choice written in; any other plan, or one
    with a choice, as it is.

    `vote` is the selector that the user named; it stays. PlanError when the engine does not load.
    """
    if plan.strategy.name != NAME or "chosen" in plan.strategy.options:
        return plan
    choice = choose(situation(plan, execution, vote))
    return chosen(plan, choice)


def chosen(plan: Plan, choice: Choice) -> Plan:
    """Return a plan with a choice written into its strategy `auto`."""
    options = {**plan.strategy.options, "chosen": choice.strategy, "why": choice.why}
    return replace(plan, strategy=PluginSpec(NAME, options), selector=choice.selector)


def said(plan: Plan) -> str | None:
    """Return in one line what was chosen for a plan and why; None when its strategy is not `auto`."""
    if plan.strategy.name != NAME:
        return None
    why = plan.strategy.options.get("why") or "as the plan says"
    return f"{spelled(inner(plan))}, vote by {spelled(plan.selector)}: {why}"


def inner(plan: Plan) -> PluginSpec:
    """Return the strategy that `auto` stands for in a plan, as the plan writes it."""
    written = plan.strategy.options.get("chosen")
    if isinstance(written, Mapping) and "name" in written:
        return PluginSpec(
            str(written["name"]), {key: value for key, value in written.items() if key != "name"}
        )
    if isinstance(written, str) and written:
        return one_spec("strategy.chosen", written)
    return registry.spec_of("strategies", registry.load("strategies", plan.strategy).chosen)


def situation(plan: Plan, execution: Execution, vote: PluginSpec | None = None) -> Situation:
    """Return what a plan has. PlanError when its engine or a verifier does not load."""
    taken: set[object] = set()
    for spec in plan.verifiers:
        for _, part in registry.composed(registry.load("verifiers", spec), ""):
            taken.update((getattr(part, "model", ""), *getattr(part, "pools", ())))
    models: list[str] = []
    for name, model in plan.models.items():
        if (
            name not in taken
            and not model.task
            and not any(same_weights(model, plan.models[known]) for known in models)
        ):
            models.append(name)
    return Situation(
        budget=plan.budget,
        max_new_tokens=plan.sampling.max_new_tokens,
        models=tuple(models) or (plan.default_model,),
        verifiers=tuple(spec.name for spec in plan.verifiers),
        able=registry.load("engines", execution.engine).capabilities(),
        vote=vote,
        own_depth=plan.sampling.depth or _own_depth(plan),
    )


def _own_depth(plan: Plan) -> int:
    model = plan.models[plan.default_model]
    config = modelcheck.known_config(model.path)
    try:
        latent = None if config is None else latent_of(config, model, plan.default_model)
    except PlanError:  # `check_plan` says it
        return 0
    return latent.depth if latent is not None and latent.depth > 1 else 0


def choose(found: Situation) -> Choice:
    """Return the choice for a situation: how many attempts the budget holds, then what does most
    with so many.
    """
    n, size = affordable(found)
    strategy, vote, reason = _ruled(found, n)
    why = f"{size}; {reason}"
    if found.own_depth and Capability.DEPTH in found.able:
        why += f"; depth stays at {found.own_depth}: the shipped looped model gained more from depth than from width"
    return Choice(strategy, found.vote or vote, why)


def affordable(found: Situation) -> tuple[int, str]:
    """Return how many whole attempts of a problem the budget holds, and how that was counted; every
    attempt counts as the longest.
    """
    budget = found.budget
    limits: list[tuple[int, str]] = []
    if budget.tokens:
        n = max(1, budget.tokens // found.max_new_tokens)
        held = (
            f"{n} attempts of {found.max_new_tokens:,} tokens fit"
            if n > 1
            else f"no two attempts of {found.max_new_tokens:,} tokens fit"
        )
        limits.append((n, f"{held} budget.tokens = {budget.tokens:,}"))
    if budget.traces:
        limits.append((budget.traces, f"budget.traces = {budget.traces}"))
    if limits:
        return min(limits)
    if budget.seconds:
        return (
            N_SECONDS,
            f"budget.seconds = {budget.seconds:g} says nothing of attempts: {N_SECONDS} side by side",
        )
    return N_DEFAULT, f"no budget: up to {N_DEFAULT} attempts"


def _ruled(found: Situation, n: int) -> tuple[PluginSpec, PluginSpec, str]:
    """Return strategy, vote and reason by the first rule that holds."""
    if n == 1:
        return PluginSpec("consistency", {"n": 1}), MAJORITY, "one attempt leaves nothing to choose"
    by_score = (
        PluginSpec("best-weighted", {"by": f"verdict:{found.verifiers[0]}"})
        if found.verifiers and found.vote is None
        else None
    )
    vote = by_score or MAJORITY
    scored = f", and the scores of {found.verifiers[0]!r} weigh the votes" if by_score else ""
    if found.budget.seconds:
        first = f" of {found.models[0]!r}" if len(found.models) > 1 else ""
        strategy, more = _at_once(found, n)
        return (
            strategy,
            vote,
            f"all{first} start at once, because waves save tokens and cost time{more}{scored}",
        )
    per_model = n // len(found.models)
    if len(found.models) > 1 and per_model >= LEAST_PER_MODEL and found.vote is None:
        return _cascade(found.models, per_model, by_score)
    if by_score and n < LEAST_TO_STOP:
        reason = f"for few attempts the scores of {found.verifiers[0]!r} beat the vote (recorded reward model, n = 2)"
        return PluginSpec("consistency", {"n": n}), by_score, reason
    if _suits_sounding(found, n):
        spec = PluginSpec("sounding", {"n": min(n, N_SOUNDING)})
        reason = "long attempts: sounding took a fifth of the tokens of a vote of 64 at its accuracy (recorded Qwen3 traces)"
        return spec, registry.own_selector(spec), reason
    if n < LEAST_TO_STOP:
        return PluginSpec("consistency", {"n": n}), vote, "too few to gain by stopping early"
    reason = f"sampling stops when the vote is decided, about a point below 100 attempts in replays{scored}"
    return PluginSpec("adaptive", {"n": min(n, N_ADAPTIVE)}), vote, reason


def _cascade(
    models: Sequence[str], n: int, by_score: PluginSpec | None
) -> tuple[PluginSpec, PluginSpec, str]:
    inner = (
        {"inner": PluginSpec("adaptive", {"n": min(n, N_ADAPTIVE)})}
        if n >= LEAST_TO_STOP
        else {"n": n}
    )
    vote = PluginSpec("final", {"vote": by_score}) if by_score else PluginSpec("final")
    reason = f"{len(models)} models: in the plan's order, the next where one does not agree with itself (agreement cascades)"
    return PluginSpec("cascade", {"models": list(models), **inner}), vote, reason


def _at_once(found: Situation, n: int) -> tuple[PluginSpec, str]:
    """Return what takes least time, and why: long attempts need not all be waited for."""
    if n >= N_SECONDS and found.max_new_tokens >= LONG_TOKENS and Capability.CANCEL in found.able:
        short = PluginSpec("short-m@k", {"m": M_SECONDS, "k": N_SECONDS})
        return (
            short,
            f"; the first {M_SECONDS} of {N_SECONDS} that finish vote half a point below all, in 37 % less time (recorded pools)",
        )
    return PluginSpec("consistency", {"n": min(n, N_DEFAULT)}), ""


def _suits_sounding(found: Situation, n: int) -> bool:
    """Tell whether this is what `sounding` was measured on: many long attempts, no verifier, no
    vote but its own.
    """
    able = registry.needs(registry.load("strategies", PluginSpec("sounding"))) <= found.able
    return (
        able
        and n >= N_DEFAULT
        and found.max_new_tokens >= LONG_TOKENS
        and not found.verifiers
        and found.vote is None
    )
