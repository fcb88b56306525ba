"""Checks that a plan can run: ranges, plugins and their options, and the engine's capabilities.

The one rule: every plan, from a file or from Python, passes through `check_plan` before an engine
starts. The check loads plugins and starts nothing. If a model is not on this machine, its engine
makes the same checks when it opens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import parse_exit, parse_schedule
from orchestrator.core.metrics import PREFIX, parse_metric
from orchestrator.core.plan import (
    TASKS,
    FewShot,
    Model,
    Plan,
    Settings,
    with_settings,
)
from orchestrator.core.session import MAX_REQUESTS
from orchestrator.core.values import Capability, PluginSpec, media_of
from orchestrator.plan import registry
from orchestrator.plan.check.content import RowRequirement, check_media, check_tools
from orchestrator.plan.check.pools import (
    LAYER_FIELDS,
    EngineFacts,
    check_adapters,
    check_depths,
    check_drafts,
    check_logprobs,
    check_noise,
    check_thinking,
    fault,
    require_that,
)
from orchestrator.plan.execution import Execution
from orchestrator.plan.keys import POOL, PRICE, PlanFault, read_section, require_pools

# in an Execution; and what is no key of [few_shot]
_TABLES_OF_THEIR_OWN = ("engine", "supervision", "budget", "prices", "sinks", "examples")


@dataclass(frozen=True, slots=True)
class _Part:
    """A plugin of the plan, or a part of one: its key, and its name in messages."""

    key: str
    label: str
    plugin: object


def check_plan(plan: Plan, execution: Execution) -> None:
    """Raise PlanFault when the plan cannot run.

    Reasons: a value is out of range, a plugin or its options are wrong, or the engine lacks a
    capability that a plugin needs.
    """
    _check_values(plan, execution)
    backend = _load("engines", execution.engine, "execution.engine")
    engine = EngineFacts(
        execution.engine.name, backend.capabilities(), getattr(backend, "loads_models", True)
    )
    strategy = _load("strategies", plan.strategy, "strategy")
    selector = _load("selectors", plan.selector, "selector")
    verifiers = [(spec.name, _load("verifiers", spec, "verifiers")) for spec in plan.verifiers]
    for key, part in registry.walk_parts(strategy, "strategy"):
        _check_widths(key, part)
    check_depths(plan, strategy, engine)
    check_drafts(plan, strategy, backend)
    check_noise(plan, strategy, engine, backend)
    _check_extra(plan.sampling.extra, engine, backend)
    check_logprobs(plan.sampling, engine)
    check_adapters(plan.models, engine)
    if plan.sampling.prefill and Capability.CONTINUE not in engine.capabilities:
        raise PlanFault(
            "sampling.prefill",
            f"sampling.prefill: the engine {engine.name!r} cannot continue a text that it is given",
        )
    check_thinking(plan, strategy, engine, backend)
    check_tools(plan, strategy, engine, backend)
    for key, name, plugin in (
        ("strategy", plan.strategy.name, strategy),
        ("selector", plan.selector.name, selector),
        *(("verifiers", name, verifier) for name, verifier in verifiers),
    ):
        # innermost first: the error names the part that declares the need
        for path, part in reversed(list(registry.walk_parts(plugin, key))):
            label = f"{key.removesuffix('s')} {name!r}" if part is plugin else path
            _check_needs(_Part(key, label, part), engine, [v.name for v in plan.verifiers])
    for name, spec in plan.domains.items():
        _load("domains", spec, f"domains.{name}")
    if plan.domain not in plan.domains:
        _load("domains", PluginSpec(plan.domain), "domain")
    _check_tasks(plan, engine)
    for name, verifier in verifiers:
        _check_pools(_Part(f"verifiers.{name}", f"verifier {name!r}", verifier), plan)
    for key, part in registry.walk_parts(strategy, "strategy"):
        label = f"strategy {plan.strategy.name!r}"
        _check_pools(_Part(key, label if part is strategy else f"{key} of {label}", part), plan)
    _check_sinks(execution)


def _check_sinks(execution: Execution) -> None:
    for spec in execution.sinks:
        packages: Mapping[str, str] = getattr(_load("sinks", spec, "sinks"), "packages", {})
        for module, requirement in packages.items():
            if not _is_installed(module):
                raise PlanFault(
                    "sinks",
                    f"sink {spec.name!r} needs {module}, which is not installed: "
                    f"pip install '{requirement}'",
                )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def row_requirement(plan: Plan, execution: Execution) -> RowRequirement:
    """Return what raises PlanFault for a row that this plan cannot honour."""
    backend = _load("engines", execution.engine, "execution.engine")
    loads_models = getattr(backend, "loads_models", True)
    engine = EngineFacts(execution.engine.name, backend.capabilities(), loads_models)

    strategy = _load("strategies", plan.strategy, "strategy")
    before = frozenset(m.modality for e in plan.few_shot.examples for m in media_of(e.prompt))
    with fault("few_shot.file", "few_shot.file: an example: "):
        check_media(before, plan, strategy, engine, backend)

    def require(settings: Settings, media: frozenset[str] = frozenset()) -> None:
        changed = with_settings(plan, settings.encoded())
        if _is_of_its_own(settings):
            check_plan(changed, execution)
            own = _load("strategies", changed.strategy, "strategy")
            check_media(media, changed, own, engine, backend)
            return
        _check_extra(changed.sampling.extra, engine, backend)
        check_logprobs(changed.sampling, engine)
        check_drafts(changed, strategy, backend)
        check_noise(changed, strategy, engine, backend)
        check_tools(changed, strategy, engine, backend)
        check_media(media | before, changed, strategy, engine, backend)
        # a row that is only shorter may be cut while it thinks, as without a limit
        if "thinking_tokens" in settings.sampling:
            check_thinking(changed, strategy, engine, backend)
        if settings.n is not None:
            _load("strategies", changed.strategy, "strategy")

    return require


def _is_of_its_own(settings: Settings) -> bool:
    """Tell whether settings make another plan of it, rather than change its sampling or width."""
    plugins = settings.strategy or settings.selector
    return bool(plugins or settings.budget or "depth" in settings.sampling)


def _check_values(plan: Plan, execution: Execution) -> None:
    for section, values in (
        ("sampling", plan.sampling),
        ("few_shot", plan.few_shot),
        ("budget", plan.budget),
        ("execution", execution),
        ("budget", execution.budget),
    ):
        _check_section(section, values, section)
    _check_few_shot(plan.few_shot)
    require_that(bool(plan.models), "models", {}, "at least one model")
    for name, model in plan.models.items():
        _check_section(POOL, model, f"models.{name}")
        if model.layers:
            _check_text(f"models.{name}.layers", parse_schedule, model.layers)
        if model.exit:
            _check_text(f"models.{name}.exit", parse_exit, model.exit)
    _check_prices(plan, execution)
    names = [spec.name for spec in plan.verifiers]
    require_that(
        len(set(names)) == len(names),
        "verifiers",
        names,
        "different ones: their names tell the verdicts of a trace apart",
    )


def _check_few_shot(few_shot: FewShot) -> None:
    has_examples = bool(few_shot.file or few_shot.content)
    expected = "at least 1 where few_shot.file is set, and 0 without one"
    require_that(bool(few_shot.n) == has_examples, "few_shot.n", few_shot.n, expected)
    template = few_shot.template
    is_whole = 0 <= template.find("{prompt}") < template.find("{answer}")
    expected = "empty, or a text with {prompt} and, behind it, {answer}"
    require_that(is_whole or not template, "few_shot.template", template, expected)
    read_section("columns", dict(few_shot.columns), "few_shot.columns")


def _check_extra(extra: Mapping[str, object], engine: EngineFacts, backend: object) -> None:
    """Let the engine check its own parameters; one without a model, as in a dry run, has none."""
    if not extra or not engine.loads_models:
        return
    require = getattr(backend, "require_sampling", None)
    if require is None:
        raise PlanFault(
            "sampling.extra",
            f"sampling.extra: the engine {engine.name!r} takes no other parameters",
        )
    require(extra)


def _check_section(section: str, values: Any, prefix: str) -> None:
    fields = (f.name for f in dataclasses.fields(values) if f.name not in _TABLES_OF_THEIR_OWN)
    read_section(section, {name: getattr(values, name) for name in fields}, prefix)


def _check_prices(plan: Plan, execution: Execution) -> None:
    """Raise PlanFault for a price that cannot be, or a budget that could not be enforced."""
    prices = execution.prices
    read_section("prices", {"gpu_hour": prices.gpu_hour})
    require_pools(prices.pools, plan.models)
    for name, one in prices.pools.items():
        _check_section(PRICE, one, f"prices.{name}")
    unpriced = [name for name in plan.models if name not in prices.pools]
    if execution.budget.usd and unpriced and not prices.gpu_hour:
        raise PlanFault(
            "budget.usd",
            f"budget.usd = {execution.budget.usd:g}: the plan has no prices of "
            f"{', '.join(unpriced)}, so the budget could not be kept; add [prices.{unpriced[0]}] "
            "with input and output in US dollars per million tokens, or prices.gpu_hour",
        )


def _check_text(key: str, parse: Callable[[str], object], text: str) -> None:
    with fault(key):
        parse(text)


def _load(group: str, spec: PluginSpec, key: str) -> Any:
    with fault(key):
        return registry.load(group, spec)


def _check_needs(part: _Part, engine: EngineFacts, verifiers: Collection[str]) -> None:
    metrics = registry.metrics(part.plugin)
    for name in metrics:
        with fault(part.key, f"{part.label}: "):
            parse_metric(name)
    for name in registry.verdicts(part.plugin):
        if name not in verifiers:
            raise PlanFault(
                part.key,
                f"{part.label} reads the verdicts of {name!r}{registry.near(name, verifiers)}; "
                f"the plan's verifiers are: {', '.join(verifiers) or 'none'}",
            )
    needs = registry.needs(part.plugin) | ({Capability.LOGPROBS} if metrics else frozenset())
    needs |= {Capability.SCORE} if PREFIX in metrics else frozenset()
    lacking = sorted(needs - engine.capabilities)
    if lacking:
        others = [name for name in _engines_with(needs) if name != engine.name]
        remedy = (
            f"use an engine that offers it ({', '.join(others)})"
            if others
            else f"use another {part.key.removesuffix('s')}"
        )
        raise PlanFault(
            part.key,
            f"{part.label} needs {' and '.join(map(repr, map(str, lacking)))}, which engine "
            f"{engine.name!r} does not offer; {remedy}",
        )


def _check_widths(key: str, part: Any) -> None:
    """Raise PlanFault for a count that no machine could hold in memory, such as n = 10^9."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        is_count = "token" not in field.name and field.name not in ("interval", "seed")
        if isinstance(value, int) and value > MAX_REQUESTS and is_count:
            expected = f"at most {MAX_REQUESTS:,}, the most requests of one problem"
            require_that(False, f"{key}.{field.name}", value, expected)


