"""Runs a service: where it may listen, how it ends, and in which order.

The one rule: without keys it listens on this machine alone. Beside its address it listens on a
socket that only its own user can reach: there commands find it, and need no key. It ends softly: no
new requests, those that run are answered within the time to drain, the rest is stopped, and batches
continue with the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.plan import Plan
from orchestrator.plan.execution import Execution
from orchestrator.serve.access.keys import KeyRing, own_user, read_keys
from orchestrator.serve.batches.runner import running_batches
from orchestrator.serve.front import Front
from orchestrator.serve.protocol.questions import QuestionReader
from orchestrator.serve.routes.app import Limits, application
from orchestrator.serve.routes.context import Context
from orchestrator.serve.running.service import Service, running_service
from orchestrator.serve.running.spans import tracing
from orchestrator.serve.running.traffic import kept_traffic
from orchestrator.serve.sharing.identity import engine_identity
from orchestrator.serve.sharing.sockets import published_socket
from orchestrator.serve.telemetry import Log, Metrics, quiet_others

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CLOSE_SECONDS = 5  # for replies that are still being sent, once all is stopped


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where a service listens and what it keeps; a None keeps nothing of that kind."""

    host: str = "127.0.0.1"
    port: int = 8321
    keys: Path | None = None
    journal: Path | None = None
    data: Path | None = None
    limits: Limits = field(default_factory=Limits)
    drain_seconds: float = 30.0
    logs_texts: bool = False
    traces: bool = False  # OpenTelemetry spans are sent


def key_ring(options: ServerOptions) -> KeyRing:
    """Return the keys; PlanError where the service would listen to others without any."""
    if options.keys is not None:
        return read_keys(options.keys)
    if not _is_loopback(options.host):
        raise PlanError(
            f"--host {options.host} lets other machines in, and there are no keys: name a file of "
            "them with --keys, or leave --host out"
        )
    return KeyRing()


@contextlib.asynccontextmanager
async def running_application(
    plan: Plan, execution: Execution, options: ServerOptions
) -> AsyncIterator[tuple[Front, Service]]:
    """Yield the application with its engine up, and its service."""
    keys, metrics, log = key_ring(options), Metrics(), Log()
    limits = options.limits
    reader = QuestionReader(plan, execution, limits.max_attempts)
    async with contextlib.AsyncExitStack() as stack:
        spans = stack.enter_context(tracing(options.traces, log))
        traffic = stack.enter_context(kept_traffic(options.journal, plan, execution))
        service = await stack.enter_async_context(
            running_service(plan, execution, traffic.journal, limits.max_waiting, metrics)
        )
        context = Context(
            service,
            reader,
            metrics,
            begun=traffic.keep,
            logs_texts=options.logs_texts,
            tracing=spans,
        )
        if options.data is not None:
            context.batches = await stack.enter_async_context(
                running_batches(options.data, reader, service.batch_engine, keys, log)
            )
        yield application(context, keys, metrics, log, limits), service


async def serve(
    plan: Plan,
    execution: Execution,
    options: ServerOptions,
    stop: asyncio.Event,
    on_start: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until `stop` is set, or the engine fails; `on_start` is called with the address.

    EngineError, PlanError or JournalError where it cannot start, or the engine fails.
    """
    identity = engine_identity(plan, execution)  # of files as they are before the engine reads them
    async with contextlib.AsyncExitStack() as stack:
        place = stack.enter_context(contextlib.closing(_bound(options.host, options.port)))
        address = _address(place)
        running = running_application(plan, execution, options)
        app, service = await stack.enter_async_context(running)
        listening = [(_Server(_config(app)), place)]
        if identity and (local := stack.enter_context(_socket(identity, address))) is not None:
            keys = KeyRing(anybody=own_user())
            own = dataclasses.replace(app, keys=keys, body_bytes=app.file_bytes)
            listening.append((_Server(_config(own)), local))
        quiet_others()
        serving = [asyncio.create_task(server.serve([one])) for server, one in listening]
        waits = [asyncio.create_task(one) for one in (service.ended(), stop.wait())]
        try:
            for server, _ in listening:
                await server.ready.wait()
            on_start(address)
            await asyncio.wait([*serving, *waits], return_when=asyncio.FIRST_COMPLETED)
            if waits[0].done():
                await waits[0]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(options.drain_seconds):
                    await service.drained()
        finally:
            service.stop_all()
            for server, _ in listening:
                server.should_exit = True
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*serving, *waits, return_exceptions=True)


async def serve_until_signal(
    plan: Plan, execution: Execution, options: ServerOptions, on_start: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT; otherwise as `serve`."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def started(address: str) -> None:
        handle_signals()  # again: engines install handlers of their own when they start
        on_start(address)

    def handle_signals() -> None:
        for number in _SIGNALS:
            loop.add_signal_handler(number, stop.set)

    handle_signals()
    try:
        await serve(plan, execution, options, stop, started)
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _config(app: Front) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_level="error",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
        h11_max_incomplete_event_size=64 << 10,
        server_header=False,
    )


class _Server(uvicorn.Server):
    """A server that leaves signals to its caller; `ready` is set once it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # as uvicorn declares it
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.ready.set()


@contextlib.contextmanager
def _socket(identity: str, address: str) -> Iterator[socket.socket | None]:
    """Yield the socket by which commands find the service.

    None, with a line of the log, where none can be made: commands then need its address.
    """
    with contextlib.ExitStack() as stack:
        place = None
        try:
            place = stack.enter_context(published_socket(identity, address.removesuffix("/v1")))
        except EngineError as error:
            Log().write("no_socket", cause=str(error))
        yield place


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket with this address, which does not listen yet; PlanError if it is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, kind)
    except OSError as error:
        raise PlanError(f"--host {host}: {error.strerror}") from error
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except OSError as error:
        place.close()
        raise PlanError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port"
        ) from error
    return place


def _address(place: socket.socket) -> str:
    host, port = place.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
