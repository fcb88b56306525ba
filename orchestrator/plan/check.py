"""Whether a plan can be carried out: ranges, plugins and their options, and what the engine must be
able to do.

Everything that builds a plan, from a file or in Python, passes through `check_plan` before an
engine starts. It loads plugins and starts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from orchestrator.core.errors import PlanError, PluginError
from orchestrator.core.layers import parse_exit, parse_schedule
from orchestrator.core.metrics import PREFIX, parse_metric
from orchestrator.core.plan import TASKS, Model, Plan
from orchestrator.core.values import Capability, PluginSpec
from orchestrator.plan import models as modelcheck
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution


class PlanFault(PlanError):
    """One key of the plan is wrong.

    `key` says which, so that a loader can say where it was written.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


# key -> (whether a value is in range, what is, for the message). NaN fails every one of them.
_RANGES: Mapping[str, tuple[Any, str]] = {
    "sampling.temperature": (lambda x: 0 <= x < math.inf, "at least 0; 0.6 to 1.0 is usual"),
    "sampling.top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1; 1 samples from all tokens"),
    "sampling.top_k": (lambda x: x >= 0, "at least 0; 0 is no limit"),
    "sampling.min_p": (lambda x: 0 <= x < 1, "at least 0 and below 1; 0 drops nothing"),
    "sampling.repetition_penalty": (lambda x: 0 < x < math.inf, "above 0; 1 changes nothing"),
    "sampling.max_new_tokens": (lambda x: x >= 1, "at least 1"),
    "sampling.depth": (
        lambda x: x >= 0,
        "at least 1, or 0 for the depth that the model ships with",
    ),
    "sampling.stop": (all, "made of texts that are not empty"),
    "sampling.template": (
        lambda x: "{prompt}" in x,
        "a text that contains {prompt}, or every problem would get the same prompt",
    ),
    "budget.traces": (lambda x: x >= 0, "at least 0; 0 is no limit"),
    "budget.tokens": (lambda x: x >= 0, "at least 0; 0 is no limit"),
    "budget.seconds": (lambda x: 0 <= x < math.inf, "at least 0; 0 is no limit"),
    "execution.window": (lambda x: x >= 1, "at least 1"),
    "execution.open_problems": (
        lambda x: x >= 0,
        "at least 0; 0 is as many as keep the window full",
    ),
    "execution.checkers": (lambda x: x >= 1, "at least 1"),
    "execution.checker_seconds": (lambda x: 0 < x < math.inf, "above 0"),
    "execution.strategy_seconds": (lambda x: 0 < x < math.inf, "above 0"),
}


def check_plan(plan: Plan, execution: Execution) -> None:
    """Raise PlanFault when a value is out of range, a plugin or its options are wrong, or the
    engine lacks what a plugin needs.
    """
    _check_ranges(plan, execution)
    backend = _loaded("engines", execution.engine, "execution.engine")
    strategy = _loaded("strategies", plan.strategy, "strategy")
    plugins = [("strategy", plan.strategy.name, strategy)]
    plugins += [("selector", plan.selector.name, _loaded("selectors", plan.selector, "selector"))]
    plugins += [
        ("verifiers", spec.name, _loaded("verifiers", spec, "verifiers")) for spec in plan.verifiers
    ]
    able = backend.capabilities()
    _check_depths(
        plan, strategy, execution.engine.name, able, look=getattr(backend, "loads_models", True)
    )
    for key, name, plugin in plugins:
        # innermost first: who states a need is who is named
        for path, part in reversed(list(registry.composed(plugin, key))):
            what = f"{key.removesuffix('s')} {name!r}" if part is plugin else path
            _check_needs(
                key, what, part, execution.engine.name, able, [v.name for v in plan.verifiers]
            )
    for name, spec in plan.domains.items():
        _loaded("domains", spec, f"domains.{name}")
    if plan.domain not in plan.domains:
        _loaded("domains", PluginSpec(plan.domain), "domain")
    _check_tasks(plan, execution.engine.name, able)
    for key, name, plugin in plugins:
        if key == "verifiers":
            _check_pool(f"verifiers.{name}", f"verifier {name!r}", plugin, plan)
    for key, part in registry.composed(strategy, "strategy"):
        what = (
            f"strategy {plan.strategy.name!r}"
            if part is strategy
            else f"{key} of strategy {plan.strategy.name!r}"
        )
        _check_pool(key, what, part, plan)


def _check_tasks(plan: Plan, engine: str, able: Collection[Capability]) -> None:
    for name, model in plan.models.items():
        if not model.task:
            continue
        key = f"models.{name}.task"
        _require(
            model.task in TASKS,
            key,
            model.task,
            f"one of {', '.join(TASKS)}, or left out for a model that writes text",
        )
        _require(
            name != plan.default_model,
            key,
            model.task,
            "left out for the first pool, which answers the problems",
        )
        shaped = [
            field
            for field in modelcheck.SHAPE
            if getattr(model, field) != getattr(Model(""), field)
        ]
        _require(
            not shaped,
            key,
            model.task,
            f"left out where the model runs other layers than its own ({', '.join(shaped)})",
        )
        _require(
            Capability.POOL in able,
            key,
            model.task,
            f"left out: engine {engine!r} has no such pools (ray and vllm have)",
        )


