"""An HTTP server on a real socket, whose replies each test scripts, and what goes with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.values import Request

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
}


@dataclass
class Call:
    """One HTTP request as the server saw it, and the means to answer it."""

    path: str
    headers: Mapping[str, str]
    body: Any
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def plain(
        self, text: str, status: int = 200, kind: str = "application/json", extra: str = ""
    ) -> None:
        data = text.encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n"
        head += f"content-length: {len(data)}\r\n{extra}\r\n"
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def begin(self, kind: str = "text/event-stream") -> None:
        self.writer.write(
            f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n".encode()
            + b"transfer-encoding: chunked\r\n\r\n"
        )
        await self.writer.drain()

    async def event(self, data: object) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        raw = f"data: {text}\n\n".encode()
        self.writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def stream(self, *events: object) -> None:
        await self.begin()
        for event in events:
            await self.event(event)
        await self.end()

    async def cut(self) -> None:
        self.writer.close()

    async def disconnect(self) -> None:
        await self.reader.read()


Script = Callable[[Call], Awaitable[None]]


@dataclass
class Server:
    """Serves /models itself and passes all other requests to the script."""

    script: Script
    models: str = json.dumps(
        {"object": "list", "data": [{"id": "tiny", "object": "model"}, {"id": "other"}]}
    )
    models_status: int = 200
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """Close the port and every connection."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not writer.is_closing():
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed the connection
        except asyncio.CancelledError:
            pass  # `die`; asyncio.streams would print a cancelled connection task
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)
        }
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        call = Call(first.split()[1], headers, json.loads(raw) if raw else None, reader, writer)
        self.calls.append(call)
        if call.path == "/v1/models":
            kind = "application/json" if self.models.startswith(("{", "[")) else "text/html"
            await call.plain(self.models, self.models_status, kind)
        else:
            await self.script(call)


@asynccontextmanager
async def serving(script: Script, **settings: Any) -> AsyncIterator[Server]:
    server = Server(script, **settings)
    await server.start()
    try:
        yield server
    finally:
        await server.die()


def piece(text: str, *, finish: str | None = None, **choice: Any) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish, **choice}],
        "usage": None,
    }


def text_piece(text: str, *, finish: str | None = None, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish, **choice}]}


def request(ordinal: int = 0, prompt: Any = "2+2?", **fields: Any) -> Request:
    return Request(prompt=prompt, model="main", problem_id="p", ordinal=ordinal, seed=17, **fields)


async def answered(call: Call) -> None:
    await call.stream(
        {
            "choices": [
                {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            ]
        },
        piece("4"),
        piece("2", finish="stop"),
        {"choices": [], "usage": USAGE},
        "[DONE]",
    )
