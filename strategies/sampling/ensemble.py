"""A weighted ensemble of models (Best-of-infinity, arXiv 2509.21091, section 4): each trace is
asked of a model drawn by its weight.

The weights come from labelled questions, by `orchestrator.studies.ensembles`, or from whoever knows
better. The vote is over all traces.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from orchestrator.core.steps import Steps, depth_needs, next_trace, submit
from orchestrator.core.values import Capability, Problem, Request


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Samples `n` traces, each of one of `models` drawn with its weight in `weights` (equal when
    empty).
    """

    models: tuple[str, ...]
    weights: tuple[float, ...] = ()
    n: int = 16
    depth: int | None = None

    def __post_init__(self) -> None:
        if not self.models or self.n < 1:
            raise ValueError(
                f"models = {list(self.models)}, n = {self.n}: name at least one pool, and take at least one trace"
            )
        sound = all(0 <= w < math.inf for w in self.weights) and (
            not self.weights or sum(self.weights) > 0
        )
        if not sound or (self.weights and len(self.weights) != len(self.models)):
            raise ValueError(
                f"weights = {list(self.weights)}: one for each of {len(self.models)} models, none negative, not all zero"
            )

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def pools(self) -> tuple[str, ...]:
        """The model pools it names."""
        return self.models

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Draw all models, start all traces, wait for them."""
        drawn = rng.choices(self.models, self.weights or None, k=self.n)
        for ordinal in (
            yield from submit([Request(model=model, depth=self.depth) for model in drawn])
        ):
            yield from next_trace((ordinal,))