def _check_pool(key: str, what: str, plugin: object, plan: Plan) -> None:
    tasks: Mapping[str, Collection[str]] = getattr(plugin, "tasks", {})
    # `model` is by convention the option that names one
    for pool in (getattr(plugin, "model", ""), *getattr(plugin, "pools", ())):
        if isinstance(pool, str) and pool and pool not in plan.models:
            there = f"{registry.near(pool, plan.models)}; the plan's models are: {', '.join(plan.models)}"
            raise PlanFault(f"{key}.model", f"{what} asks for model {pool!r}{there}")
        if isinstance(pool, str) and (pool or pool in tasks):
            _check_task(
                f"models.{pool or plan.default_model}.task",
                what,
                plan.models[pool or plan.default_model].task,
                tasks.get(pool, ("",)),
            )


def _check_task(key: str, what: str, task: str, wanted: Collection[str]) -> None:
    if task not in wanted:
        remedy = (
            "name a pool without one"
            if "" in wanted
            else f"set it to {' or '.join(map(repr, wanted))} and give it such a model"
        )
        raise PlanFault(
            key,
            f"{key} = {task!r}: {what} wants {'text' if '' in wanted else 'values'} of this pool; {remedy}",
        )


def _check_depths(
    plan: Plan, strategy: object, engine: str, able: Collection[Capability], look: bool
) -> None:
    offered = Capability.DEPTH in able
    for name, model in plan.models.items():
        with _fault(f"models.{name}"):
            if not offered:
                modelcheck.require_stock(model, engine)
            elif look:
                modelcheck.check_model(name, model)
    for key, pool, depth in modelcheck.asked_depths(plan, strategy):
        with _fault(key):
            modelcheck.check_depth(
                key, pool, depth, plan.models, look
            ) if offered else modelcheck.require_no_depth(key, depth, engine)


@contextmanager
def _fault(key: str) -> Iterator[None]:
    """Say of a PlanError which key of the plan it is about."""
    try:
        yield
    except PlanError as error:
        raise PlanFault(key, str(error)) from error


def _loaded(group: str, spec: PluginSpec, key: str) -> Any:
    try:
        return registry.load(group, spec)
    except PluginError as error:
        raise PlanFault(key, str(error)) from error


def _check_needs(
    key: str,
    what: str,
    plugin: object,
    engine: str,
    able: Collection[Capability],
    verifiers: Collection[str],
) -> None:
    wanted = registry.metrics(plugin)
    for name in wanted:
        try:
            parse_metric(name)
        except PlanError as error:
            raise PlanFault(key, f"{what}: {error}") from error
    for name in registry.verdicts(plugin):
        if name not in verifiers:
            there = f"{registry.near(name, verifiers)}; the plan's verifiers are: {', '.join(verifiers) or 'none'}"
            raise PlanFault(key, f"{what} reads the verdicts of {name!r}{there}")
    needed = registry.needs(plugin) | ({Capability.LOGPROBS} if wanted else frozenset())
    needed |= {Capability.SCORE} if PREFIX in wanted else frozenset()
    lacking = sorted(needed - set(able))
    if lacking:
        others = [name for name in _able_engines(needed) if name != engine]
        remedy = (
            f"use an engine that offers it ({', '.join(others)})"
            if others
            else f"use another {key.removesuffix('s')}"
        )
        raise PlanFault(
            key,
            f"{what} needs {' and '.join(map(repr, map(str, lacking)))}, which engine {engine!r} does not offer; {remedy}",
        )


def _able_engines(needed: Collection[Capability]) -> Iterator[str]:
    for name in registry.names("engines"):
        try:
            backend = registry.load("engines", PluginSpec(name))
        # not installed, or it has options without defaults: then it is no suggestion
        except PlanError:
            continue
        if set(needed) <= backend.capabilities():
            yield name


def _check_ranges(plan: Plan, execution: Execution) -> None:
    owners = {"sampling": plan.sampling, "budget": plan.budget, "execution": execution}
    for key, (holds, need) in _RANGES.items():
        section, _, name = key.partition(".")
        _require(holds(getattr(owners[section], name)), key, getattr(owners[section], name), need)
    _require(bool(plan.models), "models", {}, "at least one model")
    for name, model in plan.models.items():
        _require(
            bool(model.path.strip()),
            f"models.{name}.path",
            model.path,
            "'smollm2', 'sounder', a local folder or a hub name",
        )
        context = model.max_context_tokens
        _require(
            context >= 0,
            f"models.{name}.max_context_tokens",
            context,
            "at least 0; 0 is as the model ships",
        )
        _require(
            model.max_depth >= 0,
            f"models.{name}.max_depth",
            model.max_depth,
            "at least 1, or 0 for what the model ships with",
        )
        _require(
            0 <= model.residual < 1,
            f"models.{name}.residual",
            model.residual,
            "at least 0 (the plain loop) and below 1",
        )
        if model.layers:
            _check_text(f"models.{name}.layers", parse_schedule, model.layers)
        if model.exit:
            _check_text(f"models.{name}.exit", parse_exit, model.exit)
    names = [spec.name for spec in plan.verifiers]
    _require(
        len(set(names)) == len(names),
        "verifiers",
        names,
        "different ones: a trace tells its verdicts apart by these names",
    )


def _check_text(key: str, parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except PlanError as error:
        raise PlanFault(key, str(error)) from error


def _require(holds: bool, key: str, value: object, need: str) -> None:
    if not holds:
        raise PlanFault(key, f"{key} = {value!r}: it must be {need}")
