"""`--server URL`: a command's plan where the engines of a running service are used.

The one rule: the service's engine runs the service's models, so a plan that has other ones is
refused by name; everything else of a plan is the command's own. Without an address, a service is
used whose engine is the plan's, if the command finds one once it needs an engine.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from orchestrator.cli.console import message
from orchestrator.cli.inputs import read_plan
from orchestrator.cli.options import NO_SERVER, DisplayOptions
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.core.protocols import EngineFactory
from orchestrator.plan.file import LoadedPlan

_ENGINE = "execution.engine"
EngineSource: TypeAlias = Callable[[], EngineFactory | None]


def read_served_plan(
    path: str | Path | None,
    flags: Mapping[str, str],
    server: str | None,
    display: DisplayOptions,
    *,
    is_batch: bool,
) -> tuple[LoadedPlan, EngineSource]:
    """Return a plan, and what returns the engines of a service once the command needs them.

    They are None where the command starts its own. Without a file, the plan of the service at an
    address is the default. `is_batch`: the service serves people first.
    """
    if not is_address(server):
        loaded = read_plan(path, flags)
        return loaded, lambda: None if server else _found_engines(loaded, display, is_batch)
    assert server is not None
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
    remote = RemoteEngines(found, loaded.execution.engine, is_batch)
    return loaded, lambda: remote


def is_address(server: str | None) -> bool:
    """Tell whether --server names a service."""
    return server not in (None, "", NO_SERVER)


def _found_engines(
    loaded: LoadedPlan, display: DisplayOptions, is_batch: bool
) -> EngineFactory | None:
    """Return the engines of a service of this user that has those of the plan; None without one."""
    from orchestrator.serve.sharing.remote import RemoteEngines, found_server

    def note(text: str) -> None:
        if not display.quiet:
            message(f"note: {text}")

    found = found_server(loaded.plan, loaded.execution, note)
    if found is None:
        return None
    if not display.quiet:
        message(
            f"using the engines of the server at {found.root}; --server {NO_SERVER} starts others"
        )
    return RemoteEngines(found, loaded.execution.engine, is_batch)


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
