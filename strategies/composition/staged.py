"""Strategies one after another, each only where those before it have not decided the vote: cheap
first, thorough where it is needed.

What agreement cascades do with models (Yue et al., arXiv 2310.03094; strategy `cascade`), done with
strategies: all stages work on one question and their traces vote together.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core.steps import Steps
from orchestrator.core.values import PluginSpec, Problem, Trace
from orchestrator.core.votes import agreement
from orchestrator.kit.compose import run_inner


@dataclass(frozen=True, slots=True)
class Staged:
    """Runs `stages` in turn, and stops after the first one when at least the share `agreement` of
    all attempts so far state one answer.

    Attempts that state no answer count against it. The selector is that of the last stage that has
    one of its own, else the majority.
    """

    parts: ClassVar[Mapping[str, str]] = {"stages": "strategies"}

    stages: tuple[Any, ...] = ("consistency n=4", "revise chains=4 revisions=2")
    agreement: float = 0.75

    def __post_init__(self) -> None:
        if not self.stages or None in self.stages:
            raise ValueError(
                f"stages = {list(self.stages)}: name at least one strategy, and none empty"
            )
        if not 0 < self.agreement <= 1:
            raise ValueError(f"agreement = {self.agreement}: a share, 0 < agreement <= 1")

    @property
    def n_planned(self) -> int | None:
        """How many traces full sampling takes, where every stage says so."""
        sizes = [getattr(stage, "n_planned", None) for stage in self.stages]
        return None if None in sizes else sum(n for n in sizes if n is not None)

    @property
    def selector(self) -> PluginSpec:
        """The vote that the last stage's decisions are about."""
        own = [
            spec
            for stage in self.stages
            if isinstance(spec := getattr(stage, "selector", None), PluginSpec)
        ]
        return own[-1] if own else PluginSpec("majority")

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Explore stage after stage."""
        attempts: list[Trace] = []
        for stage in self.stages:
            attempts += (yield from run_inner(stage, problem, rng)).attempts
            if agreement(attempts) >= self.agreement:
                return
