"""Beam search and diverse verifier tree search (DVTS), with a verifier on each partial solution.

As in Hugging Face's search-and-learn (github.com/huggingface/search-and-learn) and Snell et al.
(arXiv 2408.03314), lookahead 0. Where we differ: a partial solution that already gives its answer
is complete, and pruned solutions stay in the pool, where a selector may use those with an answer.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps
from orchestrator.core.values import Problem
from orchestrator.kit.compose import gather
from orchestrator.kit.partial_solutions import Aggregate, PartialSolution, best, spread
from strategies.search.step_options import ScoredStepOptions


@dataclass(frozen=True, slots=True)
class _StepSearch(ScoredStepOptions):
    """`n` solutions, `width` next steps of each partial solution that continues."""

    n: Annotated[
        int, Meta(ge=1, description="Number of solutions that grow at once; a multiple of `width`.")
    ] = 4
    width: Annotated[
        int, Meta(ge=1, description="Number of next steps sampled for each partial solution.")
    ] = 4
    aggregate: Annotated[
        Aggregate,
        Meta(
            description="How the scores of a solution's steps become one number: the last one, the "
            "smallest, their product or their mean."
        ),
    ] = "last"

    def __post_init__(self) -> None:
        if self.n % self.width:
            raise ValueError(f"n = {self.n}, width = {self.width}: n must be a multiple of width")


@dataclass(frozen=True, slots=True)
class Beam(_StepSearch):
    """Keeps the best partial solutions after each step; needs a verifier.

    The best `n / width` are continued `width` times each.
    """

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Extend, keep the best, duplicate; completed solutions leave the beam."""
        take_step, beam = self.sampler, [PartialSolution()]
        for step in range(self.steps):
            grown = yield from take_step(spread(beam, self.n), last=step == self.steps - 1)
            beam = best([s for s in grown if not s.done], self.n // self.width, self.aggregate)
            if not beam:
                return


@dataclass(frozen=True, slots=True)
class Dvts(_StepSearch):
    """Grows independent trees of steps; more diverse than `beam`.

    In each of `n / width` trees, `width` next steps are tried and the best one continues. A tree
    ends when its best step is complete. Its last `width` candidates stay in the pool, so `n`
    solutions in all.
    """

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Grow all trees concurrently."""
        yield from gather(self._tree() for _ in range(self.n // self.width))

    def _tree(self) -> Generator[Command, Reply, None]:
        take_step, leading = self.sampler, PartialSolution()
        for step in range(self.steps):
            grown = yield from take_step([leading] * self.width, last=step == self.steps - 1)
            if not grown:
                return
            [leading] = best(grown, 1, self.aggregate)
            if leading.done:
                return
