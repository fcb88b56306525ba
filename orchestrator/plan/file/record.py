"""The record of a plan: as nested mappings, and as a plan file that loads back to the same plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import tomli_w

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import FewShot, Plan
from orchestrator.core.values import PluginSpec
from orchestrator.plan.execution import Execution

Table: TypeAlias = dict[str, Any]


def plan_document(plan: Plan, execution: Execution) -> dict[str, object]:
    """Return both as nested plain mappings in the layout of a plan file, in full.

    A job directory keeps this record.
    """
    table = {**dataclasses.asdict(execution), "engine": _spec_table(execution.engine)}
    prices, sinks = table.pop("prices"), table.pop("sinks")
    return {
        "domain": plan.domain,
        "seed": plan.seed,
        "answers_in_thinking": plan.answers_in_thinking,
        "verifiers": [_spec_table(spec) for spec in plan.verifiers],
        **({"sinks": [_spec_table(spec) for spec in execution.sinks]} if sinks else {}),
        "models": {name: dataclasses.asdict(model) for name, model in plan.models.items()},
        "strategy": _spec_table(plan.strategy),
        "selector": _spec_table(plan.selector),
        "sampling": dataclasses.asdict(plan.sampling),
        **({"few_shot": _few_shot_table(plan.few_shot)} if plan.few_shot.file else {}),
        "budget": dataclasses.asdict(plan.budget) | table.pop("budget"),
        "domains": {name: _spec_table(spec) for name, spec in plan.domains.items()},
        "supervision": table.pop("supervision"),
        "prices": {"gpu_hour": prices["gpu_hour"], **prices["pools"]},
        "execution": table,
    }


def _few_shot_table(few_shot: FewShot) -> Table:
    names = (f.name for f in dataclasses.fields(few_shot) if f.name != "examples")
    return {name: getattr(few_shot, name) for name in names}


def _spec_table(spec: PluginSpec) -> Table:
    return {"name": spec.name, **spec.options}


def plan_toml(
    plan: Plan,
    execution: Execution,
    *,
    problems: str = "",
    out: str = "",
    override: bool = True,
) -> str:
    """Return a plan file that loads back to the same plan and execution.

    `override` is the key `batch.override`. An option that is None is left out, because TOML has no
    null. PlanError for an option of a type that TOML lacks.
    """
    files = {name: text for name, text in (("problems", problems), ("out", out)) if text}
    batch = {} if override else {"batch": {"override": False}}
    try:
        return tomli_w.dumps(_without_none({**files, **batch, **plan_document(plan, execution)}))
    except TypeError as error:
        raise PlanError(
            f"{error}; options are texts, numbers, true, false, lists and tables"
        ) from error


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list | tuple) else value
