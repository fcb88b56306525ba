"""The process of a replica: one engine, called with batches of requests and traces.

An engine may be spread over several nodes; then a `Follower` on each other node runs its part.

The one rule: never one message per request or token. Requests arrive in batches, and `collect` is a
long poll that returns all finished traces, or an empty batch as a heartbeat. Every request has a
ticket, a number that its fleet never uses twice, so a late completion cannot be mistaken for that
of a request sent again. This file does not import Ray: `cluster` turns `Replica` into an actor.

Batches are pickled with plain `pickle`, not with Ray's slower cloudpickle; within a batch, a prompt
shared by several requests is stored once.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.core.errors import EngineError, LeadlineError, Unavailable
from orchestrator.core.plan import Model
from orchestrator.core.protocols import Engine, EngineNode
from orchestrator.core.values import Finish, Request, Trace
from orchestrator.engines.reply import trace_for
from orchestrator.plan import registry

Orders: TypeAlias = list[tuple[int, Request]]  # (ticket, request)
# (ticket, trace or why there is none yet), in order of completion
Completions: TypeAlias = list[tuple[int, Trace | Unavailable]]
# and why the engine died, or ""; and the output tokens so far of the requests that still run
Collected: TypeAlias = tuple[Completions, str, int]

# traces in one reply: 256 traces of 32,000 token ids are about 25 MB, little for Ray's object store
MAX_BATCH = 256


def pack(value: Orders | Collected) -> bytes:
    """Return a batch as bytes."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def unpack_collected(data: bytes) -> Collected:
    """Return the batch that `Replica.collect` packed."""
    return pickle.loads(data)  # type: ignore[no-any-return]  # pickle is untyped; both ends are ours


class Replica:
    """Runs one engine for one model pool; all methods run on one event loop."""

    def __init__(
        self,
        origin: str,
        options: Mapping[str, object],
        models: Mapping[str, Model],
        linger_seconds: float,
    ) -> None:
        """Take the engine's class at `origin` ("module:Class") and its options; starts nothing."""
        self._origin = origin
        self._options = options
        self._models = models
        self._linger_seconds = linger_seconds
        self._engine: Engine | None = None
        self._holder: asyncio.Task[None] | None = None
        self._watches: list[asyncio.Task[None]] = []  # of the engine's parts on other nodes
        self._stopping = asyncio.Event()
        self._has_results = asyncio.Event()  # set while there is something to collect
        self._requests: dict[int, Request] = {}
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}  # the latest of each identity
        self._aborted: set[int] = set()
        self._completions: Completions = []
        self._failure = ""

    async def place(self) -> tuple[int, str]:
        """Return process id and host name, as soon as Ray has placed the process."""
        return os.getpid(), socket.gethostname()

    async def start(self, followers: Sequence[Any] = (), addresses: Sequence[str] = ()) -> str:
        """Open the engine; return "" or the reason why it failed to open. Called once.

        It is spread over this node and those of the followers, which are handles of `Follower`;
        `addresses` are those of all nodes, this one first.
        """
        _undo_thread_limit()
        opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        port = _free_port() if followers else 0
        for rank, follower in enumerate(followers, start=1):
            node = EngineNode(rank, tuple(addresses), port)
            watch = self._watch(follower.follow.remote(node), node, opened)
            self._watches.append(asyncio.create_task(watch))
        node = EngineNode(0, tuple(addresses), port)
        self._holder = asyncio.create_task(self._hold_engine(opened, node))
        return await opened

    async def submit(self, batch: bytes) -> None:
        """Start the requests of a packed batch; `collect` returns their traces."""
        orders: Orders = pickle.loads(batch)
        for ticket, request in orders:
            identity = request.identity
            self._requests[ticket] = request
            self._tasks[identity] = asyncio.create_task(
                self._complete(ticket, request, self._tasks.get(identity))
            )

    async def abort(self, tickets: list[int]) -> None:
        """Stop these requests; `collect` returns their traces with the tokens so far.

        Unknown tickets are ignored.
        """
        for ticket in tickets:
            if ticket in self._requests:
                self._aborted.add(ticket)
                if self._engine is not None:
                    self._engine.abort(self._requests[ticket])

    async def collect(self, max_wait_seconds: float) -> bytes:
        """Return a packed `Collected`, or an empty one after the wait. One call at a time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max_wait_seconds):
                await self._has_results.wait()
        if self._completions and self._requests and not self._failure:
            await asyncio.sleep(self._linger_seconds)
        batch, self._completions = self._completions[:MAX_BATCH], self._completions[MAX_BATCH:]
        if not self._completions and not self._failure:
            self._has_results.clear()
        running_tokens = getattr(self._engine, "running_tokens", lambda: 0)()
        return pack((batch, self._failure, running_tokens))

    async def stop(self) -> None:
        """Close the engine; running requests are dropped."""
        for task in self._tasks.values():
            task.cancel()
        self._stopping.set()
        if self._holder is not None:
            await asyncio.wait({self._holder})

    async def _hold_engine(self, opened: asyncio.Future[str], node: EngineNode) -> None:
        """Keep the engine's context open in one task, as task groups and time limits require."""
        try:
            factory = registry.load_origin(self._origin, self._options)
            if self._watches:
                factory = factory.on_node(node)
            async with factory.open(self._models) as self._engine:
                _settle(opened, "")
                await self._stopping.wait()
        except Exception as error:  # noqa: BLE001  # passed to the fleet as the reason
            self._end(opened, _text(error) + _log_place())

    async def _watch(
        self, part: Awaitable[str], node: EngineNode, opened: asyncio.Future[str]
    ) -> None:
        """Fail when the engine's part on another node has ended: it cannot work without."""
        try:
            reason = await part
        except Exception as error:  # noqa: BLE001  # Ray's, when the process or its node has died
            reason = _text(error)
        self._end(opened, f"its part on {node.address} ended: {reason}")

    def _end(self, opened: asyncio.Future[str], reason: str) -> None:
        """Report why the engine has not opened, or why it failed."""
        if opened.done():
            self._fail(reason)
        else:
            opened.set_result(reason)

    async def _complete(
        self, ticket: int, request: Request, predecessor: asyncio.Task[None] | None
    ) -> None:
        """Run one request, after any earlier, cancelled request of the same identity.

        The engine cannot tell them apart, as it does not see tickets.
        """
        assert self._engine is not None
        if predecessor is not None:
            await asyncio.wait({predecessor})
        try:
            # an abort may arrive before the first step of this task: the engine would not know the
            # request
            trace: Trace | Unavailable
            if ticket in self._aborted:
                trace = trace_for(request, Finish.CANCELLED)
            else:
                trace = await self._engine.generate(request)
        except EngineError as error:
            self._fail(_text(error) + _log_place())
            return
        except Unavailable as error:  # the fleet's caller sends it again
            trace = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001  # one request must not block the others
            trace = trace_for(request, Finish.FAILED, error=f"the engine raised {_text(error)}")
        del self._requests[ticket]
        self._aborted.discard(ticket)
        identity = request.identity
        if self._tasks[identity] is asyncio.current_task():
            del self._tasks[identity]
        self._completions.append((ticket, trace))
        self._has_results.set()

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._has_results.set()


