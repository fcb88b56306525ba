"""The object `leadline` in the body of a request: its strategy, selector, depth and budget.

The one rule: an unknown key is an error that names the near match. What a plan and its engine can
honour is checked by `orchestrator.plan.check.row_requirement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget, Settings, plugin_spec
from orchestrator.core.values import PluginSpec
from orchestrator.plan import registry
from orchestrator.plan.auto import NAME as AUTO
from orchestrator.plan.keys import read_section, refuse_unknown
from orchestrator.plan.spec_syntax import query_spec

FIELD = "leadline"
_KEYS = ("depth", "thinking_tokens", "strategy", "selector", "budget")
_OF_SAMPLING = ("depth", "thinking_tokens")


def extended(settings: Settings, given: object) -> Settings:
    """Return the settings with what the object sets; ValueError where it is wrong."""
    try:
        return _extended(settings, _table(given, FIELD))
    except PlanError as error:
        raise ValueError(str(error)) from error


def _extended(settings: Settings, given: Mapping[str, object]) -> Settings:
    refuse_unknown(given, _KEYS, FIELD)
    changes: dict[str, object] = {}
    if sampling := {name: given[name] for name in _OF_SAMPLING if name in given}:
        read_section("sampling", sampling, FIELD)
        changes["sampling"] = {**settings.sampling, **sampling}
    if "budget" in given:
        budget = _table(given["budget"], f"{FIELD}.budget")
        refuse_unknown(budget, [field.name for field in fields(Budget)], f"{FIELD}.budget")
        changes["budget"] = read_section("budget", budget, f"{FIELD}.budget")
    if "strategy" in given:
        strategy = plugin_of(given["strategy"], f"{FIELD}.strategy")
        if strategy.name == AUTO:
            raise ValueError(f"{FIELD}.strategy = 'auto' chooses for a whole plan: name a strategy")
        changes["strategy"] = _as_table(strategy)
        changes["selector"] = _as_table(registry.own_selector(strategy))
    if "selector" in given:
        selector = plugin_of(given["selector"], f"{FIELD}.selector")
        registry.load("selectors", selector)
        changes["selector"] = _as_table(selector)
    return replace(settings, **changes)  # type: ignore[arg-type]  # they were read above


def plugin_of(value: object, key: str) -> PluginSpec:
    """Return the plugin that a text (`NAME?OPTION=VALUE&...`) or a table names."""
    if not isinstance(value, str):
        return plugin_spec(_table(value, key), key)
    spec = query_spec(key, value)
    return plugin_spec({"name": spec.name, **spec.options}, key)


def _as_table(spec: PluginSpec) -> dict[str, object]:
    return {"name": spec.name, **spec.options}


def _table(value: object, key: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} = {value!r:.80}: it must be an object")
    return value