def _engines_with(needs: Collection[Capability]) -> Iterator[str]:
    for name in registry.names("engines"):
        try:
            backend = registry.load("engines", PluginSpec(name))
        # not installed, or it has options without defaults: then it is no suggestion
        except PlanError:
            continue
        if set(needs) <= backend.capabilities():
            yield name


def _check_tasks(plan: Plan, engine: EngineFacts) -> None:
    for name, model in plan.models.items():
        if not model.task:
            continue
        changed = [f for f in LAYER_FIELDS if getattr(model, f) != getattr(Model(""), f)]
        for holds, expected in (
            (
                model.task in TASKS,
                f"one of {', '.join(TASKS)}, or left out for a model that generates text",
            ),
            (
                name != plan.default_model,
                "left out for the first pool, which answers the problems",
            ),
            (
                not changed,
                f"left out where the model runs other layers than its own ({', '.join(changed)})",
            ),
            (
                Capability.POOL in engine.capabilities,
                f"left out: engine {engine.name!r} has no such pools (ray and vllm have)",
            ),
        ):
            require_that(holds, f"models.{name}.task", model.task, expected)


def _check_pools(part: _Part, plan: Plan) -> None:
    """Raise PlanFault unless the pools that a plugin names exist and have the task it needs.

    By convention the option `model` names one.
    """
    tasks: Mapping[str, Collection[str]] = getattr(part.plugin, "tasks", {})
    for pool in (getattr(part.plugin, "model", ""), *getattr(part.plugin, "pools", ())):
        if not isinstance(pool, str):
            continue
        if pool and pool not in plan.models:
            raise PlanFault(
                f"{part.key}.model",
                f"{part.label} names model {pool!r}{registry.near(pool, plan.models)}; "
                f"the plan's models are: {', '.join(plan.models)}",
            )
        if pool or pool in tasks:
            name = pool or plan.default_model
            _check_task(part.label, name, plan.models[name].task, tasks.get(pool, ("",)))


def _check_task(label: str, pool: str, task: str, accepted: Collection[str]) -> None:
    if task in accepted:
        return
    if "" in accepted:
        want, remedy = "text", "name a pool without a task"
    else:
        want = "values"
        remedy = f"set it to {' or '.join(map(repr, accepted))} and give it such a model"
    key = f"models.{pool}.task"
    raise PlanFault(key, f"{key} = {task!r}: {label} needs {want} from this pool; {remedy}")
