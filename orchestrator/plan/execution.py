"""How a plan is run, not what it answers: [execution], [supervision], [prices], a job's budget.

The one rule: nothing here is part of the plan's fingerprint, so all of it may change when a job is
resumed. Ranges and help are in `orchestrator.plan.keys`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import PlanFault
from orchestrator.core.plan import SpecLike, plugin_spec
from orchestrator.core.values import PluginSpec, Usage
from orchestrator.plan.spec_syntax import query_spec

# Below this, failures say little of the other problems, and to end early saves little.
_FEWEST_FAILED = 10
_PER_PRICE = 1_000_000  # tokens that a price is for
_SECONDS_PER_HOUR = 3600.0


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
class JobBudget:
    """Limits of a whole job, over all its runs; 0 means none. `core.plan.Budget` is of a problem.

    A request starts only if what it can cost at most still fits, so that `usd` is never exceeded as
    far as the engine reports its tokens. `gpu_seconds` are the seconds that an engine is open,
    times its GPUs. When either is spent, the job stops before it is done. `job_tokens` (generated)
    and `job_seconds` (of an open engine) are shared out among the problems, the most valuable
    attempt first, and at their end every problem has the best answer so far.
    """

    usd: float = 0.0
    gpu_seconds: float = 0.0
    job_tokens: int = 0
    job_seconds: float = 0.0

    @property
    def is_shared_out(self) -> bool:
        """Whether problems share means that may end before all are explored to their end."""
        return bool(self.job_tokens or self.job_seconds)


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """US dollars per million tokens of a model pool; `cached_input` None is the price of input."""

    input: float = 0.0
    cached_input: float | None = None
    output: float = 0.0

    def usd(self, usage: Usage) -> float:
        """Return the price of these tokens."""
        cached = self.input if self.cached_input is None else self.cached_input
        n_cached = min(usage.cached_tokens, usage.prompt_tokens)
        n_input = usage.prompt_tokens - n_cached
        parts = (n_input * self.input, n_cached * cached, usage.output_tokens * self.output)
        return sum(parts) / _PER_PRICE


@dataclass(frozen=True, slots=True)
class Prices:
    """What tokens cost, by model pool, and what a GPU costs for an hour, in US dollars."""

    gpu_hour: float = 0.0
    pools: Mapping[str, TokenPrices] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything has a price."""
        return bool(self.gpu_hour or self.pools)

    def of(self, pool: str) -> TokenPrices:
        """Return the prices of a model pool; zero for a pool without any."""
        return self.pools.get(pool, TokenPrices())

    def usd(self, spent: Spent) -> float:
        """Return the price of what a job has spent."""
        tokens = sum(self.of(pool).usd(usage) for pool, usage in spent.usage.items())
        return tokens + self.gpu_hour * spent.gpu_seconds / _SECONDS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Spent:
    """What a job has spent over all its runs, lost and repeated requests included.

    `usage` is by model pool. `seconds` are those in which an engine served; `gpu_seconds` include
    its start.
    """

    usage: Mapping[str, Usage] = field(default_factory=dict)
    n_requests: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    n_gpus: float = 0.0  # of the last run
    n_retries: int = 0  # requests that were sent again
    retry_reason: str = ""  # of the last of them
    unplaced_seconds: float = 0.0  # of replicas for which a cluster had no place, summed
    unplaced_reason: str = ""  # of the last of them

    @property
    def total(self) -> Usage:
        """The usage of all pools."""
        return sum(self.usage.values(), Usage())


@dataclass(frozen=True, slots=True)
class Execution:
    """The engine that runs a plan, and the limits on parallel work and on time.

    `window` bounds the requests in flight; `open_problems` the problems explored at once (0: as
    many as keep the window full). `checkers` is the number of worker processes that compare
    answers, and `checker_seconds` limits each of their calls. A strategy that computes for longer
    than `strategy_seconds` between two traces fails its problem. The engine may be given by its
    name, or as a table: `engine={"name": "openai", "base_url": ...}`; so may each of `sinks`, to
    which runs are reported, or as text with options: `sinks=["mlflow?experiment=sums"]`.
    """

    engine: PluginSpec = PluginSpec("ray")
    window: int = 64
    open_problems: int = 0
    checkers: int = 1
    checker_seconds: float = 10.0
    strategy_seconds: float = 60.0
    supervision: Supervision = Supervision()
    budget: JobBudget = JobBudget()
    prices: Prices = Prices()
    sinks: tuple[PluginSpec, ...] = ()

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
            budget: JobBudget = ...,
            prices: Prices = ...,
            sinks: Iterable[SpecLike] | SpecLike = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Convert an engine and sinks that are written as in a plan file."""
        several: Any = self.sinks
        if isinstance(several, PluginSpec | str | Mapping):
            several = (several,)
        sinks = (query_spec("sinks", one) if isinstance(one, str) else one for one in several)
        object.__setattr__(self, "engine", plugin_spec(self.engine, "execution.engine"))
        object.__setattr__(self, "sinks", tuple(plugin_spec(one, "sinks") for one in sinks))

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
