"""Self-consistency: a fixed number of independent attempts (Wang et al., arXiv 2203.11171)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Steps, sample
from orchestrator.core.values import Problem
from orchestrator.kit.options import ModelOptions


@dataclass(frozen=True, slots=True)
class Consistency(ModelOptions):
    """Samples `n` independent attempts and votes; the baseline for any model."""

    n: Annotated[int, Meta(ge=1, description="Number of attempts; all of them finish.")] = 16

    @property
    def n_planned(self) -> int:
        """How many attempts full sampling takes."""
        return self.n

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Start all `n` attempts at once and wait for them."""
        yield from sample(self.n, self.request)
