"""The record of a plan: as nested mappings, and as a plan file that loads back to the same plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import tomli_w

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec
from orchestrator.plan.execution import Execution

Table: TypeAlias = dict[str, Any]


def plan_document(plan: Plan, execution: Execution) -> dict[str, object]:
    """Return both as nested plain mappings in the layout of a plan file, in full.

    A job directory keeps this record.
    """
    table = {**dataclasses.asdict(execution), "engine": _spec_table(execution.engine)}
    prices = table.pop("prices")
    return {
        "domain": plan.domain,
        "seed": plan.seed,
        "answers_in_thinking": plan.answers_in_thinking,
        "verifiers": [_spec_table(spec) for spec in plan.verifiers],
        "models": {name: dataclasses.asdict(model) for name, model in plan.models.items()},
        "strategy": _spec_table(plan.strategy),
        "selector": _spec_table(plan.selector),
        "sampling": dataclasses.asdict(plan.sampling),
        "budget": dataclasses.asdict(plan.budget) | table.pop("budget"),
        "domains": {name: _spec_table(spec) for name, spec in plan.domains.items()},
        "supervision": table.pop("supervision"),
        "prices": {"gpu_hour": prices["gpu_hour"], **prices["pools"]},
        "execution": table,
    }


def _spec_table(spec: PluginSpec) -> Table:
    return {"name": spec.name, **spec.options}


def plan_toml(plan: Plan, execution: Execution, *, problems: str = "", out: str = "") -> str:
    """Return a plan file that loads back to the same plan and execution.

    An option that is None is left out, because TOML has no null. PlanError for an option of a type
    that TOML lacks.
    """
    files = {name: text for name, text in (("problems", problems), ("out", out)) if text}
    try:
        return tomli_w.dumps(_without_none({**files, **plan_document(plan, execution)}))
    except TypeError as error:
        raise PlanError(
            f"{error}; options are texts, numbers, true, false, lists and tables"
        ) from error


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list | tuple) else value
