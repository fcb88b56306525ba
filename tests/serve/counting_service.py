"""A service on a free port of this machine, in a thread of the test's process.

Its engine is the fake one, which also counts: what runs, what was aborted. Tests wait for counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx
import msgspec
import openai

import orchestrator
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Capability, PluginSpec, Request, Trace
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.plan.execution import Execution
from orchestrator.serve.server import ServerOptions, serve

MODELS = {"small": Model("tiny/small"), "large": Model("tiny/large")}
ANSWERS = (*["{hash}"] * 9, "5")  # nine of ten attempts find the number of their request
MESSAGES: Any = [{"role": "user", "content": "How many days has a week?"}]
SECONDS = 60  # within which anything that a test waits for happens


class Counts:
    """What an engine has done; the tests' threads wait for it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.started: list[Request] = []
        self.aborted: list[tuple[str, int]] = []
        self.n_running = 0

    def wait_for(self, holds: Callable[[Counts], bool]) -> None:
        with self.changed:
            reached = self.changed.wait_for(lambda: holds(self), SECONDS)
            assert reached, (self.n_running, len(self.started), len(self.aborted))


COUNTS: dict[str, Counts] = {}


@orchestrator.engine("counting-service")
@dataclass(frozen=True, slots=True)
class Counting:
    """The fake engine with `options`, whose work is counted under a label."""

    loads_models: ClassVar[bool] = False
    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    def require_thinking(self, n_tokens: int, models: Mapping[str, Model]) -> None: ...

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[CountingEngine]:
        yield CountingEngine(Fake(**self.options), COUNTS.setdefault(self.label, Counts()))


class CountingEngine(FakeEngine):
    def __init__(self, options: Fake, counts: Counts) -> None:
        super().__init__(options)
        self._counts = counts

    async def generate(self, request: Request) -> Trace:
        counts = self._counts
        with counts.changed:
            counts.started.append(request)
            counts.n_running += 1
            counts.changed.notify_all()
        try:
            return await super().generate(request)
        finally:
            with counts.changed:
                counts.n_running -= 1
                counts.changed.notify_all()

    def abort(self, request: Request) -> None:
        with self._counts.changed:
            self._counts.aborted.append(request.identity)
        super().abort(request)


@dataclass(slots=True)
class Served:
    """A running service."""

    address: str
    counts: Counts
    stop: Callable[[], None]
    _clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    @property
    def root(self) -> str:
        return self.address.removesuffix("/v1")

    def client(self, key: str = "none") -> openai.OpenAI:
        """Return the client of a key, which lives as long as the service."""
        if key not in self._clients:
            self._clients[key] = openai.OpenAI(
                base_url=self.address, api_key=key, max_retries=0, timeout=SECONDS
            )
        return self._clients[key]

    def close(self) -> None:
        """Close the clients, and let the service end."""
        for client in self._clients.values():
            client.close()
        self.stop()


@contextlib.contextmanager
def served(
    plan: Plan, name: str, *, window: int = 64, engine: str = "counting-service", **options: Any
) -> Iterator[Served]:
    """Yield the service of a plan; options are fields of `ServerOptions`, or the engine's."""
    own = {k: options.pop(k) for k in [*options] if k in ServerOptions.__dataclass_fields__}
    spec = PluginSpec(engine, {"label": name, "options": options})
    execution = Execution(engine=spec, window=window)
    started: list[str] = []
    ready, stops = threading.Event(), []
    failures: list[BaseException] = []

    async def main() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))

        def on_start(address: str) -> None:
            started.append(address)
            ready.set()

        await serve(plan, execution, ServerOptions(port=0, **own), stop, on_start)

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(SECONDS)
    one = Served("".join(started), COUNTS.setdefault(name, Counts()), stops[0])
    try:
        if not failures:
            yield one
    finally:
        with contextlib.suppress(RuntimeError):  # its loop has ended
            one.close()
        thread.join(SECONDS)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def request(service: Served, *, stream: bool = False, key: str = "") -> socket.socket:
    """Return the connection of a request that was sent."""
    place = urlsplit(service.root)
    body = msgspec.json.encode({"model": "small", "messages": MESSAGES, "stream": stream})
    client = socket.create_connection((place.hostname, place.port), SECONDS)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\n"
    head += f"Authorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def wait_until_waiting(service: Served, n: int) -> None:
    """Wait until so many requests wait."""
    while httpx.get(f"{service.root}/ready", timeout=SECONDS).json()["waiting"] != n:
        pass
