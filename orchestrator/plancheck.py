"""Whether a plan can be carried out: ranges, plugins and their options, and what the engine must be able to do.

Everything that builds a plan, from a file or in Python, passes through `check_plan` before an engine starts. It loads plugins and starts
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from orchestrator import registry
from orchestrator.core.errors import PlanError
from orchestrator.core.folds import parse_metric
from orchestrator.core.plan import Plan
from orchestrator.core.types import Capability, PluginSpec
from orchestrator.fleet import Fleet

# key -> (whether a value is in range, what is, for the message). NaN fails every one of them.
_RANGES: Mapping[str, tuple[Any, str]] = {
    "sampling.temperature": (lambda x: 0 <= x < math.inf, "at least 0; 0.6 to 1.0 is usual"),
    "sampling.top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1; 1 samples from all tokens"),
    "sampling.top_k": (lambda x: x >= 0, "at least 0; 0 is no limit"),
    "sampling.min_p": (lambda x: 0 <= x < 1, "at least 0 and below 1; 0 drops nothing"),
    "sampling.repetition_penalty": (lambda x: 0 < x < math.inf, "above 0; 1 changes nothing"),
    "sampling.max_new_tokens": (lambda x: x >= 1, "at least 1"),
    "sampling.stop": (all, "made of texts that are not empty"),
    "sampling.template": (lambda x: "{prompt}" in x, "a text that contains {prompt}, or every problem would get the same prompt"),
    "budget.traces": (lambda x: x >= 0, "at least 0; 0 is no limit"),
    "budget.tokens": (lambda x: x >= 0, "at least 0; 0 is no limit"),
    "budget.seconds": (lambda x: 0 <= x < math.inf, "at least 0; 0 is no limit"),
    "fleet.window": (lambda x: x >= 1, "at least 1"),
    "fleet.open_problems": (lambda x: x >= 0, "at least 0; 0 is as many as keep the window full"),
    "fleet.checkers": (lambda x: x >= 1, "at least 1"),
    "fleet.checker_seconds": (lambda x: 0 < x < math.inf, "above 0"),
    "fleet.strategy_seconds": (lambda x: 0 < x < math.inf, "above 0"),
}


def check_plan(plan: Plan, fleet: Fleet) -> None:
    """Raise PlanError when a value is out of range, a plugin or its options are wrong, or the engine lacks what a plugin needs.

    Loads every plugin that the plan names and starts nothing.
    """
    _check_ranges(plan, fleet)
    strategy = registry.load("strategies", plan.strategy)
    selector = registry.load("selectors", plan.selector)
    verifiers = [registry.load("verifiers", spec) for spec in plan.verifiers]
    for name, spec in {plan.domain: PluginSpec(plan.domain), **plan.domains}.items():
        try:
            registry.load("domains", spec)
        except PlanError as error:
            raise type(error)(f"domains.{name}: {error}" if name in plan.domains else f"domain = {name!r}: {error}") from error
    backend = registry.load("engines", fleet.engine)
    able = backend.capabilities()
    askers = [(f"strategy {plan.strategy.name!r}", strategy), (f"selector {plan.selector.name!r}", selector)]
    askers += [(f"verifier {spec.name!r}", verifier) for spec, verifier in zip(plan.verifiers, verifiers, strict=True)]
    for what, plugin in askers:
        _check_needs(what, plugin, fleet.engine.name, able)
    pool = getattr(strategy, "model", "")  # by convention, the option that names a model pool
    if isinstance(pool, str) and pool and pool not in plan.models:
        raise PlanError(
            f"strategy {plan.strategy.name!r} asks for model {pool!r}{registry.near(pool, plan.models)}; "
            f"the plan's models are: {', '.join(plan.models)}"
        )


def _check_needs(what: str, plugin: object, engine: str, able: Collection[Capability]) -> None:
    wanted = registry.metrics(plugin)
    for name in wanted:
        try:
            parse_metric(name)
        except PlanError as error:
            raise PlanError(f"{what}: {error}") from error
    needed = registry.needs(plugin) | ({Capability.LOGPROBS} if wanted else frozenset())
    lacking = sorted(needed - set(able))
    if lacking:
        others = [name for name in _able_engines(needed) if name != engine]
        remedy = f"use an engine that has it: {', '.join(others)}" if others else "use one that does without it"
        raise PlanError(f"{what} needs {' and '.join(map(repr, lacking))}, which engine {engine!r} has not; {remedy}")


def _able_engines(needed: Collection[Capability]) -> Iterator[str]:
    for name in registry.names("engines"):
        try:
            backend = registry.load("engines", PluginSpec(name))
        except PlanError:  # not installed, or it has options without defaults: then it is no suggestion
            continue
        if set(needed) <= backend.capabilities():
            yield name


class _RangeError(PlanError):
    """A value out of range; `key` says whose, so that a loader can say where it was written."""

    def __init__(self, key: str, value: object, need: str) -> None:
        self.key = key
        super().__init__(f"{key} = {value!r}: it must be {need}")


def _check_ranges(plan: Plan, fleet: Fleet) -> None:
    owners = {"sampling": plan.sampling, "budget": plan.budget, "fleet": fleet}
    for key, (holds, need) in _RANGES.items():
        section, _, name = key.partition(".")
        value = getattr(owners[section], name)
        if not holds(value):
            raise _RangeError(key, value, need)
    if not plan.models:
        raise _RangeError("models", {}, "one model at least")
    for name, model in plan.models.items():
        if not model.path.strip():
            raise _RangeError(f"models.{name}.path", model.path, "'smollm2', a local folder or a hub name")
        if model.max_context_tokens < 0:
            raise _RangeError(f"models.{name}.max_context_tokens", model.max_context_tokens, "at least 0; 0 is as the model ships")
    names = [spec.name for spec in plan.verifiers]
    for name in names:
        if names.count(name) > 1:
            raise _RangeError("verifiers", names, f"different ones; {name!r} is there twice, and traces name verifiers by name")


