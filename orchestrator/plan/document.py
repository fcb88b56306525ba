"""Plans as documents: nested plain mappings for a job's record, and TOML that
`orchestrator.plan.file` loads back to the same plan.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.plan.execution import Execution

_DEPTH = 2  # of headers: [models.main], [execution.engine]; tables below them are written inline


def plan_document(plan: Plan, execution: Execution) -> dict[str, object]:
    """Return both as nested plain mappings in the layout of a plan file, in full: the record that a
    job directory keeps.
    """
    rest = {
        f.name: getattr(execution, f.name)
        for f in dataclasses.fields(execution)
        if f.name != "engine"
    }
    return {
        "domain": plan.domain,
        "seed": plan.seed,
        "verifiers": [_spec_table(spec) for spec in plan.verifiers],
        "models": {name: dataclasses.asdict(model) for name, model in plan.models.items()},
        "strategy": _spec_table(plan.strategy),
        "selector": _spec_table(plan.selector),
        "sampling": _plain(dataclasses.asdict(plan.sampling)),
        "budget": dataclasses.asdict(plan.budget),
        "domains": {name: _spec_table(spec) for name, spec in plan.domains.items()},
        "execution": {**rest, "engine": _spec_table(execution.engine)},
    }


def plan_toml(plan: Plan, execution: Execution, *, problems: str = "", out: str = "") -> str:
    """Return a plan file that loads back to the same.

    An option that is None is left out: TOML has no such value.
    """
    own = {name: value for name, value in (("problems", problems), ("out", out)) if value}
    return "\n".join(_lines({**own, **plan_document(plan, execution)}, ())).lstrip("\n") + "\n"


def _spec_table(spec: PluginSpec) -> dict[str, Any]:
    return {"name": spec.name, **{name: _plain(value) for name, value in spec.options.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield a table's own values first, then its tables: what follows a header in TOML belongs to
    it.
    """
    tables = {
        name: value
        for name, value in table.items()
        if isinstance(value, Mapping) and len(path) < _DEPTH
    }
    for name, value in table.items():
        if name not in tables and value is not None:
            yield f"{_key(name)} = {toml_value(value)}"
    for name, value in tables.items():
        inner = (*path, name)
        implied = (
            value
            and len(inner) < _DEPTH
            and all(isinstance(item, Mapping) for item in value.values())
        )
        if not implied:
            yield f"\n[{'.'.join(map(_key, inner))}]"
        yield from _lines(value, inner)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_value(name)


def toml_value(value: object) -> str:
    """Return a value as TOML, tables inline; PlanError when TOML has no such value."""
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items() if v is not None)
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(inner) for inner in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    raise PlanError(
        f"{value!r} cannot be written as TOML; options are texts, numbers, true, false, lists and tables"
    )
