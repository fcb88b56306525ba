"""The strategy that was chosen for the user: a name in the plan until it is loaded, then the choice
and the reason for it.

Choosing is `orchestrator.plan.auto`'s: it happens when a plan is loaded, so that what a job
records, fingerprints and resumes is the choice.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core.steps import Steps
from orchestrator.core.values import PluginSpec, Problem


@dataclass(frozen=True, slots=True)
class Auto:
    """Explores as `chosen` does. A plan that names no `chosen` gets one when it is loaded, by its
    budget and by what it has.

    `leadline choose PLAN` says what that is and why, without an engine; docs/auto.md has the rules.
    """

    parts: ClassVar[Mapping[str, str]] = {"chosen": "strategies"}

    chosen: Any = "adaptive n=16"  # filled in when the plan is loaded
    why: str = ""  # the reason, filled in beside it

    @property
    def n_planned(self) -> int | None:
        """How many traces full sampling takes, where the chosen strategy says so."""
        return getattr(self.chosen, "n_planned", None)

    @property
    def selector(self) -> PluginSpec | None:
        """The vote that the chosen strategy's decisions are about, if it states one."""
        return getattr(self.chosen, "selector", None)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Explore as chosen."""
        yield from self.chosen.explore(problem, rng)
