"""The strategy `auto`, which explores with the strategy that was chosen for the plan.

`orchestrator.plan.auto` makes the choice when a plan is loaded, so a job records, fingerprints and
resumes the choice.
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

    If a plan has no `chosen`, it is set when the plan is loaded. `leadline choose PLAN` prints the
    choice and the reason without starting an engine; docs/auto.md lists the rules.
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
        """The number of attempts of full sampling, or None if the chosen strategy has none."""
        return getattr(self.chosen, "n_planned", None)

    @property
    def selector(self) -> PluginSpec | None:
        """The chosen strategy's selector, if it has one."""
        return getattr(self.chosen, "selector", None)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Explore with the chosen strategy."""
        yield from self.chosen.explore(problem, rng)