class Follower:
    """The process of an engine's part on another node than its replica."""

    def __init__(
        self, origin: str, options: Mapping[str, object], models: Mapping[str, Model]
    ) -> None:
        """Take what `Replica` takes; starts nothing."""
        self._origin = origin
        self._options = options
        self._models = models

    async def follow(self, node: EngineNode) -> str:
        """Run the part until it ends; return why it did."""
        _undo_thread_limit()
        try:
            factory = registry.load_origin(self._origin, self._options).on_node(node)
            async with factory.open(self._models) as part:
                return str(await part.wait())
        except Exception as error:  # noqa: BLE001  # passed to the fleet as the reason
            return _text(error) + _log_place()


def _free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _settle(opened: asyncio.Future[str], reason: str) -> None:
    if not opened.done():
        opened.set_result(reason)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, LeadlineError) else f"{type(error).__name__}: {error}"


def _log_place() -> str:
    """Return the log file of this process and its children, as under Ray; "" for no file."""
    try:
        log = os.readlink("/proc/self/fd/2")
    except OSError:  # not Linux
        return ""
    return f" [log: {log} on {socket.gethostname()}]" if os.path.isfile(log) else ""


def _undo_thread_limit() -> None:
    """Unset OMP_NUM_THREADS where Ray has set it: 1, for an actor that reserves no CPU.

    It slows an engine on the CPU. Ray sets it inside the running process (ray 2.60,
    `_private/utils.py`, `set_omp_num_threads_if_unset`); a value from the user or a runtime
    environment is in the environment with which the process was started.
    """
    environ = Path("/proc/self/environ")
    if environ.exists() and not any(
        entry.startswith(b"OMP_NUM_THREADS=") for entry in environ.read_bytes().split(b"\0")
    ):
        os.environ.pop("OMP_NUM_THREADS", None)
