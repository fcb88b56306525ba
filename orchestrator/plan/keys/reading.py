"""Reads the sections of a plan by the table of keys; an error names key, value and requirement."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, get_type_hints

import msgspec

from orchestrator.core.errors import PlanFault
from orchestrator.core.plan import Budget
from orchestrator.core.values import PluginSpec
from orchestrator.plan.execution import JobBudget, Prices, TokenPrices
from orchestrator.plan.keys.fields import FieldInfo, field_info, type_text
from orchestrator.plan.keys.table import KEYS, NESTED, POOL, PRICE, SECTIONS


def keys() -> list[FieldInfo]:
    """Return every fixed key but those of a model pool, in the order of the table."""
    of_pools = (f"{POOL}.", f"{PRICE}.")
    return [_key_info(name) for name in KEYS if not name.startswith(of_pools)]


def markdown_table() -> str:
    """Return all fixed keys as a table for the documentation."""
    lines = ["| key | type | default | range | meaning |", "| --- | --- | --- | --- | --- |"]
    for info in map(_key_info, KEYS):
        cells = (f"`{info.name}`", info.kind, f"`{info.default}`", info.range, info.description)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read_section(section: str, table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a section, each as its field's type.

    `prefix` is the section's name in this plan if that differs from its name in `SECTIONS`.
    PlanFault for an unknown key, a wrong type or a value out of range.
    """
    prefix = prefix or section
    hints = _hints(section)
    refuse_unknown(table, hints, prefix)
    values = {}
    for name, value in table.items():
        try:  # a float of NumPy is a float
            plain = float(value) if isinstance(value, float) else value
            values[name] = msgspec.convert(plain, hints[name])
        except msgspec.ValidationError as error:
            raise _out_of_range(section, prefix, name, value) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise _out_of_range(section, prefix, name, value)
    return values


def table_of(value: object, key: str) -> dict[str, Any]:
    """Return a copy of a table; PlanFault, naming the key, for anything else."""
    if not isinstance(value, dict):
        raise PlanFault(
            key, f"{key} = {value!r}: it must be a table; write [{key}] and its keys below"
        )
    return dict(value)


def read_budgets(value: object) -> tuple[Budget, JobBudget]:
    """Return the limits of a problem and those of the job from the table [budget]."""
    values = read_section("budget", table_of(value, "budget"))
    of_job = {f.name for f in dataclasses.fields(JobBudget)} & values.keys()
    job = JobBudget(**{name: values.pop(name) for name in of_job})
    return Budget(**values), job


def read_prices(value: object, pools: Collection[str]) -> Prices:
    """Return the table [prices]; `pools` are the names of the plan's models."""
    table = table_of(value, "prices")
    own = {name: table.pop(name) for name in _hints("prices") if name in table}
    require_pools(table, pools)
    prices = {
        name: TokenPrices(**read_section(PRICE, table_of(one, key), key))
        for name, one in table.items()
        if (key := f"prices.{name}")
    }
    return Prices(**read_section("prices", own), pools=prices)


def require_pools(priced: Iterable[str], pools: Collection[str]) -> None:
    """Raise PlanFault for a price of a model that the plan does not have."""
    for name in priced:
        if name not in pools:
            raise PlanFault(
                f"prices.{name}",
                f"prices.{name}: the plan has no model {name!r}{near(name, pools)}; it has: "
                f"{', '.join(pools)}. Prices are by model: [prices.{next(iter(pools))}] input, "
                "output",
            )


def key_type(section: str, name: str) -> str:
    """Return the type of a key as Python source; "" if there is no such key."""
    hints = _hints(section) if section in SECTIONS else {}
    return type_text(hints[name]) if name in hints else ""


def refuse_unknown(table: Iterable[str], known: Collection[str], prefix: str) -> None:
    """Raise PlanFault for the first key that is not known, with the near match."""
    for key in table:
        if key not in known:
            name, hint = _dotted(prefix, key), near(key, known) or _near_elsewhere(key)
            there = ", ".join(sorted(known))
            raise PlanFault(name, f"there is no key {name!r}{hint}; there are: {there}")


def _out_of_range(section: str, prefix: str, name: str, value: object) -> PlanFault:
    key, expected = _dotted(prefix, name), _key_info(_dotted(section, name)).expected
    return PlanFault(key, f"{key} = {value!r}: it must be {expected}")


def _near_elsewhere(key: str) -> str:
    """Return a suggestion, as `near` does, for a key that belongs at another level of the plan."""
    homes = {info.name.rpartition(".")[2]: info.name for info in keys()}
    matches = difflib.get_close_matches(key, homes, n=1, cutoff=0.8)
    return f" (did you mean {homes[matches[0]]!r}?)" if matches else ""


def near(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known word, or ""."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


@functools.cache
def _hints(section: str) -> Mapping[str, Any]:
    """Return the types of a section's keys, annotated with their entries in the table."""
    hints = {}
    for name, hint in get_type_hints(SECTIONS[section]).items():
        if hint in NESTED:  # a table of its own
            continue
        meta = KEYS[_dotted(section, name)]
        if hint is PluginSpec:
            hint = str
        elif item := (meta.extra or {}).get("item"):
            is_optional = hint == (float | None)
            hint = (
                Annotated[float, item] | None if is_optional else tuple[Annotated[str, item], ...]
            )
        hints[name] = Annotated[hint, meta]
    return hints


@functools.cache
def _key_info(key: str) -> FieldInfo:
    section, _, name = key.rpartition(".")
    field = next(f for f in dataclasses.fields(SECTIONS[section]) if f.name == name)
    info = field_info(field, _hints(section)[name])
    if field.default is not dataclasses.MISSING:
        default = getattr(field.default, "name", field.default)  # of a plugin its name
        text = "" if default is None else json.dumps(default, ensure_ascii=False)
        info = dataclasses.replace(info, default=text)
    return dataclasses.replace(info, name=key)
