"""The front of the service: an id, a client, limits and a line of the log for each HTTP request.

A plain ASGI layer, which passes streams and disconnections through. The one rule: what fails here
or behind it becomes an error object of the protocol, and its cause stays in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from orchestrator.serve.access.keys import KeyRing
from orchestrator.serve.protocol.faults import Fault, broken
from orchestrator.serve.telemetry import Log, Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_FREE = ("/health", "/ready")  # without a key
_FILES = "/v1/files"
_LINGER_SECONDS, _LINGER_BYTES = 5.0, 64 << 20  # of a body that is refused


@dataclass(slots=True)
class Front:
    """The application behind limits on bodies, keys and origins; `paths` are those of metrics."""

    app: App
    keys: KeyRing
    metrics: Metrics
    log: Log
    body_bytes: int
    file_bytes: int
    paths: Callable[[str], str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Http(scope, receive, send, _request_id(), time.perf_counter())
        try:
            scope.setdefault("state", {}).update(request_id=exchange.id)
            self._admit(scope, exchange)
            await self.app(scope, exchange.receive, exchange.send)
        except Fault as fault:
            await exchange.refuse(fault)
        except Exception:  # noqa: BLE001 - no request may end the service; the log has the cause
            await exchange.refuse(broken(traceback.format_exc()))
        finally:
            self._record(scope, exchange)

    def _admit(self, scope: Scope, http: _Http) -> None:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        http.limit = self.file_bytes if scope["path"] == _FILES else self.body_bytes
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > http.limit:
            raise _too_large(http.limit)
        if scope["path"] in _FREE:
            return
        if self.keys.is_open and _is_foreign(headers):
            raise Fault(403, "pages of other sites may not use a service without keys", "origin")
        client = self.keys.client(headers.get("authorization", ""))
        scope["state"]["client"] = client
        http.client = client.name

    def _record(self, scope: Scope, http: _Http) -> None:
        seconds = time.perf_counter() - http.began
        path = self.paths(scope["path"])
        self.metrics.requests.labels(path, str(http.status)).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        if path in _FREE or path == "/metrics":
            return
        state = scope.get("state", {})
        self.log.write(
            "request",
            id=http.id,
            client=http.client,
            method=scope["method"],
            path=path,
            status=http.status,
            seconds=round(seconds, 4),
            cause=http.cause or state.get("cause"),
            **state.get("log", {}),
        )


@dataclass(slots=True)
class _Http:
    """One request and its response; `status` is 499 until one is sent."""

    scope: Scope
    inner_receive: Receive
    inner_send: Send
    id: str
    began: float
    client: str = ""
    status: int = 499
    limit: int = 0
    n_bytes: int = 0
    cause: str = ""

    async def receive(self) -> Message:
        """Return the next message; Fault 413 once the body is too large."""
        message = await self.inner_receive()
        self.n_bytes += len(message.get("body", b""))
        if self.n_bytes > self.limit:
            raise _too_large(self.limit)
        return message

    async def send(self, message: Message) -> None:
        """Send a message, with the id of the request."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            message = {**message, "headers": headers}
        await self.inner_send(message)

    async def refuse(self, fault: Fault) -> None:
        """Send an error object, unless a response has begun."""
        self.cause = fault.cause
        if self.status != 499:
            return
        if fault.status == 413:
            await self._discard_rest()
        body = msgspec.json.encode(fault.body)
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        headers |= {"connection": "close"} if fault.status == 413 else {}
        pairs = [
            (k.lower().encode(), v.encode()) for k, v in (headers | fault.all_headers()).items()
        ]
        start = {"type": "http.response.start", "status": fault.status, "headers": pairs}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})

    async def _discard_rest(self) -> None:
        """Read what the client still sends, within limits: it may read the response only then."""
        n_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while n_bytes <= _LINGER_BYTES:
                    message = await self.inner_receive()
                    n_bytes += len(message.get("body", b""))
                    if not message.get("more_body"):
                        return


def _request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


def _too_large(limit: int) -> Fault:
    return Fault(413, f"the body may have at most {limit:,} bytes", "request_too_large")


def _is_foreign(headers: dict[str, str]) -> bool:
    """Tell whether a page of another site sends this: browsers then name their origin."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")
