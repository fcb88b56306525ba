"""The engines of a running service, from the side of a command: `leadline run --server URL`.

Without an address, a service is found by its socket, if its engine is the one that the command
would start. The one rule: exploring, voting and the journal stay on this side, so a job is the same
as with engines of its own. A lost connection, or a service that ends or has no room, is
`Unavailable`: the request is sent again, for as long as the plan's patience lasts. Needs httpx, of
the extra `http`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

import msgspec

from orchestrator.core.errors import EngineError, PlanError, Unavailable
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Capability, Finish, PluginSpec, Request, Trace
from orchestrator.engines.reply import trace_for
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.serve.sharing.identity import engine_identity
from orchestrator.serve.sharing.sockets import ServiceSocket, running_sockets
from orchestrator.serve.sharing.wire import (
    ABORT,
    GENERATE,
    MEDIA_TYPE,
    PATH,
    Description,
    Order,
    decode_trace,
    encode_order,
    engine_digest,
)

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "LEADLINE_SERVER_KEY"
_CONNECT_SECONDS = 10.0
_SOCKET_SECONDS = 2.0  # what a service that hangs costs a command at most
_KEEPALIVE = (  # a machine that is gone is noticed within two minutes
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


@dataclass(frozen=True, slots=True)
class Server:
    """A running service: its root address, what it has said of itself, its socket if it is used."""

    root: str
    description: Description
    socket: str = ""


def connect(url: str) -> Server:
    """Return the service at an address, such as http://127.0.0.1:8321/v1.

    EngineError if there is none, it is of another version, or it refuses the key.
    """
    if not url.startswith(("http://", "https://")):
        raise PlanError(
            f"--server {url}: write an address, such as http://127.0.0.1:8321/v1, which "
            "`leadline serve` prints"
        )
    root = url.rstrip("/").removesuffix("/v1")
    import_httpx()
    import httpx

    try:
        description = asyncio.run(_description(root))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineError(
            f"no server answers at {root} ({_cause(error)}); start one there with `leadline "
            "serve`, or leave --server out"
        ) from error
    if description.version != version("leadline"):
        raise EngineError(
            f"{url} runs Leadline {description.version}, and this is {version('leadline')}: use "
            "the same version on both sides"
        )
    return Server(root, description)


def found_server(plan: Plan, execution: Execution, note: Callable[[str], None]) -> Server | None:
    """Return this user's service on this machine whose engine is that of a plan; None without one.

    Of several it is the one that started last. Where none of those that run can be used, `note` is
    called with the reason of each.
    """
    identity = engine_identity(plan, execution)
    sockets = running_sockets(identity) if identity else []
    if not sockets:
        return None
    try:
        import_httpx()
    except PlanError as error:
        note(f"the server at {sockets[0].address} is not used: {error}")
        return None
    answers = asyncio.run(_answers(sockets))
    digest = engine_digest(plan, execution)
    for one, answer in zip(sockets, answers, strict=True):
        if isinstance(answer, Description) and answer.digest == digest:
            return Server(one.address, answer, str(one.path))
    for answer in answers:
        if isinstance(answer, str):
            note(f"{answer}; engines of this command's own are started")
    return None


async def _answers(sockets: list[ServiceSocket]) -> list[Description | str]:
    """Return what services say of themselves, or why one says nothing."""

    async def answer(one: ServiceSocket) -> Description | str:
        import httpx

        try:
            async with asyncio.timeout(_SOCKET_SECONDS):
                return await _description(one.address, str(one.path))
        except TimeoutError:
            return f"the server at {one.address} does not answer"
        except httpx.HTTPError as error:
            return f"the server at {one.address} does not answer: {_cause(error)}"
        except EngineError as error:
            return str(error)

    return await asyncio.gather(*map(answer, sockets))


async def _description(root: str, path: str = "") -> Description:
    """Return what a service says of itself; httpx's errors where it does not answer."""
    async with _client(root, path) as client:
        response = await client.get(PATH, timeout=_CONNECT_SECONDS)
    if response.status_code != 200:
        raise _refusal(root, response)
    try:
        return msgspec.json.decode(response.content, type=Description)
    except (msgspec.MsgspecError, ValueError) as error:
        raise EngineError(f"{root} is not a service of `leadline serve`: {error}") from error


def import_httpx() -> None:
    """Raise PlanError where the client of HTTP is not installed."""
    try:
        import httpx  # noqa: F401
    except ImportError as error:
        raise PlanError(
            'the engines of a server need httpx: pip install "leadline[http]"'
        ) from error


