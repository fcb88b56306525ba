"""The strategy that is chosen for the user: explores as the choice does.

Choosing is done in `orchestrator.plan.auto`, when a plan is loaded, so that what a job records,
fingerprints and resumes is the choice.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from orchestrator.core.steps import Steps
from orchestrator.core.values import PluginSpec, Problem


@dataclass(frozen=True, slots=True)
class Auto:
    """Chooses a strategy by the plan's budget, models and verifiers.

    A plan that names no `chosen` gets one when it is loaded. `leadline choose PLAN` prints which
    one and why, without an engine; docs/auto.md has the rules.
    """

    parts: ClassVar[Mapping[str, str]] = {"chosen": "strategies"}

    chosen: Annotated[
        Any, Meta(description="The chosen strategy; filled in when the plan is loaded.")
    ] = "adaptive n=16"
    why: Annotated[
        str, Meta(description="The reason for the choice; filled in when the plan is loaded.")
    ] = ""

    @property
    def n_planned(self) -> int | None:
        """How many attempts full sampling takes, where the chosen strategy knows."""
        return getattr(self.chosen, "n_planned", None)

    @property
    def selector(self) -> PluginSpec | None:
        """The vote that the chosen strategy's decisions are about, if it has one."""
        return getattr(self.chosen, "selector", None)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Explore as chosen."""
        yield from self.chosen.explore(problem, rng)
