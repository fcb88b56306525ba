"""Particle filtering over steps (Puri et al., arXiv 2502.01618).

Beam search keeps the best solutions by a verifier that may err; a particle filter keeps a sample,
so a step with a low score still continues sometimes. As in the authors' library
(github.com/Red-Hat-AI-Innovation-Team/its_hub), a particle's weight is the softmax over all
particles of the logit of its latest score. Resampling is multinomial after every step and includes
finished particles with their last weight.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Steps
from orchestrator.core.values import Problem
from orchestrator.kit.partial_solutions import PartialSolution
from strategies.search.step_options import ScoredStepOptions

_CLIP = 1e-7  # as in the library: a score of 0 or 1 has no finite logit


@dataclass(frozen=True, slots=True)
class Particles(ScoredStepOptions):
    """Resamples partial solutions by their scores; for verifiers that err."""

    n: Annotated[int, Meta(ge=1, description="Number of particles, which are solutions.")] = 8

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Extend unfinished particles, weight all particles, resample."""
        take_step, particles = self.sampler, [PartialSolution()] * self.n
        for step in range(self.steps):
            unfinished = [p for p in particles if not p.done]
            grown = yield from take_step(unfinished, last=step == self.steps - 1)
            particles = [*(p for p in particles if p.done), *grown]
            if all(p.done for p in particles):
                return
            odds = weights([p.scores[-1] for p in particles])
            particles = rng.choices(particles, odds, k=self.n)


def weights(scores: Sequence[float]) -> list[float]:
    """Return the softmax of the logits of scores in [0, 1], that is, their normalised odds."""
    clipped = [min(max(s, _CLIP), 1 - _CLIP) for s in scores]
    odds = [c / (1 - c) for c in clipped]
    total = math.fsum(odds)
    return [o / total for o in odds]
