"""Self-consistency: a fixed number of independent traces, all of them finished (Wang et al., arXiv
2203.11171).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from orchestrator.core.steps import Steps, depth_needs, sample
from orchestrator.core.values import Capability, Problem, Request


@dataclass(frozen=True, slots=True)
class Consistency:
    """Samples `n` traces of `model` ("" is the plan's first) at `depth` (None is as the model
    ships).
    """

    n: int = 16
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n = {self.n}: at least one trace is needed")

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Start all `n` at once and wait for them."""
        yield from sample(self.n, Request(model=self.model, depth=self.depth))
