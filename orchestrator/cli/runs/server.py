"""`--server URL`: a command's plan where the engines of a running service are used.

The one rule: the service's engine runs the service's models, so a plan that has other ones is
refused by name; everything else of a plan is the command's own.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path

from orchestrator.cli.inputs import read_plan
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.core.protocols import EngineFactory
from orchestrator.plan.file import LoadedPlan

_ENGINE = "execution.engine"


def read_served_plan(
    path: str | Path | None, flags: Mapping[str, str], server: str | None, *, is_batch: bool
) -> tuple[LoadedPlan, EngineFactory | None]:
    """Return a plan, and the engines of the service where there is one.

    Without a file, the service's plan is the default. `is_batch`: the service serves people first.
    """
    if not server:
        return read_plan(path, flags), None
    from orchestrator.serve.sharing.remote import RemoteEngines, connect

    engine_flag = next((f for f in flags if f == _ENGINE or f.startswith(f"{_ENGINE}.")), None)
    if engine_flag:
        raise PlanError(
            f"--{engine_flag} starts an engine, and --server uses one that runs: remove one of them"
        )
    found = connect(server)
    tables = tomllib.loads(found.description.plan)
    loaded = read_plan(path, flags, tables)
    theirs = {name: Model(**table) for name, table in tables["models"].items()}
    _require_models(loaded.plan.models, theirs, server)
    return loaded, RemoteEngines(found, loaded.execution.engine, is_batch)


def _require_models(own: Mapping[str, Model], theirs: Mapping[str, Model], server: str) -> None:
    """Refuse models that the service does not run, naming the first difference."""
    remedy = "start the server with this plan, or leave --server out"
    first, first_there = next(iter(own)), next(iter(theirs))  # of requests that name none
    if first in theirs and first != first_there:
        raise PlanError(
            f"the first model is models.{first}, and that of {server} is models.{first_there}; "
            f"{remedy}"
        )
    for name, model in own.items():
        if name not in theirs:
            raise PlanError(
                f"models.{name} is not a model of {server}, which has: {', '.join(theirs)}; "
                f"{remedy}"
            )
        for field in dataclasses.fields(Model):
            here, there = getattr(model, field.name), getattr(theirs[name], field.name)
            if here != there:
                raise PlanError(
                    f"models.{name}.{field.name} is {here!r}, and {server} has {there!r}; {remedy}"
                )