@dataclass(frozen=True, slots=True)
class RemoteEngines:
    """The EngineFactory of a service's engine; with `is_batch` people's requests come first."""

    server: Server
    engine: PluginSpec
    is_batch: bool
    loads_models: ClassVar[bool] = False

    def capabilities(self) -> frozenset[Capability]:
        """Return those of the service's engine."""
        capabilities: frozenset[Capability] = registry.load("engines", self.engine).capabilities()
        return capabilities

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[RemoteEngine]:
        """Yield the engine."""
        async with _client(self.server.root, self.server.socket) as client:
            engine = RemoteEngine(client, self.server, self.is_batch)
            try:
                yield engine
            finally:
                await engine.aborts_sent()


class RemoteEngine:
    """Sends requests to a service; used from one event loop."""

    def __init__(self, client: httpx.AsyncClient, server: Server, is_batch: bool) -> None:
        """Use an open client."""
        self._client = client
        self._root, self._description = server.root, server.description
        self._is_batch = is_batch
        self._ids: dict[tuple[str, int], str] = {}
        self._aborts: set[asyncio.Task[None]] = set()
        self.n_gpus = server.description.n_gpus

    async def generate(self, request: Request) -> Trace:
        """Return the trace; Unavailable or EngineError if there is none."""
        import httpx

        id = self._ids[request.identity] = uuid.uuid4().hex
        order = Order(id, self._description.digest, self._is_batch, request)
        try:
            response = await self._client.post(GENERATE, content=encode_order(order))
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._root}: the connection was lost: {_cause(error)}") from error
        finally:
            self._ids.pop(request.identity, None)
        return self._trace(request, response)

    def abort(self, request: Request) -> None:
        """Stop a request: its `generate` returns the tokens so far."""
        id = self._ids.get(request.identity)
        if id is not None:
            task = asyncio.create_task(self._abort(id))
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)

    async def aborts_sent(self) -> None:
        """Wait until no abort is on its way."""
        await asyncio.gather(*self._aborts)

    async def _abort(self, id: str) -> None:
        import httpx

        # where it is lost, the connection of the request itself breaks, too
        with contextlib.suppress(httpx.HTTPError):
            await self._client.post(f"{ABORT}/{id}")

    def _trace(self, request: Request, response: httpx.Response) -> Trace:
        """Return the trace in a response, or raise what it means."""
        if response.status_code == 200:
            try:
                return decode_trace(response.content)
            except (msgspec.MsgspecError, ValueError) as error:
                raise EngineError(f"{self._root} sent a malformed trace: {error}") from error
        refusal = _refusal(self._root, response)
        if response.status_code in (400, 413):  # of this request alone
            return trace_for(request, Finish.FAILED, error=str(refusal))
        if response.status_code in (429, 503):
            seconds = response.headers.get("retry-after", "")
            raise Unavailable(
                str(refusal),
                float(seconds) if seconds.isdigit() else None,
                exhausted=_error(response).get("code") in ("exhausted", "insufficient_quota"),
            )
        raise refusal


def _client(root: str, path: str = "") -> httpx.AsyncClient:
    """Return a client without limits: the window of the command limits what is in flight.

    With the path of a socket, over which a service needs no key, it connects there.
    """
    import httpx

    key = "" if path else os.environ.get(KEY_VARIABLE, "").strip()
    headers = {"Content-Type": MEDIA_TYPE}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        base_url=root,
        headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        transport=httpx.AsyncHTTPTransport(uds=path, limits=limits)
        if path
        else httpx.AsyncHTTPTransport(limits=limits, socket_options=_KEEPALIVE),
    )


def _refusal(root: str, response: httpx.Response) -> EngineError:
    """Return what a response that is not a success means, with the remedy where it is known."""
    status, message = response.status_code, str(_error(response).get("message", ""))[:500]
    remedies = {
        401: f"set {KEY_VARIABLE} to a key of that service",
        403: f"set {KEY_VARIABLE} to a key that has engines = true there",
        404: "this is not a service of `leadline serve` of this version",
        409: "it was started again with other models or another engine; repeat the command",
        502: f"its log has the cause, under {response.headers.get('x-request-id', 'no id')}",
    }
    remedy = f"; {remedies[status]}" if status in remedies else ""
    return EngineError(f"{root} answered with status {status}: {message or 'no reason'}{remedy}")


def _error(response: httpx.Response) -> dict[str, object]:
    try:
        body = msgspec.json.decode(response.content, type=dict[str, dict[str, object]])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return body.get("error", {})


def _cause(error: BaseException) -> str:
    return str(error) or type(error).__name__
