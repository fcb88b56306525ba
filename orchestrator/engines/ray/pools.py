"""The parts of a Ray fleet: pools, the supervision of their replicas, and the replicas' states.

Values only. `routing` chooses the pool and the replica of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.plan import Model


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """The specification of a pool to start."""

    name: str
    model: Model
    n_replicas: int
    origin: str  # of the engine's factory in each replica, "module:Class"
    options: Mapping[str, object]
    resources: Mapping[str, float]
    depths: tuple[int, ...] | None  # None: any depth of the model; (): the model's own only

    def serves(self, depth: int | None) -> bool:
        """Return whether the pool serves this latent depth; None is the model's own."""
        return depth is None or self.depths is None or depth in self.depths


@dataclass(frozen=True, slots=True)
class ReplicaSupervision:
    """How replicas are supervised; the fields are those of `options.Ray`."""

    max_restarts: int
    heartbeat_seconds: float
    start_seconds: float
    linger_seconds: float
    runtime_env: Mapping[str, object]


class ReplicaState(StrEnum):
    """The state of a replica."""

    STARTING = "starting"
    UP = "up"
    RESTARTING = "restarting"
    LOST = "lost"  # given up


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """The state of one replica; `reason` explains its last restart or why it was given up."""

    pool: str
    index: int
    state: ReplicaState
    pid: int
    restarts: int
    n_running: int
    reason: str
