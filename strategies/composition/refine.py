"""Refinement of whatever another strategy finds: `refine(best_of_n(...))`, round after round.

Self-Refine (Madaan et al., arXiv 2303.17651) and sequential revision (Snell et al., arXiv
2408.03314, section 6) improve one attempt at a time. Here each round is an exploration of its own,
of any strategy, on a question to which the best solutions so far have been added; which those are,
any selector says. The prompt is ours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
    "Check what is above step by step and look for mistakes. Then solve the problem again, complete and in the form that was asked for. "
    "Keep what is right; if you find no mistake, keep the answer."
)


@dataclass(frozen=True, slots=True)
class Refine:
    """Runs `inner` on the question, then `rounds` times more on the question with the `shown`
    leading solutions, asking for a better one.

    What leads is said by `select`, of the last round in which anybody stated an answer. The last
    round is what counts: the selector is `final` with `select` as its vote.
    """

    parts: ClassVar[Mapping[str, str]] = {"inner": "strategies", "select": "selectors"}

    inner: Any = "consistency n=4"  # the strategy of every round
    select: Any = "majority"  # which answers lead, and whose text is shown
    rounds: int = 2
    shown: int = 1  # solutions that a round is shown, of different answers

    def __post_init__(self) -> None:
        for name, least in (("rounds", 0), ("shown", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: at least {least}")

    @property
    def n_planned(self) -> int | None:
        """How many traces full sampling takes, where `inner` says so."""
        return (getattr(self.inner, "n_planned", None) or 0) * (self.rounds + 1) or None

    @property
    def selector(self) -> PluginSpec:
        """The vote of the last round."""
        return PluginSpec("final", {"vote": self.select})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Explore round after round."""
        setting = Overrides()
        for _ in range(self.rounds + 1):
            explored = yield from run_inner(self.inner, problem, rng, setting)
            setting = self._next(problem, explored) or setting

    def _next(self, problem: Problem, explored: Exploration) -> Overrides | None:
        """Return what the next round is asked; None when this one brought no answer, and so nothing
        to improve.
        """
        leading = representatives(explored, self.select, self.shown)
        if not leading:
            return None
        return Overrides(
            next_turn(problem.prompt, numbered_solutions(leading), IMPROVE),
            subjects=tuple(t.ordinal for t in leading),
        )
