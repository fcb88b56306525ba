"""The table [execution] of a plan file: settings that decide speed and never answers.

The one rule: nothing here is part of the plan's fingerprint. Ranges and help are in
`orchestrator.plan.keys`.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.values import PluginSpec


@dataclass(frozen=True, slots=True)
class Execution:
    """The engine that runs a plan, and the limits on parallel work and on time.

    `window` bounds the requests in flight; `open_problems` the problems explored at once (0: as
    many as keep the window full). `checkers` is the number of worker processes that compare
    answers, and `checker_seconds` limits each of their calls. A strategy that computes for longer
    than `strategy_seconds` between two traces fails its problem.
    """

    engine: PluginSpec = PluginSpec("ray")
    window: int = 64
    open_problems: int = 0
    checkers: int = 1
    checker_seconds: float = 10.0
    strategy_seconds: float = 60.0
