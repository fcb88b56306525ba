"""A fleet of engines as one engine: sends requests to replicas and brings back their traces.

The one rule: nothing hangs and nothing is lost. The requests of a replica that died are started
again, with the same seed, on another replica or on its successor. `supervisor` keeps the replicas
alive, `routing` chooses the replica of a request; options and placement are in `options`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from orchestrator.core.values import Finish, Request, Trace
from orchestrator.engines.ray.pools import PoolSpec, ReplicaState, ReplicaStats, ReplicaSupervision
from orchestrator.engines.ray.replica import pack
from orchestrator.engines.ray.routing import at_its_depth, route
from orchestrator.engines.ray.state import PendingRequest, RunningPool, RunningReplica
from orchestrator.engines.ray.supervisor import Supervisor
from orchestrator.engines.reply import trace_for

Identity: TypeAlias = tuple[str, int]

MAX_REMEMBERED = 65_536  # problems with a remembered last replica: about 10 MB


class RayFleet:
    """Routes requests to replicas and keeps the replicas alive.

    Belongs to the event loop it was opened on.
    """

    def __init__(self, specs: Sequence[PoolSpec], supervision: ReplicaSupervision) -> None:
        self._linger_seconds = supervision.linger_seconds
        self._loop = asyncio.get_running_loop()
        self._pools = {spec.name: RunningPool(spec) for spec in specs}
        self._by_model = {name: self._pools[spec.name] for spec in specs for name in spec.models}
        self._pending: dict[Identity, PendingRequest] = {}
        # (pool, problem) -> replica, least recent first
        self._last: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._n_tickets = 0
        self._supervisor = Supervisor(self._pools.values(), supervision, self._place)
        self._replicas = self._supervisor.replicas

    async def start(self) -> None:
        """Start the replicas, as `Supervisor.start` does. Called once."""
        await self._supervisor.start()

    async def close(self) -> None:
        """Stop all replicas; requests still pending fail.

        On return their processes have ended or are about to end.
        """
        await self._supervisor.cancel()
        for pool in self._pools.values():
            pool.failure = pool.failure or "the fleet was closed"
        for pending in self._pending.values():
            pending.fail("the fleet was closed")
        await self._supervisor.stop()

    async def generate(self, request: Request) -> Trace:
        """Return the trace; FAILED if no pool serves the request's model or depth.

        EngineError if its pool cannot recover. ValueError if a request with the same identity is
        already in flight.
        """
        identity = request.identity
        if identity in self._pending:
            raise ValueError(
                f"problem {request.problem_id!r}, ordinal {request.ordinal} is in flight already"
            )
        sent = at_its_depth(request, [pool.spec for pool in self._pools.values()])
        pending = self._pending[identity] = PendingRequest(sent, self._loop.create_future())
        try:
            self._place(pending)
            return replace(await pending.trace, model=request.model)
        finally:
            del self._pending[identity]
            self._forget(pending)

    def abort(self, request: Request) -> None:
        """Stop a request: its `generate` returns a CANCELLED trace with the tokens so far.

        The trace is empty if the request had not been sent.
        """
        pending = self._pending.get(request.identity)
        if pending is None or pending.aborted:
            return
        pending.aborted = True
        if not self._recall(pending):
            pending.settle(trace_for(pending.request, Finish.CANCELLED))

    @property
    def n_gpus(self) -> float:
        """The GPUs that Ray reserves for as many replicas as there may be."""
        specs = (pool.spec for pool in self._pools.values())
        return sum(spec.replicas.max * spec.resources.get("GPU", 0.0) for spec in specs)

    def gpu_seconds(self) -> float:
        """Return the seconds in which replicas were there so far, times their GPUs."""
        return self._supervisor.gpu_seconds()

    def running_tokens(self) -> int:
        """Return the output tokens so far of the requests that run, a few seconds old."""
        return sum(replica.running_tokens for replica in self._replicas.values())

    def notices(self) -> tuple[str, ...]:
        """Return what the fleet lacks now, e.g. a place for a replica, with the reason."""
        return self._supervisor.notices()

    def unplaced(self) -> tuple[float, str]:
        """Return for how many seconds replicas waited for a place so far, and the last reason."""
        return self._supervisor.unplaced()

    def stats(self) -> tuple[ReplicaStats, ...]:
        """Return the state of each replica, in order of pools."""
        return tuple(
            ReplicaStats(
                r.pool.spec.name, r.index, r.state, r.pid, r.restarts, len(r.pending), r.reason
            )
            for pool in self._pools.values()
            for r in pool.replicas
        )

    # Requests

    def _place(self, pending: PendingRequest) -> None:
        """Assign a request to a replica, let it wait for one, or end it if none can serve it."""
        request = pending.request
        pool = self._pool(request)
        if pool is None:
            pending.refuse(
                f"no replica serves the model {request.model!r}; there are: "
                f"{', '.join(self._by_model)}"
            )
        elif not pool.spec.serves(request.depth):
            depths = ", ".join(map(str, pool.spec.depths or ())) or "the model's own only"
            pending.refuse(
                f"no replica of {pool.spec.name!r} serves the latent depth {request.depth}; "
                f"they serve: {depths}"
            )
        elif pool.failure:
            pending.fail(pool.failure)
        else:
            self._send(pending, pool)

    def _pool(self, request: Request) -> RunningPool | None:
        """Return the pool of a request; the first one if it names none."""
        if request.model:
            return self._by_model.get(request.model)
        return next(iter(self._pools.values()))

    def _send(self, pending: PendingRequest, pool: RunningPool) -> None:
        key = pool.spec.name, pending.request.problem_id
        up = {r.index: len(r.pending) for r in pool.replicas if r.state is ReplicaState.UP}
        index = route(up, self._last.get(key))
        if index is None:
            pool.waiting.append(pending)
            return
        self._remember(key, index)
        replica = pending.replica = self._replicas[index]
        self._n_tickets += 1
        pending.ticket = self._n_tickets
        replica.pending[pending.ticket] = pending
        replica.outbox[pending.ticket] = pending.request
        self._flush_soon(replica)

    def _remember(self, key: tuple[str, str], index: int) -> None:
        self._last[key] = index
        self._last.move_to_end(key)
        if len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)

    def _recall(self, pending: PendingRequest) -> bool:
        """Stop a request in any state; return whether a replica will still return its trace."""
        replica = pending.replica
        if replica is None:
            pool = self._pool(pending.request)
            if pool is not None and pending in pool.waiting:
                pool.waiting.remove(pending)
            return False
        if replica.outbox.pop(pending.ticket, None) is not None:
            replica.pending.pop(pending.ticket, None)
            return False
        if pending.ticket not in replica.pending:
            return False
        replica.aborts.append(pending.ticket)
        self._flush_soon(replica)
        return True

    def _forget(self, pending: PendingRequest) -> None:
        """Forget a request after its caller was cancelled before the trace arrived."""
        if pending.replica is None or pending.ticket in pending.replica.pending:
            self._recall(pending)
            if pending.replica is not None:
                pending.replica.pending.pop(pending.ticket, None)

    def _flush_soon(self, replica: RunningReplica) -> None:
        if replica.flush is None:
            replica.flush = self._loop.call_later(self._linger_seconds, self._flush, replica)

    def _flush(self, replica: RunningReplica) -> None:
        replica.flush = None
        outbox, replica.outbox = replica.outbox, {}
        aborts, replica.aborts = replica.aborts, []
        # These calls are not awaited: a replica that does not receive them has died, and `collect`
        # reports it. Aborts concern requests sent earlier; they are sent first, so that a request
        # sent again follows the abort of the earlier one with its identity.
        if aborts:
            replica.actor.abort.remote(aborts)
        if outbox:
            replica.actor.submit.remote(pack(list(outbox.items())))
