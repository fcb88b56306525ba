"""Leadline: parallel test-time scaling for language models. Public names only; importing this loads no engine and no checker.

>>> import orchestrator
>>> orchestrator.solve("What is 17 + 25?", n=8).answer      # doctest: +SKIP
'42'
"""

from orchestrator.api import Solution, arun, run, solve, traces
from orchestrator.core.errors import FleetError, JobBusyError, JournalError, LeadlineError, PlanError, PluginError, StrategyError
from orchestrator.core.plan import Budget, Model, Plan, fingerprint
from orchestrator.core.steps import cancel, next_trace, sample, submit
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
from orchestrator.registry import domain, engine, selector, strategy, verifier

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
    "engine",
    "fingerprint",
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
