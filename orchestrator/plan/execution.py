"""The tables [execution] and [supervision] of a plan file: how a plan is run, not what it answers.

The one rule: nothing here is part of the plan's fingerprint. Ranges and help are in
`orchestrator.plan.keys`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import PlanFault
from orchestrator.core.plan import SpecLike, plugin_spec
from orchestrator.core.values import PluginSpec

# Below this, failures say little of the other problems, and to end early saves little.
_FEWEST_FAILED = 10


@dataclass(frozen=True, slots=True)
class Supervision:
    """How long to wait for an engine that refuses requests, and how many problems may fail.

    `max_failed` is a share of the job's problems. With more, the job ends early and its exit code
    is 3.
    """

    patience_seconds: float = 600.0
    max_failed: float = 0.1

    def allows(self, n_failed: int, n_problems: int) -> bool:
        """Tell whether so many of the problems may fail."""
        return n_failed <= self.max_failed * n_problems

    def ends_early(self, n_failed: int, n_problems: int) -> bool:
        """Tell whether the job ends before its other problems are tried."""
        return n_failed >= _FEWEST_FAILED and not self.allows(n_failed, n_problems)


@dataclass(frozen=True, slots=True)
class Execution:
    """The engine that runs a plan, and the limits on parallel work and on time.

    `window` bounds the requests in flight; `open_problems` the problems explored at once (0: as
    many as keep the window full). `checkers` is the number of worker processes that compare
    answers, and `checker_seconds` limits each of their calls. A strategy that computes for longer
    than `strategy_seconds` between two traces fails its problem. The engine may be given by its
    name, or as a table: `engine={"name": "openai", "base_url": ...}`.
    """

    engine: PluginSpec = PluginSpec("ray")
    window: int = 64
    open_problems: int = 0
    checkers: int = 1
    checker_seconds: float = 10.0
    strategy_seconds: float = 60.0
    supervision: Supervision = Supervision()

    if TYPE_CHECKING:  # what the generated one accepts

        def __init__(
            self,
            engine: SpecLike = ...,
            window: int = ...,
            open_problems: int = ...,
            checkers: int = ...,
            checker_seconds: float = ...,
            strategy_seconds: float = ...,
            supervision: Supervision = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Convert an engine that is written as in a plan file."""
        object.__setattr__(self, "engine", plugin_spec(self.engine, "execution.engine"))

    @staticmethod
    def load(path: str | Path) -> Execution:
        """Return the tables [execution] and [supervision] of a plan file, checked with its plan.

        PlanError for any mistake, with the file and its line or key.
        """
        from orchestrator.plan.file import load_plan  # which reads plans with what is here

        return load_plan(path).execution


def rename_former_tables(tree: dict[str, Any], source: str) -> list[str]:
    """Rename what had another name in earlier versions; return a notice for each."""
    notices = []
    if "fleet" in tree:
        if "execution" in tree:
            raise PlanFault("fleet", "[fleet] is the former name of [execution]; keep one of them")
        tree["execution"] = tree.pop("fleet")
        notices.append(f"{source}: [fleet] is now called [execution]")
    execution = tree.get("execution")
    engine = execution.get("engine") if isinstance(execution, dict) else None
    if isinstance(engine, dict) and engine.get("name") == "openai" and "max_retries" in engine:
        del engine["max_retries"]
        notices.append(
            f"{source}: execution.engine.max_retries is ignored: requests are sent again for "
            "supervision.patience_seconds"
        )
    return notices
