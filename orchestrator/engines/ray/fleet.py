"""A fleet of engines as one engine: sends requests to replicas, and keeps the replicas alive.

The one rule: nothing hangs and nothing is lost. The requests of a replica that died are started
again, with the same seed, on another replica or on its successor. If no replica of a pool can be
restarted, the pool fails every request with the reason. `routing` chooses the replica of a request;
options and placement are in `options`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from orchestrator.core.errors import EngineError, Unavailable
from orchestrator.core.values import Finish, Request, Trace
from orchestrator.engines.ray import cluster
from orchestrator.engines.ray.pools import PoolSpec, ReplicaState, ReplicaStats, ReplicaSupervision
from orchestrator.engines.ray.replica import Completions, pack, unpack_collected
from orchestrator.engines.ray.routing import at_its_depth, route
from orchestrator.engines.ray.state import PendingRequest, RunningPool, RunningReplica
from orchestrator.engines.reply import trace_for

Identity: TypeAlias = tuple[str, int]

FIRST_BACKOFF_SECONDS = 0.5  # before the first restart; doubled for each consecutive restart
LAST_BACKOFF_SECONDS = 30.0
COLLECT_SECONDS = 5.0  # the longest that a replica's count of running tokens may be old
STOP_SECONDS = 15.0  # for an engine to close by itself before its process is killed
MAX_REMEMBERED = 65_536  # problems with a remembered last replica: about 10 MB


class _ReplicaLost(Exception):
    """A replica is lost; the message gives the reason."""


class RayFleet:
    """Routes requests to replicas and keeps the replicas alive.

    Belongs to the event loop it was opened on.
    """

    def __init__(self, specs: Sequence[PoolSpec], supervision: ReplicaSupervision) -> None:
        self._supervision = supervision
        self._loop = asyncio.get_running_loop()
        self._pools = {spec.name: RunningPool(spec) for spec in specs}
        self._replicas: list[RunningReplica] = []
        for pool in self._pools.values():
            for _ in range(pool.spec.n_replicas):
                replica = RunningReplica(len(self._replicas), pool, self._loop.create_future())
                self._replicas.append(replica)
                pool.replicas.append(replica)
        self._pending: dict[Identity, PendingRequest] = {}
        # (pool, problem) -> replica, least recent first
        self._last: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._supervisors: list[asyncio.Task[None]] = []
        self._n_tickets = 0

    async def start(self) -> None:
        """Start all replicas concurrently. Called once.

        EngineError with the first reason if a replica does not start.
        """
        self._supervisors = [
            self._loop.create_task(self._supervise(replica)) for replica in self._replicas
        ]
        for supervisor, replica in zip(self._supervisors, self._replicas, strict=True):
            supervisor.add_done_callback(partial(self._supervisor_ended, replica))
        await asyncio.gather(*(replica.up for replica in self._replicas))

    async def close(self) -> None:
        """Stop all replicas; requests still pending fail.

        On return their processes have ended or are about to end.
        """
        for supervisor in self._supervisors:
            supervisor.cancel()
        if self._supervisors:
            await asyncio.wait(self._supervisors)
        for pool in self._pools.values():
            pool.failure = "the fleet was closed"
        for pending in self._pending.values():
            pending.fail("the fleet was closed")
        actors = [replica.actor for replica in self._replicas if replica.actor is not None]
        graceful = [
            r.actor for r in self._replicas if r.actor is not None and r.state is ReplicaState.UP
        ]
        try:
            await cluster.all_of([actor.stop.remote() for actor in graceful], STOP_SECONDS)
        finally:
            for replica in self._replicas:
                self._clear(replica)
            for actor in actors:
                cluster.kill(actor)

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
        """The GPUs that Ray reserves for all replicas."""
        return sum(replica.pool.spec.resources.get("GPU", 0.0) for replica in self._replicas)

    def running_tokens(self) -> int:
        """Return the output tokens so far of the requests that run, a few seconds old."""
        return sum(replica.running_tokens for replica in self._replicas)

    def stats(self) -> tuple[ReplicaStats, ...]:
        """Return the state of each replica, in order of pools."""
        return tuple(
            ReplicaStats(
                r.pool.spec.name, r.index, r.state, r.pid, r.restarts, len(r.pending), r.reason
            )
            for r in self._replicas
        )

    # Requests

    def _place(self, pending: PendingRequest) -> None:
        """Assign a request to a replica, let it wait for one, or end it if none can serve it."""
        request = pending.request
        pool = self._pool(request)
        if pool is None:
            pending.refuse(
                f"no replica serves the model {request.model!r}; there are: "
                f"{', '.join(self._pools)}"
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
        return self._pools.get(request.model) if request.model else next(iter(self._pools.values()))

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
            replica.flush = self._loop.call_later(
                self._supervision.linger_seconds, self._flush, replica
            )

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

    # Replicas

    async def _supervise(self, replica: RunningReplica) -> None:
        """Keep one replica running until it is given up."""
        while True:
            try:
                await self._bring_up(replica)
                await self._collect(replica)
            except _ReplicaLost as lost:
                reason = str(lost)
            if not replica.up.done() or replica.n_in_a_row >= self._supervision.max_restarts:
                self._give_up(replica, reason)
                return
            self._take_down(replica, ReplicaState.RESTARTING, reason)
            await asyncio.sleep(
                min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**replica.n_in_a_row)
            )
            replica.n_in_a_row += 1
            replica.restarts += 1

    async def _bring_up(self, replica: RunningReplica) -> None:
        spec, supervision = replica.pool.spec, self._supervision
        arguments = (
            spec.origin,
            dict(spec.options),
            {spec.name: spec.model},
            supervision.linger_seconds,
        )
        step = f"Ray has found no place for it (it needs {cluster.in_words(spec.resources)})"
        try:
            async with asyncio.timeout(supervision.start_seconds):
                replica.actor = cluster.new_actor(
                    arguments, spec.resources, supervision.runtime_env
                )
                replica.pid, host = await cluster.result(replica.actor.place.remote())
                replica.location, step = f"process {replica.pid} on {host}", "its engine is not up"
                reason = await cluster.result(replica.actor.start.remote())
        except TimeoutError:
            raise _ReplicaLost(
                f"{replica}: {step} after {supervision.start_seconds:g} s; {cluster.free()}"
            ) from None
        except cluster.ReplicaDied as died:
            raise _ReplicaLost(f"{replica} did not start: {died}") from died
        if reason:
            raise _ReplicaLost(f"{replica} did not start: {reason}")
        replica.state = ReplicaState.UP
        if not replica.up.done():
            replica.up.set_result(None)
        waiting, replica.pool.waiting = replica.pool.waiting, []
        for pending in waiting:
            self._place(pending)

    async def _collect(self, replica: RunningReplica) -> None:
        """Collect traces from a replica until it is lost; _ReplicaLost gives the reason."""
        limit = self._supervision.heartbeat_seconds
        longest = min(limit / 3, COLLECT_SECONDS)
        while True:
            try:
                async with asyncio.timeout(limit):
                    data = await cluster.result(replica.actor.collect.remote(longest))
            except TimeoutError:
                raise _ReplicaLost(
                    f"{replica} ({replica.location}) gave no sign for {limit:g} s"
                ) from None
            except cluster.ReplicaDied as died:
                raise _ReplicaLost(f"{replica} ({replica.location}) died: {died}") from died
            completions, failure, replica.running_tokens = unpack_collected(data)
            self._deliver(replica, completions)
            if failure:
                raise _ReplicaLost(f"the engine of {replica} failed: {failure}")

    def _deliver(self, replica: RunningReplica, completions: Completions) -> None:
        for ticket, trace in completions:
            pending = replica.pending.pop(ticket, None)
            if pending is None:  # its caller was cancelled
                continue
            if isinstance(trace, Unavailable):
                pending.postpone(trace)
                continue
            if trace.ordinal != pending.request.ordinal:
                pending.refuse(
                    f"{replica} returned ordinal {trace.ordinal} for {pending.request.ordinal}: "
                    "its engine mixes up requests"
                )
                continue
            if not trace.lost:
                replica.n_in_a_row = 0
            pending.settle(trace)

    def _give_up(self, replica: RunningReplica, reason: str) -> None:
        """Remove a replica permanently; a pool fails with its last replica."""
        pool = replica.pool
        if not replica.up.done():
            replica.up.set_exception(EngineError(reason))
        if all(other.state is ReplicaState.LOST for other in pool.replicas if other is not replica):
            pool.failure = (
                f"no replica of the model pool {pool.spec.name!r} can be kept up; {reason}"
            )
        self._take_down(replica, ReplicaState.LOST, reason)
        waiting, pool.waiting = (pool.waiting, []) if pool.failure else ([], pool.waiting)
        for pending in waiting:
            pending.fail(pool.failure)

    def _take_down(self, replica: RunningReplica, state: ReplicaState, reason: str) -> None:
        """Take a replica out of service and start its pending requests elsewhere."""
        replica.state, replica.reason = state, reason
        if replica.actor is not None:
            cluster.kill(replica.actor)
        for pending in self._clear(replica):
            pending.replica = None
            pending.n_lost += 1
            if pending.aborted:
                pending.settle(
                    trace_for(pending.request, Finish.CANCELLED, note="lost with its replica")
                )
            elif pending.n_lost > self._supervision.max_restarts and not replica.pool.failure:
                pending.refuse(
                    f"{pending.n_lost} replicas were lost while they ran it; the last one: {reason}"
                )
            else:
                self._place(pending)

    def _clear(self, replica: RunningReplica) -> list[PendingRequest]:
        """Remove and return a replica's pending requests, in the order in which they were sent."""
        if replica.flush is not None:
            replica.flush.cancel()
        replica.running_tokens = 0
        orphans = list(replica.pending.values())
        replica.pending, replica.outbox, replica.aborts, replica.flush, replica.actor = (
            {},
            {},
            [],
            None,
            None,
        )
        return orphans

    def _supervisor_ended(self, replica: RunningReplica, supervisor: asyncio.Task[None]) -> None:
        """Give up a replica after an internal error ended its task: no request may wait for it."""
        error = None if supervisor.cancelled() else supervisor.exception()
        if error is not None:
            self._give_up(replica, f"{replica}: {type(error).__name__}: {error}")
        if not replica.up.done():
            replica.up.cancel()
