"""Self-consistency: a fixed number of independent attempts (Wang et al., arXiv 2203.11171)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from orchestrator.core.steps import Steps, sample
from orchestrator.core.values import Problem
from orchestrator.kit.options import AttemptOptions


@dataclass(frozen=True, slots=True)
class Consistency(AttemptOptions):
    """Samples `n` independent attempts and votes; the baseline for any model."""

    @property
    def is_one_request(self) -> bool:
        """Whether there is one attempt, which is the reply."""
        return self.n == 1

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Start all `n` attempts at once and wait for them."""
        yield from sample(self.n, self.request)
