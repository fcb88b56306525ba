"""What a fleet is made of: its pools as they are to be started, how their replicas are looked
after, and what a display shows of them.

Which pool a request goes to is decided here, which replica of it in `core.routing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.core.plan import Model, same_weights
from orchestrator.core.values import Request


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool as it is to be started."""

    name: str
    model: Model
    n_replicas: int
    origin: str  # of the inner engine's backend, "module:Class"
    options: Mapping[str, object]
    resources: Mapping[str, float]
    depths: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Supervision:
    """How replicas are looked after; the fields are those of `ray_fleet.Ray`."""

    max_restarts: int
    heartbeat_seconds: float
    start_seconds: float
    linger_seconds: float
    runtime_env: Mapping[str, object]


class ReplicaState(StrEnum):
    """Where a replica stands."""

    STARTING = "starting"
    UP = "up"
    RESTARTING = "restarting"
    LOST = "lost"  # given up


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """What a display shows of one replica. `reason`: why it was last restarted or given up."""

    pool: str
    index: int
    state: ReplicaState
    pid: int
    restarts: int
    n_running: int
    reason: str


def at_its_depth(request: Request, pools: Sequence[PoolSpec]) -> Request:
    """Return the request, addressed to a pool that serves its depth: the one it names, else the
    first of the same model that does.

    The same model is one that differs in what memory is set aside for only. Unchanged when there is
    none.
    """
    named = next((pool for pool in pools if request.model in ("", pool.name)), None)
    if (
        named is None
        or request.depth is None
        or named.depths is None
        or request.depth in named.depths
    ):
        return request
    same = (pool for pool in pools if same_weights(pool.model, named.model))
    able = next(
        (pool for pool in same if pool.depths is None or request.depth in pool.depths), None
    )
    return request if able is None else replace(request, model=able.name)
