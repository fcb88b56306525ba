"""Checks of what requests carry beside text: tools that models may call, and media.

The one rule: what the model of a pool cannot be shown, or cannot answer with, is refused before
anything starts. Engines know their models: they have the last word (`require_tools`,
`require_media`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from orchestrator.core.errors import PlanFault
from orchestrator.core.plan import Plan, Settings
from orchestrator.core.values import TOOL_FIELDS
from orchestrator.plan.check.pools import EngineFacts, attempt_pools

_KEY = "sampling.extra"


class RowRequirement(Protocol):
    """Raises PlanFault for what a row of problems asks for and this plan cannot honour."""

    def __call__(self, settings: Settings, media: frozenset[str] = frozenset()) -> None:
        """Check a row's settings, and the kinds of media in it."""


_CHOICES = ("none", "auto", "required")


def tool_fields(extra: Mapping[str, object]) -> dict[str, object]:
    """Return what other parameters of sampling say of tools; {} without any tool."""
    return (
        {name: extra[name] for name in TOOL_FIELDS if name in extra} if extra.get("tools") else {}
    )


def check_tools(plan: Plan, strategy: object, engine: EngineFacts, backend: object) -> None:
    """Raise PlanFault unless a plan's tools are well-formed and its attempts can call them."""
    extra = plan.sampling.extra
    if not any(name in extra for name in TOOL_FIELDS):
        return
    _require_form(extra)
    if not engine.loads_models or not tool_fields(extra):
        return
    require = getattr(backend, "require_tools", None)
    if require is None:
        raise PlanFault(_KEY, f"{_KEY}.tools: the engine {engine.name!r} has no tools")
    require(extra, {name: plan.models[name] for name in attempt_pools(plan, strategy)})


def check_media(
    kinds: Collection[str], plan: Plan, strategy: object, engine: EngineFacts, backend: object
) -> None:
    """Raise PlanFault unless the models that make attempts take media of these kinds."""
    if not kinds or not engine.loads_models:
        return
    require = getattr(backend, "require_media", None)
    if require is None:
        raise PlanFault("messages", f"its messages have {_listed(kinds)}: {_no_media(engine.name)}")
    require(frozenset(kinds), {name: plan.models[name] for name in attempt_pools(plan, strategy)})


def no_media(kinds: Collection[str], path: str, can: Collection[str]) -> PlanFault:
    """Return the error of a model that takes none of these kinds of media."""
    takes = f"it takes {', '.join(sorted(can))} beside text" if can else "it takes text only"
    return PlanFault(
        "messages", f"its messages have {_listed(kinds)}, and {path!r} cannot: {takes}"
    )


def _no_media(engine: str) -> str:
    return f"the engine {engine!r} takes text only"


def _listed(kinds: Collection[str]) -> str:
    return " and ".join(sorted(kinds))


def _require_form(extra: Mapping[str, object]) -> None:
    tools = extra.get("tools")
    if tools is None or tools == []:
        raise PlanFault(
            _KEY, f"{_KEY}.tool_choice = {extra.get('tool_choice')!r}: there are no tools"
        )
    names = [_tool_name(tool) for tool in tools] if isinstance(tools, list | tuple) else [None]
    if None in names:
        raise PlanFault(
            _KEY,
            f"{_KEY}.tools: it must be a list of {{type = 'function', function = {{name = ..., "
            "parameters = ...}}}",
        )
    choice = extra.get("tool_choice", "auto")
    if choice not in _CHOICES and _tool_name(choice) not in names:
        raise PlanFault(
            _KEY,
            f"{_KEY}.tool_choice = {choice!r}: it must be {', '.join(_CHOICES)} or {{type = "
            f"'function', function = {{name = ...}}}} of: {', '.join(map(str, names))}",
        )
    if not isinstance(parallel := extra.get("parallel_tool_calls", True), bool):
        raise PlanFault(
            _KEY, f"{_KEY}.parallel_tool_calls = {parallel!r}: it must be true or false"
        )


def _tool_name(tool: object) -> str | None:
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        return None
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) and name else None
