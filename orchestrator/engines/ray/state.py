"""The state of a running fleet: requests, replicas and pools; only `fleet` changes it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.errors import EngineError, Unavailable
from orchestrator.core.values import Finish, Request, Trace
from orchestrator.engines.ray.pools import PoolSpec, ReplicaState
from orchestrator.engines.reply import trace_for


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request that has no trace yet."""

    request: Request
    trace: asyncio.Future[Trace]
    ticket: int = -1
    replica: RunningReplica | None = None
    aborted: bool = False
    n_lost: int = 0

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
    n_in_a_row: int = 0
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


@dataclass(slots=True, eq=False)
class RunningPool:
    """A pool: its replicas, and the requests that wait for one."""

    spec: PoolSpec
    replicas: list[RunningReplica] = field(default_factory=list)
    waiting: list[PendingRequest] = field(default_factory=list)  # while none of its replicas is up
    failure: str = ""
