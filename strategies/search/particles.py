"""Particle filtering over steps (Puri et al., arXiv 2502.01618): partial solutions are resampled in
proportion to their weight.

Where beam search keeps the best by a verifier that errs, a particle filter keeps a sample: a step
scored low goes on now and then. As in the authors' library
(github.com/Red-Hat-AI-Innovation-Team/its_hub) the weight of a particle is the softmax over all
particles of the logit of its latest score, resampling is multinomial after every step, and finished
particles take part in it with their last weight.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.steps import Steps
from orchestrator.core.values import Capability, Problem, Request
from orchestrator.kit.partial_solutions import PartialSolution, StepSampler, check_steps, step_needs

_CLIP = 1e-7  # as in the library: a score of 0 or 1 has no finite logit


@dataclass(frozen=True, slots=True)
class Particles:
    """Grows `n` particles for at most `steps` steps; `verifier` names the plan's verifier that
    scores partial solutions.
    """

    verifier: str
    n: int = 8
    steps: int = 40
    delimiter: str = "\n\n"
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n = {self.n}: at least 1")
        check_steps(self.steps, self.delimiter)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads."""
        return (self.verifier,)

    @property
    def needs(self) -> frozenset[Capability]:
        """Continuation, stop rules, and latent depth if one is asked for."""
        return step_needs(self.depth)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Grow those that are not finished, weigh all, resample."""
        grow = StepSampler(
            Request(model=self.model, depth=self.depth), self.verifier, self.delimiter
        )
        particles = [PartialSolution()] * self.n
        for step in range(self.steps):
            grown = yield from grow(
                [p for p in particles if not p.done], last=step == self.steps - 1
            )
            particles = [*(p for p in particles if p.done), *grown]
            if all(p.done for p in particles):
                return
            particles = rng.choices(particles, weights([p.scores[-1] for p in particles]), k=self.n)


def weights(scores: Sequence[float]) -> list[float]:
    """Return the softmax of the logits of scores in [0, 1], which is their odds, normalised."""
    clipped = [min(max(s, _CLIP), 1 - _CLIP) for s in scores]
    odds = [c / (1 - c) for c in clipped]
    total = math.fsum(odds)
    return [o / total for o in odds]
