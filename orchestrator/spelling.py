"""Plugins as they are typed on a command line: a name, then options as KEY=VALUE, separated by spaces.

Values are TOML where they parse as such, else texts: `n=8`, `rule=window`, `by="verdict:prm"`. Where several are meant, a value may be a
list with commas, each taken in turn: `n=1,2,4`. Validating options is the registry's.
"""

from __future__ import annotations

import itertools
import shlex
import tomllib

from orchestrator.core.errors import PluginError
from orchestrator.core.types import PluginSpec


def one_spec(flag: str, text: str) -> PluginSpec:
    """Return the plugin that a text names. PluginError naming the flag when what follows the name is no KEY=VALUE."""
    name, pairs = _split(flag, text)
    return PluginSpec(name, {key: _value(value) for key, value in pairs})


def several_specs(flag: str, text: str) -> list[PluginSpec]:
    """Return the plugins that a text names: one for each combination of the listed values, the last option varying fastest."""
    name, pairs = _split(flag, text)
    keys = [key for key, _ in pairs]
    choices = [_values(value) for _, value in pairs]
    return [PluginSpec(name, dict(zip(keys, chosen, strict=True))) for chosen in itertools.product(*choices)]


def spelled(spec: PluginSpec) -> str:
    """Return a plugin as it is typed."""
    return " ".join([spec.name, *(f"{key}={value}" for key, value in spec.options.items())])


def _split(flag: str, text: str) -> tuple[str, list[tuple[str, str]]]:
    try:
        name, *pairs = shlex.split(text) or [""]
    except ValueError as error:
        raise PluginError(f"{flag} {text!r}: {error}") from error
    options = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise PluginError(f"{flag} {text!r}: after the name come options as KEY=VALUE, not {pair!r}")
        options.append((key, value))
    return name, options


def _values(text: str) -> list[object]:
    value = _value(text)
    return [_value(part) for part in text.split(",") if part] if isinstance(value, str) and "," in value else [value]


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
