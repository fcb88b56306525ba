"""The `ray` engine's options, and how they become pools of replicas: what is asked of the inner
engine and of the cluster.

Running the pools is `ray_engine`, what stands in each replica `ray_replica`, talking to Ray
`ray_cluster`. Not covered: one engine over several nodes (tensor parallel stays within a node), and
a driver outside the cluster (Ray clients).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, PluginSpec
from orchestrator.engines.ray import cluster as ray_cluster
from orchestrator.engines.ray.fleet import RayFleet
from orchestrator.engines.ray.pools import PoolSpec, Supervision
from orchestrator.plan import registry


@dataclass(frozen=True, slots=True)
class Pool:
    """What one model pool sets differently; None: as the fleet. `options` are laid over the
    fleet's.

    `depths` are the latent depths its replicas serve beside the model's own; None: whatever the
    engine is able to.
    """

    replicas: int | None = None
    tensor_parallel: int | None = None
    gpus_per_replica: float | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    depths: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ray:
    """Options of the fleet.

    `address`: of an existing cluster, "auto" for the one on this machine; "" uses RAY_ADDRESS, or
      starts Ray here for as long as the fleet
    is open. `backend` and `options` name the engine in each replica. `gpus_per_replica` None:
    `tensor_parallel` where the cluster has GPUs, else 0. `max_restarts` counts restarts of a
    replica in a row: a trace completed between two of them starts the count anew; a request that
    was lost with a replica more often than that fails. A replica that gives no sign for
    `heartbeat_seconds` is killed; one that is not up after `start_seconds` has failed. For
    `linger_seconds` requests and traces are gathered into one message. `runtime_env` is Ray's
    (environment variables, packages), for the replicas of a cluster whose nodes do not have this
    package or these settings.
    """

    address: str = ""
    backend: str = "vllm"
    options: Mapping[str, object] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    replicas: int = 1
    tensor_parallel: int = 1
    gpus_per_replica: float | None = None
    cpus_per_replica: float = 0.0
    max_restarts: int = 3
    heartbeat_seconds: float = 60.0
    start_seconds: float = 600.0
    linger_seconds: float = 0.003
    runtime_env: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {"replicas": self.replicas, "tensor_parallel": self.tensor_parallel}
        for name, pool in self.pools.items():
            counts |= {
                f"pools.{name}.replicas": pool.replicas or 1,
                f"pools.{name}.tensor_parallel": pool.tensor_parallel or 1,
            }
        for name, value in {
            **counts,
            "heartbeat_seconds": self.heartbeat_seconds,
            "start_seconds": self.start_seconds,
        }.items():
            if value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0")

    def capabilities(self) -> frozenset[Capability]:
        """Return what the engines in all pools can do. PluginError when their options are wrong."""
        found: list[frozenset[Capability]] = [
            self._backend(pool).capabilities() for pool in (None, *self.pools)
        ]
        return frozenset.intersection(*found)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[RayFleet]:
        """Yield the fleet when every replica is up.

        EngineError with the reason when one does not come up, or Ray lacks room for it.
        """
        self._require_known(models)
        async with ray_cluster.connected(self.address) as nodes:
            specs = [self._spec(name, model, nodes) for name, model in models.items()]
            ray_cluster.require_room([(s.name, s.n_replicas, s.resources) for s in specs], nodes)
            care = Supervision(
                self.max_restarts,
                self.heartbeat_seconds,
                self.start_seconds,
                self.linger_seconds,
                self.runtime_env,
            )
            fleet = RayFleet(specs, care)
            try:
                await fleet.start()
                yield fleet
            finally:
                await fleet.close()

    def _require_known(self, models: Mapping[str, Model]) -> None:
        if not models:
            raise PlanError("the plan has no model")
        for name in self.pools:
            if name not in models:
                raise PlanError(
                    f"pools names {name!r}{registry.near(name, models)}, which is no model of the plan; those are: {', '.join(models)}"
                )

    def _options(self, pool: str | None) -> dict[str, object]:
        own = self.pools.get(pool, Pool()) if pool is not None else Pool()
        options = {**self.options, **own.options}
        tensor_parallel = own.tensor_parallel or self.tensor_parallel
        return {**options, "tensor_parallel": tensor_parallel} if tensor_parallel > 1 else options

    def _backend(self, pool: str | None) -> Any:
        return registry.load("engines", PluginSpec(self.backend, self._options(pool)))

    def _spec(self, name: str, model: Model, nodes: Sequence[ray_cluster.Resources]) -> PoolSpec:
        pool = self.pools.get(name, Pool())
        gpus = self.gpus_per_replica if pool.gpus_per_replica is None else pool.gpus_per_replica
        if gpus is None:
            gpus = (
                (pool.tensor_parallel or self.tensor_parallel)
                if any(node.get("GPU") for node in nodes)
                else 0
            )
        depths = pool.depths
        if depths is None and Capability.DEPTH not in self._backend(name).capabilities():
            depths = ()
        resources = {"CPU": self.cpus_per_replica, "GPU": float(gpus)}
        cls = registry.plugin_class("engines", self.backend)
        origin = f"{cls.__module__}:{cls.__qualname__}"
        return PoolSpec(
            name,
            model,
            pool.replicas or self.replicas,
            origin,
            self._options(name),
            resources,
            depths,
        )
