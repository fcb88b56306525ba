"""A server's stream as its events arrive: server-sent events, whose data are chunks.

The one rule: an event costs little, because a process reads thousands of streams at once; so bytes
are decoded into chunks without anything in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any

import msgspec

from orchestrator.engines.openai.refusals import cause, error_of
from orchestrator.engines.openai.stream.chunks import Chunk, CutStream, ErrorEvent, MalformedReply

_DONE = b"[DONE]"
_END_SECONDS = 1.0  # for what follows it
_decode = msgspec.json.Decoder(Chunk).decode


async def chunks(response: Any) -> AsyncIterator[Chunk]:
    """Yield the chunks of a response until its stream ends.

    ErrorEvent for an event that is an error, MalformedReply for one that is no chunk, and CutStream
    where the connection is lost.
    """
    # the client's own module, which is httpx or httpx2
    http = import_module(type(response).__module__.partition(".")[0])
    reader, parts = EventReader(), response.aiter_bytes()
    try:
        async for part in parts:
            for data in reader.feed(part):
                if data.startswith(_DONE):
                    await _read_on(parts)
                    return
                yield chunk_of(data)
    except http.RequestError as error:
        raise CutStream(f"the connection was lost: {cause(error)}") from error
    for data in reader.feed(b"\n\n"):  # the last one may lack its empty line
        if not data.startswith(_DONE):
            yield chunk_of(data)


async def _read_on(parts: AsyncIterator[bytes]) -> None:
    """Read the end of a stream, so that its connection can be used again; not for long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            async for _ in parts:
                pass


class EventReader:
    """Splits a stream into the data of its events; all else of an event is passed over."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._held: list[bytes] = []  # of a line that has not ended
        self._data: list[bytes] = []  # of an event that has not ended

    def feed(self, part: bytes) -> Iterator[bytes]:
        """Yield the data of each event that ends in a part."""
        if b"\n" not in part:
            self._held.append(part)
            return
        lines = b"".join([*self._held, part]).split(b"\n")
        self._held = [lines.pop()]
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif self._data and line in (b"", b"\r"):
                yield b"\n".join(self._data)
                self._data = []


def chunk_of(data: bytes) -> Chunk:
    """Return the chunk in an event; ErrorEvent if it is an error, MalformedReply if it is none."""
    try:
        chunk = _decode(data)
        if chunk.choices is not None and not any((chunk.error, *(c.error for c in chunk.choices))):
            return chunk
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        document = json.loads(data)  # which takes NaN and halves of characters, too
        if error := error_of(document):
            raise ErrorEvent(error)
        return msgspec.convert(document, Chunk)
    except msgspec.ValidationError as error:
        raise MalformedReply(f"the server sent a malformed reply: {error}") from error
    except ValueError as error:
        raise MalformedReply(f"the server sent invalid JSON: {error}") from error
    except RecursionError as error:
        raise MalformedReply("the server sent JSON that is nested too deeply") from error
