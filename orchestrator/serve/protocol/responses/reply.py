"""From a reply to the object `response`: its items are thinking, message and calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.serve.protocol.bodies import ResponsesBody
from orchestrator.serve.protocol.replies import Answered

JSON = dict[str, Any]
_ECHOED = ("instructions", "max_output_tokens", "metadata", "temperature", "top_p", "user")


def response(reply: Answered, body: ResponsesBody) -> JSON:
    """Return the reply of /v1/responses."""
    [choice, *_] = reply.choices
    is_cut = choice["finish_reason"] == "length"
    counts = reply.usage
    return unfinished(reply.id, body, reply.created) | {
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": items(reply.id, choice),
        "usage": {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": counts["prompt_tokens_details"] | {"cache_write_tokens": 0},
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": counts["completion_tokens_details"],
            "total_tokens": counts["total_tokens"],
        },
        "leadline": reply.extension(),
    }


def unfinished(id: str, body: ResponsesBody, created: int, status: str = "in_progress") -> JSON:
    """Return a response without output: what it repeats of its request."""
    asked = body.model_dump(exclude_none=True)
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": status,
        "model": body.model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": asked.get("reasoning", {"effort": None, "summary": None}),
        "store": False,
        "text": asked.get("text", {"format": {"type": "text"}}),
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools", []),
        "truncation": "disabled",
        "usage": None,
        **{name: asked.get(name) for name in _ECHOED},
    }


def items(id: str, choice: JSON) -> list[JSON]:
    """Return the items of a choice: its thinking, its text, its calls."""
    message, found = choice["message"], []
    if thinking := message.get("reasoning_content"):
        found.append(thought(id, thinking))
    calls: Sequence[JSON] = message.get("tool_calls", ())
    if message["content"] or not calls:
        scored = (choice["logprobs"] or {}).get("content") or []
        status = "incomplete" if choice["finish_reason"] == "length" else "completed"
        found.append(text(id, message["content"] or "", status, scored))
    return found + [call(one) for one in calls]


def thought(id: str, thinking: str, status: str = "completed") -> JSON:
    """Return an item of thinking."""
    content = [{"type": "reasoning_text", "text": thinking}] if thinking else []
    item = {"id": item_id("rs", id), "type": "reasoning", "summary": [], "content": content}
    return item | {"status": status}


def text(id: str, reply: str | None, status: str, logprobs: Sequence[JSON] = ()) -> JSON:
    """Return an item of text; None while there is nothing of it."""
    content = [] if reply is None else [part(reply, logprobs)]
    item = {"id": item_id("msg", id), "type": "message", "role": "assistant"}
    return item | {"status": status, "content": content}


def part(reply: str, logprobs: Sequence[JSON] = ()) -> JSON:
    """Return the part of a text."""
    return {"type": "output_text", "text": reply, "annotations": [], "logprobs": list(logprobs)}


def call(one: JSON) -> JSON:
    """Return an item of a call."""
    own = {"id": f"fc_{one['id']}", "type": "function_call", "call_id": one["id"]}
    return own | {**one["function"], "status": "completed"}


def item_id(kind: str, id: str) -> str:
    """Return the id of an item of a response."""
    return f"{kind}_{id.removeprefix('resp_')}"
