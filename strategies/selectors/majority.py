"""Plurality, the vote that all others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import tally, voters


@dataclass(frozen=True, slots=True)
class Majority:
    """Plurality vote, one vote for each attempt; needs no scores."""

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by count."""
        return tally(voters(traces))
