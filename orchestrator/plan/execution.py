"""What decides speed and never answers: the table [execution] of a plan file.

The one rule: nothing here is part of the plan's fingerprint. Ranges and help are in
`orchestrator.plan.keys`.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.values import PluginSpec


@dataclass(frozen=True, slots=True)
class Execution:
    """Where and how wide a plan runs.

    `window` bounds the requests in flight; `open_problems` the problems explored at once (0: as
    many as keep the window full); `checkers` the worker processes that compare answers, each call
    of theirs bounded by `checker_seconds`; `strategy_seconds` is how long a strategy may compute
    between two traces before its problem fails.
    """

    engine: PluginSpec = PluginSpec("ray")
    window: int = 64
    open_problems: int = 0
    checkers: int = 1
    checker_seconds: float = 10.0
    strategy_seconds: float = 60.0
