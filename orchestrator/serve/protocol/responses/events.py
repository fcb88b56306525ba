"""The server-sent events of a response that is streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.serve.protocol.bodies import ResponsesBody
from orchestrator.serve.protocol.faults import Fault
from orchestrator.serve.protocol.questions import Question
from orchestrator.serve.protocol.replies import Answered
from orchestrator.serve.protocol.responses import reply as replies
from orchestrator.serve.protocol.streams import event
from orchestrator.serve.running.exchange import Standing

JSON = dict[str, Any]


@dataclass(slots=True)
class ResponseEvents:
    """The events of one response: items are opened, get their text in pieces, and are closed."""

    question: Question
    created: int
    body: ResponsesBody
    _n_events: int = 0
    _n_items: int = 0
    _open: str = ""  # the kind of the item that is open: "rs", thinking, or "msg"
    _text: list[str] = field(default_factory=list)  # of the open item

    def begin(self) -> Iterator[bytes]:
        """Yield the events before any item."""
        begun = replies.unfinished(self._id, self.body, self.created)
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)

    def piece(self, index: int, is_thought: bool, text: str) -> Iterator[bytes]:
        """Yield a piece of thinking or of the reply; a response has one choice."""
        if index:
            return
        yield from self._opened("rs" if is_thought else "msg")
        self._text.append(text)
        kind = "reasoning_text" if is_thought else "output_text"
        own: JSON = {} if is_thought else {"logprobs": []}
        yield self._event(f"response.{kind}.delta", **self._place(), delta=text, **own)

    def progress(self, standing: Standing) -> bytes:
        """Return an event that says how the vote stands; clients know no such type."""
        return self._event("leadline.progress", leadline={"progress": asdict(standing)})

    def end(self, reply: Answered, with_usage: bool) -> Iterator[bytes]:
        """Yield the ends of the items and the whole response, which always has its usage."""
        whole = replies.response(reply, self.body)
        n_closed = self._n_items - bool(self._open)
        for item in whole["output"][n_closed:]:
            if item["type"] == "function_call":
                yield from self._closed()
                yield from self._called(item)
            else:  # also one without any text
                yield from self._opened("rs" if item["type"] == "reasoning" else "msg")
                yield from self._closed(item)
        yield self._event(f"response.{whole['status']}", response=whole)

    def failed(self, fault: Fault) -> Iterator[bytes]:
        """Yield the end of a response that failed."""
        code = fault.code or "server_error"
        error = {"code": code, "message": fault.message}
        yield self._event("error", **error, param=fault.param)
        whole = replies.unfinished(self._id, self.body, self.created, "failed")
        yield self._event("response.failed", response=whole | {"error": error})

    @property
    def _id(self) -> str:
        return self.question.problem.id

    def _place(self) -> JSON:
        item = replies.item_id(self._open, self._id)
        return {"item_id": item, "output_index": self._n_items - 1, "content_index": 0}

    def _opened(self, kind: str) -> Iterator[bytes]:
        """Yield what opens an item of a kind, unless one is open."""
        if self._open == kind:
            return
        yield from self._closed()
        self._open, self._n_items = kind, self._n_items + 1
        is_thought, empty = kind == "rs", replies.part("")
        item = (
            replies.thought(self._id, "", "in_progress")
            if is_thought
            else replies.text(self._id, None, "in_progress")
        )
        added = {"output_index": self._n_items - 1, "item": item}
        yield self._event("response.output_item.added", **added)
        part = {"type": "reasoning_text", "text": ""} if is_thought else empty
        yield self._event("response.content_part.added", **self._place(), part=part)

    def _closed(self, item: JSON | None = None) -> Iterator[bytes]:
        """Yield what closes the open item, which is `item` where that is known."""
        if not self._open:
            return
        text, place, is_thought = "".join(self._text), self._place(), self._open == "rs"
        if item is None:
            made = replies.thought if is_thought else replies.text
            item = made(self._id, text, "completed")
        [part] = item["content"]
        own = {} if is_thought else {"logprobs": part["logprobs"]}
        kind = "reasoning_text" if is_thought else "output_text"
        yield self._event(f"response.{kind}.done", **place, text=text, **own)
        yield self._event("response.content_part.done", **place, part=part)
        done = {"output_index": self._n_items - 1, "item": item}
        yield self._event("response.output_item.done", **done)
        self._open, self._text = "", []

    def _called(self, item: JSON) -> Iterator[bytes]:
        place = {"output_index": self._n_items}
        self._n_items += 1
        begun = item | {"arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", **place, item=begun)
        own = {"item_id": item["id"], **place}
        arguments = item["arguments"]
        yield self._event("response.function_call_arguments.delta", **own, delta=arguments)
        done = {"arguments": arguments, "name": item["name"]}
        yield self._event("response.function_call_arguments.done", **own, **done)
        yield self._event("response.output_item.done", **place, item=item)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._n_events += 1
        data = {"type": kind, "sequence_number": self._n_events - 1, **fields}
        return f"event: {kind}\n".encode() + event(data)
