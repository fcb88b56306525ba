"""The `ray` engine's options, and the replica pools derived from them.

The one rule: every invalid option is rejected here, before a replica starts. `fleet` serves
requests, `supervisor` keeps replicas alive, `replica` is the process of each, `cluster` calls Ray.
Not covered: one engine over several nodes (tensor parallelism stays within a node), and a driver
outside the cluster (Ray clients).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.plan import Model
from orchestrator.core.protocols import EngineFactory
from orchestrator.core.values import Capability, PluginSpec, Sampling
from orchestrator.engines.ray import cluster
from orchestrator.engines.ray.fleet import RayFleet
from orchestrator.engines.ray.pools import PoolSpec, Replicas, ReplicaSupervision
from orchestrator.plan import registry
from orchestrator.plan.check import NOISE, THINKING, shared_engines, without_limit


@dataclass(frozen=True, slots=True)
class RayPool:
    """Options of one model pool; unset options default to the engine's option of the same name."""

    replicas: Annotated[
        Annotated[int, Meta(ge=1)] | Replicas | None,
        Meta(description="Number of replicas of this pool, or its bounds."),
    ] = None
    tensor_parallel: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Number of GPUs over which each replica is split."),
    ] = None
    gpus_per_replica: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="GPUs that Ray reserves for each replica."),
    ] = None
    options: Annotated[
        Mapping[str, object],
        Meta(description="Options of this pool's engines, in addition to those of all pools."),
    ] = field(default_factory=dict)
    depths: Annotated[
        tuple[int, ...] | None,
        Meta(
            description="Latent depths that this pool serves beside the model's own; unset, all "
            "that its engine is able to."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Ray:
    """Runs replicas of another engine in Ray actors, and restarts those that die: the default.

    On one machine it starts Ray itself and stops it when the engine is closed.
    """

    address: Annotated[
        str,
        Meta(
            description='Address (host:port) of a Ray cluster; "auto" is the one on this machine; '
            '"" takes RAY_ADDRESS, or starts Ray here.'
        ),
    ] = ""
    backend: Annotated[
        str, Meta(min_length=1, description="Name of the engine that runs in each replica.")
    ] = "vllm"
    options: Annotated[
        Mapping[str, object], Meta(description="Options of the engine in each replica.")
    ] = field(default_factory=dict)
    pools: Annotated[
        Mapping[str, RayPool],
        Meta(
            description="What single model pools set differently, by pool name: replicas, "
            "tensor_parallel, gpus_per_replica, options, and depths, the latent depths they serve."
        ),
    ] = field(default_factory=dict)
    replicas: Annotated[
        Annotated[int, Meta(ge=1)] | Replicas,
        Meta(
            description="Number of replicas of each model pool; or its bounds, as in "
            "{min = 1, max = 4}: there is one for every 16 requests in flight (requests), more "
            "when that lasts for 10 s (up_seconds), fewer after 60 s (idle_seconds)."
        ),
    ] = 1
    tensor_parallel: Annotated[
        int, Meta(ge=1, description="Number of GPUs over which each replica's model is split.")
    ] = 1
    gpus_per_replica: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(
            description="GPUs that Ray reserves for each replica; unset, tensor_parallel where "
            "the cluster has GPUs, otherwise 0.",
        ),
    ] = None
    cpus_per_replica: Annotated[
        float,
        Meta(
            ge=0,
            description="CPUs that Ray reserves for each replica; 0 reserves none, so that "
            "any number of replicas fits a node.",
        ),
    ] = 0.0
    max_restarts: Annotated[
        int,
        Meta(
            ge=0,
            description="Restarts of a replica in a row before it is given up; a completed trace "
            "starts the count again. A request lost with a replica more often than this fails.",
        ),
    ] = 3
    heartbeat_seconds: Annotated[
        float,
        Meta(gt=0, description="Seconds without a sign of life after which a replica is killed."),
    ] = 60.0
    start_seconds: Annotated[
        float, Meta(gt=0, description="Seconds within which a replica's engine must have started.")
    ] = 600.0
    place_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds to wait for Ray, or its autoscaler, to find a place for a replica "
            "when no other replica of its pool lives. While one does, the job continues with it.",
        ),
    ] = 600.0
    linger_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds for which requests and traces are gathered into one message.",
        ),
    ] = 0.003
    runtime_env: Annotated[
        Mapping[str, object],
        Meta(
            description="Ray's runtime environment for the replicas (variables, packages), for "
            "nodes that lack this package or these settings."
        ),
    ] = field(default_factory=dict)

    def capabilities(self) -> frozenset[Capability]:
        """Return the capabilities of all pools together; PluginError if options are invalid."""
        engines = [self._engine(pool) for pool in ("", *self.pools)]
        return frozenset.intersection(*(engine.capabilities() for engine in engines))

    def require_sampling(self, extra: Mapping[str, object]) -> None:
        """Raise PlanFault if the engine in the replicas does not take these parameters."""
        engine = self._engine("")
        require = getattr(engine, "require_sampling", None)
        if require is None:
            raise PlanFault(
                "sampling.extra",
                f"sampling.extra: the engine {self.backend!r} has no parameters of its own",
            )
        require(extra)

    def require_tools(self, extra: Mapping[str, object], models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless the models in the replicas can call these tools."""
        for name, model in models.items():
            if (require := getattr(self._engine(name), "require_tools", None)) is None:
                raise PlanFault(
                    "sampling.extra", f"sampling.extra.tools: engine {self.backend!r} has no tools"
                )
            require(extra, {name: model})

    def require_media(self, kinds: frozenset[str], models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless the models in the replicas take media of these kinds."""
        for name, model in models.items():
            if (require := getattr(self._engine(name), "require_media", None)) is None:
                raise PlanFault("messages", f"the engine {self.backend!r} takes text only")
            require(kinds, {name: model})

    def require_thinking(self, n_tokens: int, models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless the replicas can end the thinking after so many tokens."""
        for name, model in models.items():
            engine = self._engine(name)
            require = getattr(engine, "require_thinking", None)
            if require is None:
                raise PlanFault(
                    THINKING,
                    f"{THINKING} = {n_tokens}: the engine {self.backend!r} cannot end the "
                    f"thinking; {without_limit(n_tokens)}",
                )
            require(n_tokens, {name: model})

    def require_noise(self, noise: float, models: Mapping[str, Model]) -> None:
        """Raise PlanFault unless the models in the replicas loop, so that noise can be added."""
        for name, model in models.items():
            require = getattr(self._engine(name), "require_noise", None)
            if require is None:
                raise PlanFault(
                    NOISE, f"{NOISE} = {noise:g}: the engine {self.backend!r} has no latent states"
                )
            require(noise, {name: model})

    def require_drafts(
        self, sampling: Sampling, models: Mapping[str, Model], sampled: Collection[str]
    ) -> None:
        """Raise PlanFault unless the models in the replicas can draft for themselves as set."""
        for name, model in models.items():
            if (require := getattr(self._engine(name), "require_drafts", None)) is not None:
                require(sampling, {name: model}, sampled)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[RayFleet]:
        """Yield the fleet when every replica is running, or waits for a node beside one that runs.

        EngineError with the reason if a replica does not start, or Ray lacks resources for it.
        """
        self._require_known(models)
        async with cluster.connected(self.address) as nodes:
            engines = shared_engines(models, {name: self._pool(name) for name in models})
            specs = [self._spec(pools, nodes) for pools in engines]
            if not cluster.may_grow():
                cluster.require_room([(s.name, s.replicas.max, s.resources) for s in specs], nodes)
            supervision = ReplicaSupervision(
                self.max_restarts,
                self.heartbeat_seconds,
                self.start_seconds,
                self.place_seconds,
                self.linger_seconds,
                self.runtime_env,
            )
            fleet = RayFleet(specs, supervision)
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
                    f"pools names {name!r}{registry.near(name, models)}, which is no model of the "
                    f"plan; those are: {', '.join(models)}"
                )

    def _pool(self, name: str) -> RayPool:
        return self.pools.get(name, RayPool())

    def _n_gpus(self, pool: RayPool) -> int:
        return pool.tensor_parallel or self.tensor_parallel

    def _engine_options(self, name: str) -> dict[str, object]:
        pool = self._pool(name)
        options = {**self.options, **pool.options}
        n_gpus = self._n_gpus(pool)
        return {**options, "tensor_parallel": n_gpus} if n_gpus > 1 else options

    def _engine(self, name: str) -> EngineFactory:
        factory: EngineFactory
        factory = registry.load("engines", PluginSpec(self.backend, self._engine_options(name)))
        return factory

    def _spec(self, pools: Mapping[str, Model], nodes: Sequence[cluster.Resources]) -> PoolSpec:
        (name, model), *others = pools.items()
        pool = self._pool(name)
        gpus = self.gpus_per_replica if pool.gpus_per_replica is None else pool.gpus_per_replica
        if gpus is None:
            gpus = self._n_gpus(pool) if any(node.get("GPU") for node in nodes) else 0
        depths = pool.depths
        if depths is None and Capability.DEPTH not in self._engine(name).capabilities():
            depths = ()
        cls = registry.plugin_class("engines", self.backend)
        replicas = pool.replicas or self.replicas
        return PoolSpec(
            name,
            model,
            replicas=Replicas(replicas, replicas) if isinstance(replicas, int) else replicas,
            origin=f"{cls.__module__}:{cls.__qualname__}",
            options=self._engine_options(name),
            resources={"CPU": self.cpus_per_replica, "GPU": float(gpus)},
            depths=depths,
            others=dict(others),
        )
