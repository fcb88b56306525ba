"""A fleet of engines as one engine: requests to replicas, and the care of the replicas: health,
restart, giving up.

What a replica held when it died is started again, with the same seed, on another one or on its
successor. A pool of which no replica can be brought back fails every request with the reason:
nothing hangs. Which replica a request goes to is decided in `core.routing`; options and placement
are `ray_fleet`'s.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from orchestrator.core.errors import EngineError
from orchestrator.core.values import Finish, Request, Trace
from orchestrator.engines.ray import cluster as ray_cluster
from orchestrator.engines.ray.pools import (
    PoolSpec,
    ReplicaState,
    ReplicaStats,
    Supervision,
    at_its_depth,
)
from orchestrator.engines.ray.replica import Completions, pack, unpack_collected
from orchestrator.engines.ray.routing import ReplicaView, route
from orchestrator.engines.reply import trace_for

Identity: TypeAlias = tuple[str, int]

FIRST_BACKOFF_SECONDS = 0.5  # before the first restart; doubled for each further one in a row
LAST_BACKOFF_SECONDS = 30.0
STOP_SECONDS = 15.0  # for an engine to close by itself before its process is killed
MAX_REMEMBERED = 65_536  # problems whose last replica is remembered: some 10 MB


@dataclass(slots=True, eq=False)
class _Held:
    """A request whose trace is owed."""

    request: Request
    trace: asyncio.Future[Trace]
    ticket: int = -1
    replica: _Replica | None = None
    aborted: bool = False
    n_lost: int = 0

    def settle(self, trace: Trace) -> None:
        if not self.trace.done():
            self.trace.set_result(trace)

    def fail(self, reason: str) -> None:
        if not self.trace.done():
            self.trace.set_exception(EngineError(reason))


@dataclass(slots=True, eq=False)
class _Replica:
    index: int
    pool: _PoolState
    up: asyncio.Future[None]  # done when it has come up for the first time, or failed to
    actor: Any = None
    state: ReplicaState = ReplicaState.STARTING
    where: str = ""
    pid: int = 0
    restarts: int = 0
    n_in_a_row: int = 0
    reason: str = ""
    held: dict[int, _Held] = field(default_factory=dict)  # by ticket, sent or about to be
    # the part of it that is yet to be sent
    outbox: dict[int, Request] = field(default_factory=dict)
    aborts: list[int] = field(default_factory=list)
    flush: asyncio.TimerHandle | None = None

    def __str__(self) -> str:
        return f"replica {self.pool.spec.name}/{self.index}"


@dataclass(slots=True, eq=False)
class _PoolState:
    spec: PoolSpec
    replicas: list[_Replica] = field(default_factory=list)
    waiting: list[_Held] = field(default_factory=list)  # while none of its replicas is up
    failure: str = ""


class _Lost(Exception):
    """A replica is gone; says why."""


class RayFleet:
    """Routes requests to replicas and keeps the replicas alive.

    Belongs to the event loop it was opened on.
    """

    def __init__(self, specs: Sequence[PoolSpec], care: Supervision) -> None:
        self._care = care
        self._loop = asyncio.get_running_loop()
        self._pools = {spec.name: _PoolState(spec) for spec in specs}
        self._replicas: list[_Replica] = []
        for pool in self._pools.values():
            for _ in range(pool.spec.n_replicas):
                replica = _Replica(len(self._replicas), pool, self._loop.create_future())
                self._replicas.append(replica)
                pool.replicas.append(replica)
        self._held: dict[Identity, _Held] = {}
        # (pool, problem) -> replica, least recent first
        self._last: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._lives: list[asyncio.Task[None]] = []
        self._n_tickets = 0

    async def start(self) -> None:
        """Bring up all replicas at once; EngineError with the first reason when one does not come
        up. Called once.
        """
        self._lives = [self._loop.create_task(self._live(replica)) for replica in self._replicas]
        for life, replica in zip(self._lives, self._replicas, strict=True):
            life.add_done_callback(partial(self._life_ended, replica))
        await asyncio.gather(*(replica.up for replica in self._replicas))

    async def close(self) -> None:
        """Stop all replicas; requests still pending fail.

        Their processes are gone, or have been told to go, on return.
        """
        for life in self._lives:
            life.cancel()
        if self._lives:
            await asyncio.wait(self._lives)
        for pool in self._pools.values():
            pool.failure = "the fleet was closed"
        for held in self._held.values():
            held.fail("the fleet was closed")
        actors = [replica.actor for replica in self._replicas if replica.actor is not None]
        graceful = [
            r.actor for r in self._replicas if r.actor is not None and r.state is ReplicaState.UP
        ]
        try:
            await ray_cluster.all_of([actor.stop.remote() for actor in graceful], STOP_SECONDS)
        finally:
            for replica in self._replicas:
                self._dismiss(replica)
            for actor in actors:
                ray_cluster.kill(actor)

    async def generate(self, request: Request) -> Trace:
        """Return the trace; FAILED when no pool serves the request's model or depth. EngineError
        when its pool cannot recover.

        Two requests of one identity must not be in flight at the same time: ValueError.
        """
        identity = request.identity
        if identity in self._held:
            raise ValueError(
                f"problem {request.problem_id!r}, ordinal {request.ordinal} is in flight already"
            )
        sent = at_its_depth(request, [pool.spec for pool in self._pools.values()])
        held = self._held[identity] = _Held(sent, self._loop.create_future())
        try:
            self._place(held)
            return replace(await held.trace, model=request.model)
        finally:
            del self._held[identity]
            self._retract(held)

    def abort(self, request: Request) -> None:
        """Stop a request: its `generate` returns a CANCELLED trace with the tokens so far, none
        when it had not been sent.
        """
        held = self._held.get(request.identity)
        if held is None or held.aborted:
            return
        held.aborted = True
        if not self._recall(held):
            held.settle(trace_for(held.request, Finish.CANCELLED))

    def stats(self) -> tuple[ReplicaStats, ...]:
        """Return where each replica stands, in order of pools."""
        return tuple(
            ReplicaStats(
                r.pool.spec.name, r.index, r.state, r.pid, r.restarts, len(r.held), r.reason
            )
            for r in self._replicas
        )

    # Requests

    def _place(self, held: _Held) -> None:
        """Give a request to a replica, or let it wait for one, or settle it when none can ever
        serve it.
        """
        request = held.request
        pool = self._pool(request)
        if pool is None:
            known = ", ".join(self._pools)
            held.settle(
                trace_for(
                    request,
                    Finish.FAILED,
                    error=f"no replica serves the model {request.model!r}; there are: {known}",
                )
            )
        elif (
            request.depth is not None
            and pool.spec.depths is not None
            and request.depth not in pool.spec.depths
        ):
            depths = ", ".join(map(str, pool.spec.depths)) or "the model's own only"
            text = f"no replica of {pool.spec.name!r} serves the latent depth {request.depth}; they serve: {depths}"
            held.settle(trace_for(request, Finish.FAILED, error=text))
        elif pool.failure:
            held.fail(pool.failure)
        else:
            self._send(held, pool)

    def _pool(self, request: Request) -> _PoolState | None:
        """Return the pool a request is for; the first one when it names none."""
        return self._pools.get(request.model) if request.model else next(iter(self._pools.values()))

    def _send(self, held: _Held, pool: _PoolState) -> None:
        key = pool.spec.name, held.request.problem_id
        views = [
            ReplicaView(r.index, held.request.model, len(r.held), pool.spec.depths)
            for r in pool.replicas
            if r.state is ReplicaState.UP
        ]
        index = route(held.request, views, self._last.get(key))
        if index is None:
            pool.waiting.append(held)
            return
        self._remember(key, index)
        replica = held.replica = self._replicas[index]
        self._n_tickets += 1
        held.ticket = self._n_tickets
        replica.held[held.ticket] = held
        replica.outbox[held.ticket] = held.request
        self._flush_soon(replica)

    def _remember(self, key: tuple[str, str], index: int) -> None:
        self._last[key] = index
        self._last.move_to_end(key)
        if len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)

    def _recall(self, held: _Held) -> bool:
        """Stop a request wherever it is and tell whether a replica still owes its trace."""
        replica = held.replica
        if replica is None:
            pool = self._pool(held.request)
            if pool is not None and held in pool.waiting:
                pool.waiting.remove(held)
            return False
        if replica.outbox.pop(held.ticket, None) is not None:
            replica.held.pop(held.ticket, None)
            return False
        if held.ticket not in replica.held:
            return False
        replica.aborts.append(held.ticket)
        self._flush_soon(replica)
        return True

    def _retract(self, held: _Held) -> None:
        """Forget a request whose caller has gone before its trace came; nothing for one that has
        been settled.
        """
        if held.replica is None or held.ticket in held.replica.held:
            self._recall(held)
            if held.replica is not None:
                held.replica.held.pop(held.ticket, None)

    def _flush_soon(self, replica: _Replica) -> None:
        if replica.flush is None:
            replica.flush = self._loop.call_later(self._care.linger_seconds, self._flush, replica)

    def _flush(self, replica: _Replica) -> None:
        replica.flush = None
        outbox, replica.outbox = replica.outbox, {}
        aborts, replica.aborts = replica.aborts, []
        # What comes of these calls is not looked at: a replica that does not get them has died, and
        # `collect` says so. of requests sent earlier; first, so that one sent again finds its
        # namesake leaving
        if aborts:
            replica.actor.abort.remote(aborts)
        if outbox:
            replica.actor.submit.remote(pack(list(outbox.items())))

    # Replicas

    async def _live(self, replica: _Replica) -> None:
        """Keep one replica up until it is given up."""
        while True:
            try:
                await self._bring_up(replica)
                await self._collect(replica)
            except _Lost as lost:
                reason = str(lost)
            if not replica.up.done() or replica.n_in_a_row >= self._care.max_restarts:
                self._give_up(replica, reason)
                return
            self._bury(replica, ReplicaState.RESTARTING, reason)
            await asyncio.sleep(
                min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**replica.n_in_a_row)
            )
            replica.n_in_a_row += 1
            replica.restarts += 1

    async def _bring_up(self, replica: _Replica) -> None:
        spec, care = replica.pool.spec, self._care
        arguments = (spec.origin, dict(spec.options), {spec.name: spec.model}, care.linger_seconds)
        step = f"Ray has found no place for it (it asks for {ray_cluster.shown(spec.resources)})"
        try:
            async with asyncio.timeout(care.start_seconds):
                replica.actor = ray_cluster.new_actor(arguments, spec.resources, care.runtime_env)
                replica.pid, host = await ray_cluster.reply(replica.actor.place.remote())
                replica.where, step = f"process {replica.pid} on {host}", "its engine is not up"
                reason = await ray_cluster.reply(replica.actor.start.remote())
        except TimeoutError:
            raise _Lost(
                f"{replica}: {step} after {care.start_seconds:g} s; {ray_cluster.free()}"
            ) from None
        except ray_cluster.ReplicaDied as died:
            raise _Lost(f"{replica} did not start: {died}") from died
        if reason:
            raise _Lost(f"{replica} did not start: {reason}")
        replica.state = ReplicaState.UP
        if not replica.up.done():
            replica.up.set_result(None)
        waiting, replica.pool.waiting = replica.pool.waiting, []
        for held in waiting:
            self._place(held)

    async def _collect(self, replica: _Replica) -> None:
        """Take traces from a replica until it is lost: _Lost says how."""
        limit = self._care.heartbeat_seconds
        while True:
            try:
                async with asyncio.timeout(limit):
                    data = await ray_cluster.reply(replica.actor.collect.remote(limit / 3))
            except TimeoutError:
                raise _Lost(f"{replica} ({replica.where}) gave no sign for {limit:g} s") from None
            except ray_cluster.ReplicaDied as died:
                raise _Lost(f"{replica} ({replica.where}) died: {died}") from died
            completions, failure = unpack_collected(data)
            self._deliver(replica, completions)
            if failure:
                raise _Lost(f"the engine of {replica} failed: {failure}")

    def _deliver(self, replica: _Replica, completions: Completions) -> None:
        for ticket, trace in completions:
            held = replica.held.pop(ticket, None)
            if held is None:  # its caller has gone
                continue
            if trace.ordinal != held.request.ordinal:
                text = f"{replica} returned ordinal {trace.ordinal} for {held.request.ordinal}: its engine mixes up requests"
                trace = trace_for(held.request, Finish.FAILED, error=text)
            elif trace.finish not in (Finish.FAILED, Finish.CANCELLED):
                replica.n_in_a_row = 0
            held.settle(trace)

    def _give_up(self, replica: _Replica, reason: str) -> None:
        """Take a replica out of service for good; with a pool's last one the pool fails."""
        pool = replica.pool
        if not replica.up.done():
            replica.up.set_exception(EngineError(reason))
        if all(other.state is ReplicaState.LOST for other in pool.replicas if other is not replica):
            pool.failure = (
                f"no replica of the model pool {pool.spec.name!r} can be kept up; {reason}"
            )
        self._bury(replica, ReplicaState.LOST, reason)
        waiting, pool.waiting = (pool.waiting, []) if pool.failure else ([], pool.waiting)
        for held in waiting:
            held.fail(pool.failure)

    def _bury(self, replica: _Replica, state: ReplicaState, reason: str) -> None:
        """Take a replica out of service and start what it held elsewhere."""
        replica.state, replica.reason = state, reason
        if replica.actor is not None:
            ray_cluster.kill(replica.actor)
        for held in self._dismiss(replica):
            held.replica = None
            held.n_lost += 1
            if held.aborted:
                held.settle(trace_for(held.request, Finish.CANCELLED, note="lost with its replica"))
            elif held.n_lost > self._care.max_restarts and not replica.pool.failure:
                text = f"{held.n_lost} replicas were lost while they ran it; the last one: {reason}"
                held.settle(trace_for(held.request, Finish.FAILED, error=text))
            else:
                self._place(held)

    def _dismiss(self, replica: _Replica) -> list[_Held]:
        """Return what a replica held, in order of sending, and leave it with nothing."""
        if replica.flush is not None:
            replica.flush.cancel()
        orphans = list(replica.held.values())
        replica.held, replica.outbox, replica.aborts, replica.flush, replica.actor = (
            {},
            {},
            [],
            None,
            None,
        )
        return orphans

    def _life_ended(self, replica: _Replica, life: asyncio.Task[None]) -> None:
        """Give a replica up whose task ended by an error of ours, so that nobody waits for it."""
        error = None if life.cancelled() else life.exception()
        if error is not None:
            self._give_up(replica, f"{replica}: {type(error).__name__}: {error}")
        if not replica.up.done():
            replica.up.cancel()
