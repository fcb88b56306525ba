"""Whether a plan can run: ranges, plugins, and what engine and model pools are able to do."""

from orchestrator.plan.check.plan import check_plan, row_requirement
from orchestrator.plan.check.pools import THINKING, depth_requests, without_limit

__all__ = ["THINKING", "check_plan", "depth_requests", "row_requirement", "without_limit"]
