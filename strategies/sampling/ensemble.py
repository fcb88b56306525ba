"""A weighted ensemble of models (Best-of-infinity, arXiv 2509.21091, section 4).

The weights come from labelled questions, by `orchestrator.studies.ensembles`, or from prior
knowledge. The vote is over all attempts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Steps, ask_each
from orchestrator.core.values import Problem, Request
from orchestrator.kit.options import LARGEST, ModelPoolsOptions, PlannedAttempts


@dataclass(frozen=True, slots=True)
class Ensemble(PlannedAttempts, ModelPoolsOptions):
    """Samples each attempt from one of several models, drawn by weight."""

    models: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="Model pools of the plan from which attempts are drawn."),
    ]
    weights: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=LARGEST)], ...],
        Meta(
            description="Relative frequency of each model, in the order of `models`, not all zero; "
            "empty for equal ones."
        ),
    ] = ()
    n: Annotated[int, Meta(ge=1, description="Number of attempts.")] = 16

    def __post_init__(self) -> None:
        if self.weights and (len(self.weights) != len(self.models) or not any(self.weights)):
            raise ValueError(
                f"weights = {list(self.weights)}: give one for each of {len(self.models)} models, "
                "not all zero"
            )

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Draw all models, start all attempts, wait for them."""
        models = rng.choices(self.models, self.weights or None, k=self.n)
        yield from ask_each([Request(model=model, depth=self.depth) for model in models])
