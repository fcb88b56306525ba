"""Leadline: parallel test-time scaling for language models.

Only the public names live here. Importing the package loads no engine and no answer checker.

>>> import orchestrator
>>> orchestrator.solve("What is 17 + 25?", n=8).answer      # doctest: +SKIP
'42'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api.accuracy import accuracy
    from orchestrator.api.problems import read_problems
    from orchestrator.api.results import Results, Solution
    from orchestrator.api.run import arun, asolve, run, solve
    from orchestrator.api.traces import traces
    from orchestrator.core.errors import (
        BudgetSpent,
        EngineError,
        JobBusyError,
        JournalError,
        LeadlineError,
        NoVerdict,
        PlanError,
        PluginError,
        StrategyError,
        TooManyFailed,
        Unavailable,
    )
    from orchestrator.core.plan import Budget, Model, Plan, fingerprint
    from orchestrator.core.steps import cancel, drop, next_trace, sample, submit
    from orchestrator.core.values import (
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
    from orchestrator.plan.execution import (
        Execution,
        JobBudget,
        Prices,
        Supervision,
        TokenPrices,
    )
    from orchestrator.plan.registry import (
        domain,
        engine,
        selector,
        similarity,
        sink,
        strategy,
        verifier,
    )
    from orchestrator.report.tables.frames import Frames, frames
    from orchestrator.runtime.sinks.events import (
        ProblemFinished,
        RunEnded,
        RunStarted,
        TraceFinished,
    )

__all__ = [
    "Answer",
    "Budget",
    "BudgetSpent",
    "Capability",
    "Cluster",
    "EngineError",
    "Execution",
    "Finish",
    "Frames",
    "JobBudget",
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
    "Prices",
    "Problem",
    "ProblemFinished",
    "Purpose",
    "Request",
    "Result",
    "Results",
    "RunEnded",
    "RunStarted",
    "Sampling",
    "Solution",
    "Status",
    "StrategyError",
    "Supervision",
    "TokenPrices",
    "TooManyFailed",
    "Trace",
    "TraceFinished",
    "Unavailable",
    "Usage",
    "Verdict",
    "accuracy",
    "arun",
    "asolve",
    "cancel",
    "domain",
    "drop",
    "engine",
    "fingerprint",
    "frames",
    "next_trace",
    "read_problems",
    "run",
    "sample",
    "selector",
    "similarity",
    "sink",
    "solve",
    "strategy",
    "submit",
    "traces",
    "verifier",
]

_HOMES = {
    "orchestrator.api.accuracy": ("accuracy",),
    "orchestrator.api.problems": ("read_problems",),
    "orchestrator.api.results": ("Results", "Solution"),
    "orchestrator.api.run": ("arun", "asolve", "run", "solve"),
    "orchestrator.api.traces": ("traces",),
    "orchestrator.core.errors": (
        "BudgetSpent",
        "EngineError",
        "JobBusyError",
        "JournalError",
        "LeadlineError",
        "NoVerdict",
        "PlanError",
        "PluginError",
        "StrategyError",
        "TooManyFailed",
        "Unavailable",
    ),
    "orchestrator.core.plan": ("Budget", "Model", "Plan", "fingerprint"),
    "orchestrator.core.steps": ("cancel", "drop", "next_trace", "sample", "submit"),
    "orchestrator.core.values": (
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
    "orchestrator.plan.execution": (
        "Execution",
        "JobBudget",
        "Prices",
        "Supervision",
        "TokenPrices",
    ),
    "orchestrator.plan.registry": (
        "domain",
        "engine",
        "selector",
        "similarity",
        "sink",
        "strategy",
        "verifier",
    ),
    "orchestrator.report.tables.frames": ("Frames", "frames"),
    "orchestrator.runtime.sinks.events": (
        "ProblemFinished",
        "RunEnded",
        "RunStarted",
        "TraceFinished",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first access, which keeps importing the package cheap."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
