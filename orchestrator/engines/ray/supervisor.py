"""Keeps the replicas of a fleet alive, and as many of them as their pools need.

The one rule: nothing waits for a replica that will not come. A replica that died is restarted;
without a place it waits, as a pending actor that asks Ray's autoscaler for a node, as long as
another one of its pool lives, and else for a limited time. If no replica of a pool can be kept up,
or the cluster's head is gone, the pool fails every request with the reason. `scaling` decides how
many replicas there should be; requests are `fleet`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from orchestrator.core.errors import EngineError
from orchestrator.core.values import Finish
from orchestrator.engines.ray import cluster
from orchestrator.engines.ray.head import head_answered, head_lost
from orchestrator.engines.ray.pools import ReplicaState, ReplicaSupervision
from orchestrator.engines.ray.replica import unpack_collected
from orchestrator.engines.ray.scaling import Scaling
from orchestrator.engines.ray.state import (
    UNPLACED_SECONDS,
    PendingRequest,
    RunningPool,
    RunningReplica,
)
from orchestrator.engines.reply import trace_for

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5  # before the first restart; doubled for each consecutive restart
LAST_BACKOFF_SECONDS = 30.0
COLLECT_SECONDS = 5.0  # the longest that a replica's count of running tokens may be old
STOP_SECONDS = 15.0  # for an engine to close by itself before its process is killed
PLACE_SECONDS = 1.0  # between two looks at a replica that waits for a place
SCALE_SECONDS = 1.0  # between two looks at the number of requests
# Nodes are lost at random, as where they are preempted, so a replica or request may lose more nodes
# than it may die by itself. That many in a row are its own doing.
MAX_LOST_NODES = 10


class _ReplicaLost(Exception):
    """A replica is lost; the message gives the reason."""

    def __init__(self, reason: str, *, node: bool = False, final: bool = False) -> None:
        super().__init__(reason)
        self.node = node  # its node is lost, too
        self.final = final  # it cannot be restarted


class Supervisor:
    """Starts, restarts, drains and stops the replicas of all pools."""

    def __init__(
        self,
        pools: Iterable[RunningPool],
        supervision: ReplicaSupervision,
        place: Callable[[PendingRequest], None],
    ) -> None:
        """Add the replicas that the pools have at least; `place` finds another for a request."""
        self.replicas: dict[int, RunningReplica] = {}
        self._unplaced_seconds = 0.0  # of replicas that had to wait for a place
        self._unplaced_reason = ""  # of the last of them
        self._pools = list(pools)
        self._supervision = supervision
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._watches: list[asyncio.Task[None]] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._n_added = 0
        self._gpu_seconds = 0.0  # of replicas that are gone
        self._head_is_lost = False
        for pool in self._pools:
            for _ in range(pool.spec.replicas.min):
                self._add(pool)

    async def start(self) -> None:
        """Start all replicas concurrently; return when each is up, or waits for a place.

        At least one of each pool is up. EngineError with the first reason if one does not start.
        """
        began = list(self.replicas.values())
        for replica in began:
            self._launch(replica)
        self._watches = [self._loop.create_task(self._watch_head())]
        if any(not pool.spec.replicas.is_fixed for pool in self._pools):
            self._watches.append(self._loop.create_task(self._scale()))
        await asyncio.gather(*(replica.up for replica in began))

    async def cancel(self) -> None:
        """Stop to supervise."""
        tasks = [*self._watches, *(r.task for r in self.replicas.values() if r.task)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def stop(self) -> None:
        """Stop all replicas; on return their processes have ended or are about to end."""
        replicas = [r for r in self.replicas.values() if r.actor is not None]
        actors = [replica.actor for replica in replicas]
        states = (ReplicaState.UP, ReplicaState.DRAINING)
        graceful = [r.actor for r in replicas if r.state in states and not self._head_is_lost]
        try:
            await cluster.all_of([actor.stop.remote() for actor in graceful], STOP_SECONDS)
            await asyncio.gather(*self._leaving)
        finally:
            for replica in replicas:
                self._clear(replica)
            for actor in actors:
                self._kill(actor)

    def gpu_seconds(self) -> float:
        """Return the seconds of all replicas since Ray placed them, times their GPUs."""
        return self._gpu_seconds + sum(
            replica.gpu_seconds(self._loop.time()) for replica in self.replicas.values()
        )

    def unplaced(self) -> tuple[float, str]:
        """Return for how many seconds replicas waited for a place so far, and the last reason."""
        now, seconds, reason = self._loop.time(), self._unplaced_seconds, self._unplaced_reason
        for pool in self._pools:
            if pool.shortage:
                seconds, reason = seconds + sum(pool.waits(now)), pool.shortage
        return seconds, reason

    def notices(self) -> tuple[str, ...]:
        """Return what the fleet lacks now: replicas without a place, and those given up."""
        return tuple(text for pool in self._pools for text in pool.notices(self._loop.time()))

    # The life of a replica

    def _add(self, pool: RunningPool) -> RunningReplica:
        replica = RunningReplica(self._n_added, pool, self._loop.create_future())
        self._n_added += 1
        self.replicas[replica.index] = replica
        pool.replicas.append(replica)
        return replica

    def _launch(self, replica: RunningReplica) -> None:
        replica.task = self._loop.create_task(self._supervise(replica))
        replica.task.add_done_callback(partial(self._supervision_ended, replica))

    async def _supervise(self, replica: RunningReplica) -> None:
        """Keep one replica running until it is given up, or has left."""
        while True:
            try:
                await self._bring_up(replica)
                await self._collect(replica)
            except _ReplicaLost as error:
                lost = error
            else:
                self._leave(replica)
                return
            await head_answered()  # else it is the head that is lost
            if replica.state is ReplicaState.DRAINING:
                self._take_down(replica, ReplicaState.LOST, lost)
                self._remove(replica)
                return
            if lost.final or not self._may_restart(replica, lost):
                self._give_up(replica, lost)
                return
            self._take_down(replica, ReplicaState.RESTARTING, lost)
            n = replica.n_in_a_row + replica.n_lost_nodes
            await asyncio.sleep(min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**n))
            replica.n_lost_nodes += lost.node
            replica.n_in_a_row += not lost.node
            replica.restarts += 1

    def _may_restart(self, replica: RunningReplica, lost: _ReplicaLost) -> bool:
        if lost.node:
            return replica.n_lost_nodes < MAX_LOST_NODES
        return replica.up.done() and replica.n_in_a_row < self._supervision.max_restarts

    async def _bring_up(self, replica: RunningReplica) -> None:
        spec, supervision = replica.pool.spec, self._supervision
        arguments = spec.origin, dict(spec.options), spec.models, supervision.linger_seconds
        try:
            runtime_env, n_nodes = supervision.runtime_env, spec.n_nodes
            replica.actor = cluster.new_actor(arguments, spec.resources, runtime_env, n_nodes)
            replica.pid, host = await self._placement(replica)
            replica.placed_at = self._loop.time()
            replica.location = f"process {replica.pid} on {host}"
            async with asyncio.timeout(supervision.start_seconds):
                reason = await cluster.start(replica.actor)
        except TimeoutError:
            raise _ReplicaLost(
                f"{replica}: its engine is not up after {supervision.start_seconds:g} s"
            ) from None
        except cluster.ReplicaDied as died:
            raise _ReplicaLost(f"{replica} did not start: {died}", node=died.node) from died
        if reason:
            raise _ReplicaLost(f"{replica} did not start: {reason}")
        replica.state = ReplicaState.UP
        if not replica.up.done():
            replica.up.set_result(None)
        waiting, replica.pool.waiting = replica.pool.waiting, []
        for pending in waiting:
            self._place(pending)

    async def _placement(self, replica: RunningReplica) -> tuple[int, str]:
        """Return process id and host as soon as Ray has placed the replica.

        The pending actor asks Ray's autoscaler for a node, for as long as another replica of the
        pool lives, or for `place_seconds`.
        """
        pool, limit = replica.pool, self._supervision.place_seconds
        began = alone_since = replica.unplaced_since = self._loop.time()
        call = asyncio.ensure_future(cluster.result(replica.actor.place.remote()))
        try:
            while not (await asyncio.wait({call}, timeout=PLACE_SECONDS))[0]:
                now = self._loop.time()
                if now - began < UNPLACED_SECONDS:
                    continue
                if pool.has_another(replica):
                    alone_since = now
                    if not replica.up.done():  # the job starts without it
                        replica.up.set_result(None)
                await self._report_unplaced(replica)
                if now - alone_since >= limit:
                    raise _ReplicaLost(
                        f"{replica}: in {now - began:.0f} s {pool.shortage}", final=True
                    )
            pid, host = call.result()
            return pid, host
        finally:
            call.cancel()
            replica.unplaced_since = None
            wait = self._loop.time() - began
            if wait >= UNPLACED_SECONDS:
                self._unplaced_seconds += wait
                self._unplaced_reason = pool.shortage
            if not pool.unplaced:
                pool.shortage = ""

    async def _report_unplaced(self, replica: RunningReplica) -> None:
        pool = replica.pool
        if replica is not pool.unplaced[0]:  # which reports for all
            return
        is_new, spec = not pool.shortage, pool.spec
        needs = cluster.in_words(spec.resources, spec.n_nodes)
        free = f"; the cluster has {await cluster.free()} free"
        pool.shortage = f"Ray has found no place for a replica that needs {needs}{free}"
        if is_new:
            logger.warning("%s: %s", replica, pool.shortage)

    async def _collect(self, replica: RunningReplica) -> None:
        """Collect traces from a replica until it has left; _ReplicaLost when it is lost."""
        limit = self._supervision.heartbeat_seconds
        longest = min(limit / 3, COLLECT_SECONDS)
        while not (replica.state is ReplicaState.DRAINING and not replica.pending):
            try:
                async with asyncio.timeout(limit):
                    data = await cluster.result(replica.actor.collect.remote(longest))
            except TimeoutError:
                raise _ReplicaLost(
                    f"{replica} ({replica.location}) gave no sign for {limit:g} s"
                ) from None
            except cluster.ReplicaDied as died:
                reason = f"{replica} ({replica.location}) died: {died}"
                raise _ReplicaLost(reason, node=died.node) from died
            completions, failure, replica.running_tokens = unpack_collected(data)
            replica.deliver(completions)
            if failure:
                raise _ReplicaLost(f"the engine of {replica} failed: {failure}")

    def _give_up(self, replica: RunningReplica, lost: _ReplicaLost) -> None:
        """Remove a replica permanently; a pool fails with its last replica."""
        pool = replica.pool
        if not replica.up.done():
            replica.up.set_exception(EngineError(str(lost)))
        if all(other.state is ReplicaState.LOST for other in pool.replicas if other is not replica):
            pool.failure = f"no replica of the model pool {pool.spec.name!r} can be kept up; {lost}"
        self._take_down(replica, ReplicaState.LOST, lost)
        if pool.failure:
            _fail_waiting(pool)

    def _take_down(self, replica: RunningReplica, state: ReplicaState, lost: _ReplicaLost) -> None:
        """Take a replica out of service and start its pending requests elsewhere."""
        replica.state, replica.reason = state, str(lost)
        if replica.actor is not None:
            self._kill(replica.actor)
        if not replica.pool.in_state(ReplicaState.UP):
            for draining in replica.pool.in_state(ReplicaState.DRAINING):
                draining.state = ReplicaState.UP
        for pending in self._clear(replica):
            pending.replica = None
            pending.n_lost += not lost.node
            pending.n_lost_nodes += lost.node
            if pending.aborted:
                pending.settle(
                    trace_for(pending.request, Finish.CANCELLED, note="lost with its replica")
                )
            elif self._is_lost_too_often(pending) and not replica.pool.failure:
                n = pending.n_lost + pending.n_lost_nodes
                pending.refuse(f"{n} replicas were lost while they ran it; the last one: {lost}")
            else:
                self._place(pending)

    def _is_lost_too_often(self, pending: PendingRequest) -> bool:
        is_deadly = pending.n_lost > self._supervision.max_restarts
        return is_deadly or pending.n_lost_nodes > MAX_LOST_NODES

    def _clear(self, replica: RunningReplica) -> list[PendingRequest]:
        """Remove and return a replica's pending requests, in the order in which they were sent."""
        self._gpu_seconds += replica.gpu_seconds(self._loop.time())
        return replica.clear()

    def _kill(self, actor: object) -> None:
        if not self._head_is_lost:  # Ray would wait for it
            cluster.kill(actor)

    def _supervision_ended(self, replica: RunningReplica, task: asyncio.Task[None]) -> None:
        """Give up a replica after an internal error ended its task: no request may wait for it."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._give_up(replica, _ReplicaLost(f"{replica}: {type(error).__name__}: {error}"))
        if not replica.up.done():
            replica.up.cancel()

    # How many there are

    async def _scale(self) -> None:
        """Keep the number of replicas of each pool at what its requests need."""
        scalings = {pool.spec.name: Scaling(pool.spec.replicas) for pool in self._pools}
        while True:
            await asyncio.sleep(SCALE_SECONDS)
            for pool in self._pools:
                draining = pool.in_state(ReplicaState.DRAINING)
                n = len(pool.replicas) - len(draining)
                scaling = scalings[pool.spec.name]
                wanted = scaling.wanted(self._loop.time(), pool.n_requests, n)
                for replica in draining[: max(0, wanted - n)]:
                    replica.state = ReplicaState.UP
                    n += 1
                for _ in range(wanted - n):
                    self._launch(self._add(pool))
                for replica in _least_useful(pool)[: max(0, n - wanted)]:
                    self._drain(replica)

    def _drain(self, replica: RunningReplica) -> None:
        """Let a replica finish what it runs, and leave; at once if it is not up."""
        if replica.state is ReplicaState.UP:
            replica.state = ReplicaState.DRAINING
            return
        assert replica.task is not None
        replica.task.cancel()
        self._leave(replica)

    def _leave(self, replica: RunningReplica) -> None:
        """Stop a replica that runs nothing."""
        actor, is_up = replica.actor, replica.state is ReplicaState.DRAINING
        self._clear(replica)
        self._remove(replica)
        if actor is not None:
            leaving = self._loop.create_task(self._stopped(actor, is_up))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _stopped(self, actor: object, is_up: bool) -> None:
        if is_up:
            await cluster.all_of([actor.stop.remote()], STOP_SECONDS)  # type: ignore[attr-defined]  # Ray's handle is untyped
        self._kill(actor)

    def _remove(self, replica: RunningReplica) -> None:
        replica.pool.replicas.remove(replica)
        del self.replicas[replica.index]

    async def _watch_head(self) -> None:
        """Fail all pools when the head is lost: nothing would be placed any more."""
        reason = await head_lost()
        self._head_is_lost = True
        for pool in self._pools:
            pool.failure = reason
            _fail_waiting(pool)
            for replica in pool.replicas:
                if replica.task is not None:
                    replica.task.cancel()
                if not replica.up.done():
                    replica.up.set_exception(EngineError(reason))
                for pending in self._clear(replica):
                    pending.fail(reason)


def _fail_waiting(pool: RunningPool) -> None:
    waiting, pool.waiting = pool.waiting, []
    for pending in waiting:
        pending.fail(pool.failure)


def _least_useful(pool: RunningPool) -> list[RunningReplica]:
    """Return the replicas that may leave: first those not up, then the least busy and youngest."""
    states = (ReplicaState.STARTING, ReplicaState.RESTARTING, ReplicaState.UP)
    return sorted(
        pool.in_state(*states),
        key=lambda r: (r.state is ReplicaState.UP, len(r.pending), -r.index),
    )
