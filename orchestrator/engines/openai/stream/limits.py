"""Limits on the size of a server's replies, so that none of them can fill the memory.

The one rule: bytes are counted as they arrive, before anything collects them. Replies are requested
uncompressed, because a few bytes of a compressed one become gigabytes; one that is compressed all
the same is refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from importlib import import_module
from typing import Any

from orchestrator.engines.openai.stream.chunks import MalformedReply

HEADERS = {"Accept-Encoding": "identity"}
# An event has one token, with at most some thousand log-probabilities; a prompt's token ids, the
# largest other reply, have some 8 bytes each.
_MAX_EVENT_BYTES = 16 << 20
_MAX_REPLY_BYTES = 1 << 30


async def limit_reply(response: Any) -> None:
    """Let the reading of a reply raise MalformedReply beyond the limits; a hook of httpx."""
    # the client's own module, which is httpx or httpx2, insists on streams of its own class
    http = import_module(type(response).__module__.partition(".")[0])
    stream, encoding = response.stream, response.headers.get("content-encoding", "identity")

    class Limited(http.AsyncByteStream):  # type: ignore[misc,name-defined]  # known at run time only
        def __aiter__(self) -> AsyncIterator[bytes]:
            return _limited(stream, encoding)

        async def aclose(self) -> None:
            await stream.aclose()

    response.stream = Limited()


async def _limited(stream: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    if encoding.lower() != "identity":
        raise MalformedReply(
            f"the server sent a compressed reply ({encoding[:40]}), and an uncompressed one was "
            "requested; turn compression off in the server or its proxy"
        )
    n_reply = n_event = 0
    tail = b""  # an empty line, which ends an event, may be split between two parts
    async for part in stream:
        n_reply += len(part)
        joined = tail + part
        end, tail = max(map(joined.rfind, (b"\n\n", b"\r\n\r\n"))), joined[-3:]
        n_event = n_event + len(part) if end < 0 else len(joined) - end
        if n_event > _MAX_EVENT_BYTES or n_reply > _MAX_REPLY_BYTES:
            what = "one event" if n_event > _MAX_EVENT_BYTES else "one reply"
            raise MalformedReply(f"the server sent {n_reply:,} bytes, too many for {what}")
        yield part
