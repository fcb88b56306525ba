"""Whether a plan can run: ranges, plugins, and what engine and model pools are able to do."""

from orchestrator.plan.check.adapters import resolve_adapter, shared_engines
from orchestrator.plan.check.content import RowRequirement, no_media, tool_fields
from orchestrator.plan.check.plan import check_plan, row_requirement
from orchestrator.plan.check.pools import NOISE, THINKING, depth_requests, without_limit

__all__ = [
    "NOISE",
    "THINKING",
    "RowRequirement",
    "check_plan",
    "depth_requests",
    "no_media",
    "resolve_adapter",
    "row_requirement",
    "shared_engines",
    "tool_fields",
    "without_limit",
]
