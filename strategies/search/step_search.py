"""Search over steps with a verifier on each partial solution: beam search and diverse verifier tree
search (DVTS).

As in Hugging Face's search-and-learn (github.com/huggingface/search-and-learn) and Snell et al.
(arXiv 2408.03314), lookahead 0. Where we differ: a partial solution that already states its answer
is complete, and what the search has pruned stays in the pool, where a selector may see it if it
states an answer.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass

from orchestrator.core.steps import Command, Reply, Steps
from orchestrator.core.values import Capability, Problem, Request
from orchestrator.kit.compose import gather
from orchestrator.kit.partial_solutions import (
    Aggregate,
    PartialSolution,
    StepSampler,
    best,
    check_steps,
    spread,
    step_needs,
)


@dataclass(frozen=True, slots=True)
class Beam:
    """Keeps `n` solutions growing: after each step the best `n / width` are continued `width` times
    each, at most `steps` steps.

    `verifier` names the plan's verifier that scores partial solutions; `aggregate` makes one number
    of a solution's scores.
    """

    verifier: str
    n: int = 4
    width: int = 4
    steps: int = 40
    delimiter: str = "\n\n"
    aggregate: Aggregate = "last"
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        _check_width(self.n, self.width)
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
        """Grow, keep the best, duplicate; what is complete leaves the beam."""
        grow = StepSampler(
            Request(model=self.model, depth=self.depth), self.verifier, self.delimiter
        )
        stems = [PartialSolution()]
        for step in range(self.steps):
            grown = yield from grow(spread(stems, self.n), last=step == self.steps - 1)
            stems = best([s for s in grown if not s.done], self.n // self.width, self.aggregate)
            if not stems:
                return


@dataclass(frozen=True, slots=True)
class Dvts:
    """Grows `n / width` trees apart from each other: in each, `width` next steps are tried and the
    best one goes on, at most `steps` steps.

    A tree ends when its best step is complete. Its last `width` candidates stay in the pool, so `n`
    solutions in all.
    """

    verifier: str
    n: int = 4
    width: int = 4
    steps: int = 40
    delimiter: str = "\n\n"
    aggregate: Aggregate = "last"
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        _check_width(self.n, self.width)
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
        """Grow all trees side by side."""
        grow = StepSampler(
            Request(model=self.model, depth=self.depth), self.verifier, self.delimiter
        )
        yield from gather(self._tree(grow) for _ in range(self.n // self.width))

    def _tree(self, grow: StepSampler) -> Generator[Command, Reply, None]:
        stem = PartialSolution()
        for step in range(self.steps):
            leading = best(
                (yield from grow([stem] * self.width, last=step == self.steps - 1)),
                1,
                self.aggregate,
            )
            if not leading or leading[0].done:
                return
            stem = leading[0]


def _check_width(n: int, width: int) -> None:
    if width < 1 or n < width or n % width:
        raise ValueError(
            f"n = {n}, width = {width}: n must be a multiple of width, and both at least 1"
        )
