"""Strategies one after another, each only where those before it have not decided the vote.

What agreement cascades do with models (Yue et al., arXiv 2310.03094; strategy `cascade`), done with
strategies: all stages work on one question and their attempts vote together.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from orchestrator.core.steps import Steps
from orchestrator.core.values import PluginSpec, Problem, Trace
from orchestrator.core.votes import agreement
from orchestrator.kit.compose import run_inner


@dataclass(frozen=True, slots=True)
class Staged:
    """Runs strategies in turn, cheap ones first, until the attempts agree.

    The selector is that of the last stage that has one of its own, else the majority.
    """

    parts: ClassVar[Mapping[str, str]] = {"stages": "strategies"}

    stages: Annotated[
        tuple[Any, ...],
        Meta(min_length=1, description="Strategies in the order they run, with their options."),
    ] = ("consistency n=4", "revise chains=4 revisions=2")
    agreement: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Share of all attempts so far that must state one answer to stop; attempts "
            "without an answer count against it.",
        ),
    ] = 0.75

    def __post_init__(self) -> None:
        if None in self.stages:
            raise ValueError(f"stages = {list(self.stages)}: none of them may be empty")

    @property
    def n_planned(self) -> int | None:
        """How many attempts full sampling takes, where every stage knows."""
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
