"""Refines the solutions of another strategy in rounds: `refine(best_of_n(...))`.

Self-Refine (Madaan et al., arXiv 2303.17651) and sequential revision (Snell et al., arXiv
2408.03314, section 6) improve one attempt at a time. Here each round is a whole exploration, by any
strategy, of the question together with the best solutions of the previous round, which a selector
chooses. The prompt is ours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from orchestrator.core.steps import Steps
from orchestrator.core.values import PluginSpec, Problem
from orchestrator.kit.compose import (
    Exploration,
    Overrides,
    numbered_solutions,
    representatives,
    run_inner,
)
from orchestrator.kit.prompts import next_turn

IMPROVE = (
    "Check what is above step by step and look for mistakes. Then solve the problem again, "
    "complete and in the form that was asked for. Keep what is right; if you find no mistake, keep "
    "the answer."
)


@dataclass(frozen=True, slots=True)
class Refine:
    """Repeats a strategy, each round shown the best solutions so far.

    The solutions shown are from the last round in which an attempt gave an answer. Only the last
    round votes: the selector is `final` with `select` as its vote.
    """

    parts: ClassVar[Mapping[str, str]] = {"inner": "strategies", "select": "selectors"}

    inner: Annotated[Any, Meta(description="Strategy of every round, with its options.")] = (
        "consistency n=4"
    )
    select: Annotated[
        Any,
        Meta(description="Selector that ranks answers and chooses the solutions to show."),
    ] = "majority"
    rounds: Annotated[
        int, Meta(ge=0, description="Number of rounds of refinement after the first one.")
    ] = 2
    shown: Annotated[
        int,
        Meta(ge=1, description="Number of leading solutions shown, each of a different answer."),
    ] = 1

    @property
    def n_planned(self) -> int | None:
        """The number of attempts of full sampling; None if `inner` has no number."""
        return (getattr(self.inner, "n_planned", None) or 0) * (self.rounds + 1) or None

    @property
    def selector(self) -> PluginSpec:
        """The vote of the last round."""
        return PluginSpec("final", {"vote": self.select})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Explore round after round."""
        overrides = Overrides()
        for _ in range(self.rounds + 1):
            explored = yield from run_inner(self.inner, problem, rng, overrides)
            overrides = self._next(problem, explored) or overrides

    def _next(self, problem: Problem, explored: Exploration) -> Overrides | None:
        """Return the prompt of the next round; None when this round has no answer to improve."""
        leading = representatives(explored, self.select, self.shown)
        if not leading:
            return None
        return Overrides(
            next_turn(problem.prompt, numbered_solutions(leading), IMPROVE),
            subjects=tuple(t.ordinal for t in leading),
        )
