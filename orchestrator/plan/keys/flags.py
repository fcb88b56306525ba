"""Flags and short forms: what a plan's tree of tables is before anything in it is checked.

A flag's text is read by the type of its key, so it needs no quotes. The one rule: a flag that names
another plugin or model drops the options of the one in the file. Not covered: whether keys exist
and values fit (`orchestrator.plan.keys.reading`, `orchestrator.plan.registry`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any, TypeAlias

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.plan.keys.reading import key_type, table_of
from orchestrator.plan.keys.table import POOL
from orchestrator.plan.spec_syntax import listed, one_spec, query_spec

Table: TypeAlias = dict[str, Any]
_GROUPS = {"strategy": "strategies", "selector": "selectors", "execution.engine": "engines"}


def expand_short_forms(tree: Table) -> None:
    """Rewrite the short forms of a file's tree, so that flags have one form to change."""
    if "model" in tree:
        if "models" in tree:
            raise PlanFault(
                "model", "'model' is short for [models.main]; keep it or [models], not both"
            )
        tree["models"] = {"main": {"path": tree.pop("model")}}
    for key in ("strategy", "selector"):
        if key in tree:
            tree[key] = as_table(tree[key])
    if "sinks" in tree:
        tree["sinks"] = _sink_tables(tree["sinks"])
    for key, name in (("execution", "engine"), ("domains", None)):
        table = tree.get(key)
        if isinstance(table, dict):
            tree[key] = {k: as_table(v) if name in (k, None) else v for k, v in table.items()}


def as_table(value: object) -> object:
    """Return a plugin's table, also of its name alone."""
    return {"name": value} if isinstance(value, str) else value


def _sink_tables(value: object) -> list[object]:
    """Return sinks as a list of tables with their names: of [sinks.NAME] tables, or of a list."""
    if isinstance(value, dict):
        return [{"name": name, **table_of(value[name], f"sinks.{name}")} for name in value]
    specs = [query_spec("sinks", one) if isinstance(one, str) else one for one in as_list(value)]
    return [{"name": s.name, **s.options} if isinstance(s, PluginSpec) else s for s in specs]


def apply_flags(tree: Table, flags: Mapping[str, str]) -> None:
    """Write flags into the tree: whole plugins and models before their options."""
    for key in sorted(flags, key=lambda key: (key.removesuffix(".name").count("."), key)):
        text, head = flags[key], key.removesuffix(".name")
        if key == "model":
            models = tree.get("models")
            pool = next(iter(models), "main") if isinstance(models, dict) else "main"
            _choose(tree, f"models.{pool}", "path", text)
        elif re.fullmatch(r"models\.[^.]+", key):
            _choose(tree, key, "path", text)
        elif head in _GROUPS or re.fullmatch(r"domains\.[^.]+", head):
            spec = one_spec(f"--{head}", text)
            _choose(tree, head, "name", spec.name)
            for name, value in spec.options.items():
                _set(tree, f"{head}.{name}", value)
        elif key == "verifiers":
            items = as_list(_value(key, text, None))
            names = [name for item in items for name in str(item).split(",")]
            tree[key] = [_in_file(tree, name.strip()) for name in names]
        elif key == "sinks":
            tables = _sink_tables(as_list(_value(key, text, None)))
            tree[key] = [as_table(_in_file(tree, _name_alone(one), key)) for one in tables]
        elif key.startswith("verifiers."):
            _set_verifier_option(tree, key, text)
        else:
            section = key.rpartition(".")[0]
            _name_default(tree, section)
            _set(tree, key, _value(key, text, _get(tree, f"{section}.name")))


def _choose(tree: Table, key: str, field: str, text: str) -> None:
    if _get(tree, f"{key}.{field}") != text:
        _set(tree, key, {field: text})


def _name_default(tree: Table, section: str) -> None:
    """Name the default plugin or model where the file names none and a flag sets its option."""
    plan, execution = Plan(), Execution()
    if section in _GROUPS and _get(tree, section) is None:
        owner = execution if section == "execution.engine" else plan
        _set(tree, f"{section}.name", getattr(owner, section.rpartition(".")[2]).name)
    elif section == f"models.{plan.default_model}" and "models" not in tree:
        _set(tree, f"{section}.path", plan.models[plan.default_model].path)


def as_list(value: object) -> list[Any]:
    """Return a list, also of one value alone."""
    return value if isinstance(value, list) else [value]


def _name_alone(table: object) -> object:
    """Return the name in a plugin's table that has nothing else; any other table as it is."""
    return table["name"] if isinstance(table, dict) and [*table] == ["name"] else table


def _in_file(tree: Table, item: object, key: str = "verifiers") -> object:
    """Return the file's entry for a plugin that a flag names, else what the flag has."""
    entries = as_list(tree.get(key, []))
    return next((e for e in entries if isinstance(e, dict) and e.get("name") == item), item)


def _set_verifier_option(tree: Table, key: str, text: str) -> None:
    name, _, option = key.removeprefix("verifiers.").rpartition(".")
    entries = [as_table(item) for item in as_list(tree.get("verifiers", []))]
    entry = next((e for e in entries if isinstance(e, dict) and e.get("name") == name), None)
    if entry is None:
        raise PlanFault(key, f"{key}: the plan has no verifier {name!r}; add --verifiers {name}")
    entry[option] = _value(f"verifiers.{option}", text, name)
    tree["verifiers"] = entries


def _value(key: str, text: str, plugin: object) -> object:
    """Return a flag's text as a TOML value; as text if it is not one or the key needs text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        # ".5", which TOML wants as 0.5
        value = float(text) if re.fullmatch(r"[-+]?\.\d+", text) else text
    kind = _type_of(key, plugin)
    if kind == "str":
        return value if isinstance(value, str) else text
    is_list = isinstance(plugin, str) and kind.startswith("tuple")
    return listed(text) if is_list and not isinstance(value, list) else value


def _type_of(key: str, plugin: object) -> str:
    """Return the type of a key or option as Python source; "" if it is unknown."""
    section, _, name = key.rpartition(".")
    group = _GROUPS.get(section, section.partition(".")[0])
    # the group of a part is known to its owner alone
    if not isinstance(plugin, str) or group not in registry.GROUPS:
        return key_type(POOL if section.startswith("models.") else section, name)
    try:
        options = registry.options(group, plugin)
    except PlanError:  # an unknown plugin, which `check_plan` reports better than a flag can
        return ""
    return next((option.type for option in options if option.name == name), "")


def _get(tree: Table, key: str) -> object:
    value: object = tree
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _set(tree: Table, key: str, value: object) -> None:
    *parents, last = key.split(".")
    table = tree
    for name in parents:
        inner = table.setdefault(name, {})
        # a part in its short form
        if isinstance(inner, str) and key.startswith(("strategy.", "selector.")):
            own = one_spec(key, inner)
            inner = table[name] = {"name": own.name, **own.options}
        if not isinstance(inner, dict):
            raise PlanFault(key, f"there is no key {key!r}; {name!r} is not a table")
        table = inner
    table[last] = value
