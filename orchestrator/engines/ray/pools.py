"""The parts of a Ray fleet: pools, the supervision of their replicas, and the replicas' states.

Values only. `routing` chooses the pool and the replica of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from orchestrator.core.plan import Model


@dataclass(frozen=True, slots=True)
class Replicas:
    """The bounds of a pool that grows and shrinks with its requests, and how fast it does."""

    max: Annotated[int, Meta(ge=1, description="The most replicas.")]
    min: Annotated[int, Meta(ge=1, description="The replicas that are kept without requests.")] = 1
    requests: Annotated[
        int, Meta(ge=1, description="Requests in flight for which there is one replica.")
    ] = 16
    up_seconds: Annotated[
        float, Meta(ge=0, description="Seconds with more requests before a replica is added.")
    ] = 10.0
    idle_seconds: Annotated[
        float, Meta(ge=0, description="Seconds with fewer requests before a replica leaves.")
    ] = 60.0

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(
                f"min = {self.min} is above max = {self.max}; give the smaller number as min, or "
                f"replicas = {self.max} for a fixed number"
            )

    @property
    def is_fixed(self) -> bool:
        """Whether the number never changes."""
        return self.min == self.max


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """The specification of a pool to start."""

    name: str
    model: Model
    replicas: Replicas
    origin: str  # of the engine's factory in each replica, "module:Class"
    options: Mapping[str, object]
    resources: Mapping[str, float]  # of a replica, on all its nodes together
    depths: tuple[int, ...] | None  # None: any depth of the model; (): the model's own only
    others: Mapping[str, Model] = field(default_factory=dict)  # pools that its replicas serve, too
    n_nodes: int = 1  # over which each replica is spread

    @property
    def models(self) -> dict[str, Model]:
        """The model pools that a replica serves; the first is its own."""
        return {self.name: self.model, **self.others}

    def serves(self, depth: int | None) -> bool:
        """Return whether the pool serves this latent depth; None is the model's own."""
        return depth is None or self.depths is None or depth in self.depths


@dataclass(frozen=True, slots=True)
class ReplicaSupervision:
    """How replicas are supervised; the fields are those of `options.Ray`."""

    max_restarts: int
    heartbeat_seconds: float
    start_seconds: float
    place_seconds: float
    linger_seconds: float
    runtime_env: Mapping[str, object]


class ReplicaState(StrEnum):
    """The state of a replica."""

    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"  # finishes what it runs, then leaves
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
