"""The server-sent events of a reply that is streamed.

An attempt that is the only one is sent as it comes; of several, the progress as comments (or, on
request, as objects `leadline`), then the winner. The last chunk has the whole object `leadline`.
The one rule: what was sent is part of the reply, or the stream ends with an error.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import msgspec

from orchestrator.serve.protocol.faults import Fault, broken
from orchestrator.serve.protocol.parts import PartStream
from orchestrator.serve.protocol.questions import Question
from orchestrator.serve.protocol.replies import Answered
from orchestrator.serve.running.exchange import Exchange, Standing

JSON = dict[str, Any]
DONE = b"data: [DONE]\n\n"


def event(data: JSON) -> bytes:
    """Return an event with this object."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def comment(standing: Standing) -> bytes:
    """Return how a vote stands as a comment, which clients pass over."""
    of = "" if standing.n_planned is None else f" of {standing.n_planned}"
    share = "" if standing.share is None else f", leading share {standing.share:.2f}"
    return f": {standing.n_attempts}{of} attempts{share}\n\n".encode()


class Events(Protocol):
    """How a protocol says what happens: each method returns events as they are sent."""

    @property
    def question(self) -> Question:
        """What is answered."""

    def begin(self) -> Iterator[bytes]:
        """Yield what comes before any text."""

    def piece(self, index: int, is_thought: bool, text: str) -> Iterator[bytes]:
        """Yield a piece of a choice."""

    def progress(self, standing: Standing) -> bytes:
        """Return how the vote stands, for a client that asked for it."""

    def end(self, reply: Answered, with_usage: bool) -> Iterator[bytes]:
        """Yield all that is known at the end."""

    def failed(self, fault: Fault) -> Iterator[bytes]:
        """Yield the end of a reply that failed."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of a chat or of a text completion."""

    question: Question
    created: int

    def begin(self) -> Iterator[bytes]:
        """Yield the first chunk of the first choice."""
        if self.question.is_chat:
            yield event(self._chunk([self._choice(0, {"role": "assistant", "content": ""})]))

    def piece(self, index: int, is_thought: bool, text: str) -> Iterator[bytes]:
        """Yield a piece of a choice; a text completion has no thinking."""
        if self.question.is_chat:
            field = "reasoning_content" if is_thought else "content"
            yield event(self._chunk([self._choice(index, {field: text})]))
        elif not is_thought:
            yield event(self._chunk([self._choice(index, text)]))

    def progress(self, standing: Standing) -> bytes:
        """Return a chunk without choices that says how the vote stands."""
        return event(self._chunk([]) | {"leadline": {"progress": asdict(standing)}})

    def end(self, reply: Answered, with_usage: bool) -> Iterator[bytes]:
        """Yield the ends of the choices, and what the whole has cost."""
        choices = [self._last(choice) for choice in reply.choices]
        yield event(self._chunk(choices) | {"leadline": reply.extension()})
        if with_usage:
            yield event(self._chunk([]) | {"usage": reply.usage})
        yield DONE

    def failed(self, fault: Fault) -> Iterator[bytes]:
        """Yield the end of a reply that failed."""
        yield event(fault.body)
        yield DONE

    def _last(self, choice: JSON) -> JSON:
        """Return the end of a choice, with all that is not a text."""
        calls = choice.get("message", {}).get("tool_calls", ())
        indexed = [{"index": place, **call} for place, call in enumerate(calls)]
        delta = {"tool_calls": indexed} if indexed else {}
        last = self._choice(choice["index"], delta if self.question.is_chat else "")
        return last | {k: choice[k] for k in ("logprobs", "finish_reason")}

    def _choice(self, index: int, piece: JSON | str) -> JSON:
        name = "delta" if self.question.is_chat else "text"
        return {"index": index, name: piece, "logprobs": None, "finish_reason": None}

    def _chunk(self, choices: list[JSON]) -> JSON:
        return {
            "id": self.question.problem.id,
            "object": "chat.completion.chunk" if self.question.is_chat else "text_completion",
            "created": self.created,
            "model": self.question.model,
            "choices": choices,
        }


async def streamed(
    exchange: Exchange,
    chunks: Events,
    finished: Callable[[], Awaitable[Answered]],
    with_usage: bool,
) -> AsyncIterator[bytes]:
    """Yield the events of a reply, an error as the last one; `finished` returns the reply."""
    parts, question, n_known = PartStream(), chunks.question, 0
    for chunk in chunks.begin():
        yield chunk
    async for pieces in exchange.updates():
        for is_thought, text in parts.feed("".join(pieces)):
            for chunk in chunks.piece(0, is_thought, text):
                yield chunk
        if question.n_planned != 1 and len(exchange.traces) > n_known:
            n_known, standing = len(exchange.traces), exchange.standing()
            yield chunks.progress(standing) if question.wants_progress else comment(standing)
    try:
        reply = await finished()
        for chunk in itertools.chain(_rest(parts, chunks, reply), chunks.end(reply, with_usage)):
            yield chunk
    except Fault as fault:
        for chunk in chunks.failed(fault):
            yield chunk


def _rest(parts: PartStream, chunks: Events, reply: Answered) -> Iterator[bytes]:
    """Yield what of the choices was not sent; Fault if what was sent is not of the reply."""
    for choice in reply.choices:
        own = parts if choice["index"] == 0 else PartStream()
        message = choice.get("message", choice)
        reply_text = message["content" if "message" in choice else "text"] or ""
        rest = own.rest(message.get("reasoning_content", ""), reply_text)
        if rest is None:
            raise broken("the attempt that was streamed is not the reply", 500)
        for is_thought, text in rest:
            yield from chunks.piece(choice["index"], is_thought, text)
