"""Leadline: parallel test-time scaling for language models. Public names only; importing this loads no engine and no checker.

>>> import orchestrator
>>> orchestrator.solve("What is 17 + 25?", n=8).answer      # doctest: +SKIP
'42'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import Solution, arun, run, solve, traces
    from orchestrator.core.errors import (
        FleetError,
        JobBusyError,
        JournalError,
        LeadlineError,
        NoVerdict,
        PlanError,
        PluginError,
        StrategyError,
    )
    from orchestrator.core.plan import Budget, Model, Plan, fingerprint
    from orchestrator.core.steps import cancel, drop, next_trace, sample, submit
    from orchestrator.core.types import (
        Answer,
        Capability,
        Cluster,
        Finish,
        Message,
        PluginSpec,
        Problem,
        Purpose,
        Request,
        Result,
        Sampling,
        Status,
        Trace,
        Usage,
        Verdict,
    )
    from orchestrator.fleet import Fleet
    from orchestrator.registry import domain, engine, judge, selector, strategy, verifier

__all__ = [
    "Answer",
    "Budget",
    "Capability",
    "Cluster",
    "Finish",
    "Fleet",
    "FleetError",
    "JobBusyError",
    "JournalError",
    "LeadlineError",
    "Message",
    "Model",
    "NoVerdict",
    "Plan",
    "PlanError",
    "PluginError",
    "PluginSpec",
    "Problem",
    "Purpose",
    "Request",
    "Result",
    "Sampling",
    "Solution",
    "Status",
    "StrategyError",
    "Trace",
    "Usage",
    "Verdict",
    "arun",
    "cancel",
    "domain",
    "drop",
    "engine",
    "fingerprint",
    "judge",
    "next_trace",
    "run",
    "sample",
    "selector",
    "solve",
    "strategy",
    "submit",
    "traces",
    "verifier",
]

_HOMES = {
    "orchestrator.api": ("Solution", "arun", "run", "solve", "traces"),
    "orchestrator.core.errors": (
        "FleetError",
        "JobBusyError",
        "JournalError",
        "LeadlineError",
        "NoVerdict",
        "PlanError",
        "PluginError",
        "StrategyError",
    ),
    "orchestrator.core.plan": ("Budget", "Model", "Plan", "fingerprint"),
    "orchestrator.core.steps": ("cancel", "drop", "next_trace", "sample", "submit"),
    "orchestrator.core.types": (
        "Answer",
        "Capability",
        "Cluster",
        "Finish",
        "Message",
        "PluginSpec",
        "Problem",
        "Purpose",
        "Request",
        "Result",
        "Sampling",
        "Status",
        "Trace",
        "Usage",
        "Verdict",
    ),
    "orchestrator.fleet": ("Fleet",),
    "orchestrator.registry": ("domain", "engine", "judge", "selector", "strategy", "verifier"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is first asked for, so that importing the package costs next to nothing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
