"""Plans as documents: nested plain mappings for a job's record, and TOML that `orchestrator.planfile` loads back to the same plan."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.core.plan import Plan
from orchestrator.core.types import PluginSpec
from orchestrator.fleet import Fleet


def plan_document(plan: Plan, fleet: Fleet) -> dict[str, object]:
    """Return both as nested plain mappings in the layout of a plan file, in full: the record that a job directory keeps."""
    scalars: Table = {"domain": plan.domain, "seed": plan.seed}
    specs = {"strategy": _spec_table(plan.strategy), "selector": _spec_table(plan.selector)}
    fleet_keys = {f.name: getattr(fleet, f.name) for f in dataclasses.fields(fleet) if f.name != "engine"}
    return {
        **scalars,
        **specs,
        "sampling": _plain(dataclasses.asdict(plan.sampling)),
        "budget": dataclasses.asdict(plan.budget),
        "models": {name: dataclasses.asdict(model) for name, model in plan.models.items()},
        "domains": {name: _spec_table(spec) for name, spec in plan.domains.items()},
        "verifiers": [_spec_table(spec) for spec in plan.verifiers],
        "fleet": {**fleet_keys, "engine": _spec_table(fleet.engine)},
    }


def plan_toml(plan: Plan, fleet: Fleet, files: Files = Files()) -> str:
    """Return a plan file that loads back to the same. An option that is None is left out: TOML has no such value."""
    own = {name: value for name, value in dataclasses.asdict(files).items() if value not in ("", "auto")}
    document = {**own, **plan_document(plan, fleet)}
    if not plan.domains:
        del document["domains"]
    lines = list(_toml_lines(document, ()))
    return "\n".join(lines) + "\n"


def _spec_table(spec: PluginSpec) -> Table:
    return {"name": spec.name, **{name: _plain(value) for name, value in spec.options.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield a table's own values first, then its tables: what follows a header in TOML belongs to it."""
    tables = {name: value for name, value in table.items() if isinstance(value, Mapping) and len(path) < 2}
    for name, value in table.items():
        if name not in tables and value is not None:
            yield f"{_toml_key(name)} = {toml_value(value)}"
    for name, value in tables.items():
        inner = (*path, name)
        yield f"\n[{'.'.join(map(_toml_key, inner))}]"
        yield from _toml_lines(value, inner)


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_value(name)


def toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(inner) for inner in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
