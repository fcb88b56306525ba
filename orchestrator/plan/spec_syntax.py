"""The syntax of a plugin: on the command line, and as a table of a plan.

On the command line: its name, then KEY=VALUE options after spaces. Values are parsed as TOML, or
else as text: `n=8`, `rule=window`, `by="verdict:prm"`; lists need no quotes:
`models=[small,large]`. Where several plugins are allowed, a value may list alternatives, one for
each plugin: `n=1,2,4`. A part that has options is quoted: `inner='consistency n=4'`. Not covered:
whether the options exist (`orchestrator.plan.registry`).
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from typing import Any

from orchestrator.core.errors import PluginError
from orchestrator.core.values import PluginSpec


def one_spec(flag: str, text: str) -> PluginSpec:
    """Return the plugin that a text names; PluginError naming the flag when it cannot be read."""
    name, pairs = _split(flag, text)
    return PluginSpec(name, {key: _value(value) for key, value in pairs})


def query_spec(flag: str, text: str) -> PluginSpec:
    """Return the plugin that NAME?KEY=VALUE&KEY=VALUE names; PluginError when it cannot be read."""
    name, _, query = text.partition("?")
    options = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise PluginError(f"{flag} {text!r}: after the name come ?KEY=VALUE&..., not {pair!r}")
        options[key] = _value(value)
    return PluginSpec(name.strip(), options)


def several_specs(flag: str, text: str) -> list[PluginSpec]:
    """Return the plugins that a text names, one for each combination of the listed values.

    The last option varies fastest.
    """
    name, pairs = _split(flag, text)
    keys = [key for key, _ in pairs]
    choices = [_values(flag, value) for _, value in pairs]
    return [
        PluginSpec(name, dict(zip(keys, values, strict=True)))
        for values in itertools.product(*choices)
    ]


def spelled(spec: PluginSpec) -> str:
    """Return a plugin in command-line syntax, such as refine inner='consistency n=8'."""
    return " ".join(
        [spec.name, *(f"{key}={_quoted(value)}" for key, value in spec.options.items())]
    )


def _quoted(value: object) -> str:
    text = _text(value)
    return shlex.quote(text) if not text or set(text) & set(" \"'\n") else text


def _text(value: object) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return spelled(PluginSpec(value["name"], {k: v for k, v in value.items() if k != "name"}))
    if isinstance(value, list | tuple):
        return json.dumps([_text(item) if isinstance(item, Mapping) else item for item in value])
    return str(value).lower() if isinstance(value, bool) else str(value)


def _split(flag: str, text: str) -> tuple[str, list[tuple[str, str]]]:
    try:
        name, *pairs = shlex.split(text) or [""]
    except ValueError as error:
        raise PluginError(f"{flag} {text!r}: {error}") from error
    options = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise PluginError(
                f"{flag} {text!r}: after the name come options as KEY=VALUE, not {pair!r}"
            )
        options.append((key, value))
    return name, options


def _values(flag: str, text: str) -> list[object]:
    value = _value(text)
    if not isinstance(value, str) or "," not in value:
        return [value]
    if re.match(r"\S+ +\S+=", value):  # a part with options, of which some are listed
        return [{"name": spec.name, **spec.options} for spec in several_specs(flag, value)]
    return [_value(part) for part in text.split(",") if part]


def listed(text: str) -> list[object]:
    """Return the list that a text of an option gives: `[a, b]`, `a,b` or one item alone."""
    value = _value(text)
    if isinstance(value, list):
        return value
    return [_value(part.strip()) for part in text.split(",") if part.strip()]


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # a list whose quotes the shell, or this file's splitting, has taken
        if re.fullmatch(r"\[[^\[\]\"']*\]", text):
            return [_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
        return text


def table_spec(table: Mapping[str, Any], at: str, default: object) -> PluginSpec:
    """Return the plugin of a table at a dotted path; without a name it is the default one's.

    PluginError when neither names it.
    """
    options = {key: value for key, value in table.items() if key != "name"}
    name = table.get("name")
    if name is None and isinstance(default, str) and default:
        own = one_spec(at, default)
        return PluginSpec(own.name, {**own.options, **options})
    if not isinstance(name, str) or not name:
        raise PluginError(
            f"{at} must name its plugin: write {at.rpartition('.')[2]} = {{name = '...', ...}}"
        )
    return PluginSpec(name, options)


def require_list_or_one(wants_list: bool, value: object, at: str) -> None:
    """Refuse one plugin where a list of them is wanted, and the reverse."""
    if isinstance(value, list | tuple) != wants_list:
        wanted = "a list of plugins" if wants_list else "one plugin, not a list"
        raise PluginError(f"{at} = {value!r}: it must be {wanted}")
