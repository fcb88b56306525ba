"""The state of a running fleet: requests, replicas and pools.

Only `fleet` and `supervisor` change it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.errors import EngineError, Unavailable
from orchestrator.core.values import Finish, Request, Trace
from orchestrator.engines.ray.pools import PoolSpec, ReplicaState
from orchestrator.engines.ray.replica import Completions
from orchestrator.engines.reply import trace_for

# Without a place, before that is reported and the job starts without it. A process that Ray starts
# on a busy node may take ten seconds until it answers.
UNPLACED_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request that has no trace yet."""

    request: Request
    trace: asyncio.Future[Trace]
    ticket: int = -1
    replica: RunningReplica | None = None
    aborted: bool = False
    n_lost: int = 0  # with its replica
    n_lost_nodes: int = 0  # with the node of its replica

    def settle(self, trace: Trace) -> None:
        """Deliver the trace, unless a trace was already delivered."""
        if not self.trace.done():
            self.trace.set_result(trace)

    def refuse(self, error: str) -> None:
        """Deliver a FAILED trace."""
        self.settle(trace_for(self.request, Finish.FAILED, error=error))

    def postpone(self, error: Unavailable) -> None:
        """Raise the engine's refusal to the caller, unless a trace was already delivered."""
        if not self.trace.done():
            self.trace.set_exception(error)

    def fail(self, reason: str) -> None:
        """Raise EngineError to the caller, unless a trace was already delivered."""
        if not self.trace.done():
            self.trace.set_exception(EngineError(reason))


@dataclass(slots=True, eq=False)
class RunningReplica:
    """A replica: its process, its state and its requests."""

    index: int
    pool: RunningPool
    up: asyncio.Future[None]  # done when it has started for the first time, or failed to
    actor: Any = None
    state: ReplicaState = ReplicaState.STARTING
    location: str = ""
    pid: int = 0
    restarts: int = 0
    n_in_a_row: int = 0  # restarts since its last completed trace
    n_lost_nodes: int = 0  # those of them that were for the loss of its node
    task: asyncio.Task[None] | None = None  # that keeps it alive
    placed_at: float | None = None  # time of the loop; None before Ray has placed it
    unplaced_since: float | None = None  # time of the loop, while it waits for a place
    running_tokens: int = 0  # output tokens so far of its requests, as it last reported
    reason: str = ""
    pending: dict[int, PendingRequest] = field(
        default_factory=dict
    )  # by ticket, sent or about to be sent
    # the part of `pending` that is not sent yet
    outbox: dict[int, Request] = field(default_factory=dict)
    aborts: list[int] = field(default_factory=list)
    flush: asyncio.TimerHandle | None = None

    def __str__(self) -> str:
        return f"replica {self.pool.spec.name}/{self.index}"

    def gpu_seconds(self, now: float) -> float:
        """Return the seconds since it was placed, times its GPUs."""
        gpus = self.pool.spec.resources.get("GPU", 0.0)
        return 0.0 if self.placed_at is None else gpus * (now - self.placed_at)

    def deliver(self, completions: Completions) -> None:
        """Settle the requests whose traces have arrived."""
        for ticket, trace in completions:
            pending = self.pending.pop(ticket, None)
            if pending is None:  # its caller was cancelled
                continue
            if isinstance(trace, Unavailable):
                pending.postpone(trace)
                continue
            if trace.ordinal != pending.request.ordinal:
                pending.refuse(
                    f"{self} returned ordinal {trace.ordinal} for {pending.request.ordinal}: "
                    "its engine mixes up requests"
                )
                continue
            if not trace.lost:
                self.n_in_a_row = self.n_lost_nodes = 0
            pending.settle(trace)

    def clear(self) -> list[PendingRequest]:
        """Forget the process; return its pending requests, in the order in which they were sent."""
        if self.flush is not None:
            self.flush.cancel()
        orphans = list(self.pending.values())
        self.pending, self.outbox, self.aborts = {}, {}, []
        self.flush = self.actor = self.placed_at = None
        self.running_tokens = 0
        return orphans


@dataclass(slots=True, eq=False)
class RunningPool:
    """A pool: its replicas, and the requests that wait for one."""

    spec: PoolSpec
    replicas: list[RunningReplica] = field(default_factory=list)
    waiting: list[PendingRequest] = field(default_factory=list)  # while none of its replicas is up
    failure: str = ""
    shortage: str = ""  # why a replica waits for a place, if one does

    @property
    def unplaced(self) -> list[RunningReplica]:
        """The replicas that wait for a place."""
        return [replica for replica in self.replicas if replica.unplaced_since is not None]

    @property
    def n_requests(self) -> int:
        """The requests in flight, waiting ones included."""
        return len(self.waiting) + sum(len(replica.pending) for replica in self.replicas)

    def waits(self, now: float) -> list[float]:
        """Return for how many seconds they wait, at this time of the loop."""
        times = (replica.unplaced_since for replica in self.replicas)
        return [now - since for since in times if since is not None]

    def notices(self, now: float) -> Iterator[str]:
        """Yield what the pool lacks: replicas without a place, and those given up."""
        long = [wait for wait in self.waits(now) if wait >= UNPLACED_SECONDS]
        if long and self.shortage:  # known at the next look at it
            yield (
                f"{len(long)} of {len(self.replicas)} replicas of {self.spec.name!r} without a "
                f"place for {max(long):.0f} s: {self.shortage}"
            )
        for lost in self.in_state(ReplicaState.LOST):
            yield f"{lost} given up: {lost.reason}"

    def in_state(self, *states: ReplicaState) -> list[RunningReplica]:
        """Return the replicas that are in one of these states."""
        return [replica for replica in self.replicas if replica.state in states]

    def has_another(self, replica: RunningReplica) -> bool:
        """Return whether Ray has placed another replica."""
        return any(r.placed_at is not None for r in self.replicas if r is not replica)
