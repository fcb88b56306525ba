"""From a body of /v1/responses to the chat that it means.

The one rule: what has a counterpart in a chat becomes that, and what has none is refused, unless it
changes no reply. The service keeps no responses, so that the input is the whole conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from orchestrator.serve.protocol.bodies import ChatBody, ResponsesBody
from orchestrator.serve.protocol.faults import invalid
from orchestrator.serve.protocol.questions import refuse_near_misses

JSON = dict[str, Any]
_NOTHING_KEPT = "the service keeps no responses; send the whole conversation as input"
_REFUSED = {
    "previous_response_id": _NOTHING_KEPT,
    "conversation": _NOTHING_KEPT,
    "prompt": "the service keeps no prompts; send its text as input",
    "background": "a request is answered while its client waits; use /v1/batches",
    "max_tool_calls": "the service calls no tools itself",
    "context_management": "the service shortens no input",
}
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_LOGPROBS = "message.output_text.logprobs"
_FUNCTION = ("name", "description", "parameters", "strict")
_SCHEMA = ("name", "description", "schema", "strict")


def chat_of(body: ResponsesBody) -> ChatBody:
    """Return the chat that a body means; Fault where it means none."""
    fields = body.model_dump(exclude_unset=True, exclude_none=True)
    refuse_near_misses(body.model_extra or {}, ResponsesBody)
    for name, reason in _REFUSED.items():
        if fields.pop(name, None):
            raise invalid(f"{name}: {reason}", name)
    messages = _messages(fields.pop("input"))
    if instructions := fields.pop("instructions", ""):
        messages.insert(0, {"role": "system", "content": instructions})
    if "max_output_tokens" in fields:
        fields["max_completion_tokens"] = fields.pop("max_output_tokens")
    if "tools" in fields:
        fields["tools"] = [_tool(tool, i) for i, tool in enumerate(fields["tools"])]
    if isinstance(fields.get("tool_choice"), dict):
        fields["tool_choice"] = _choice(fields["tool_choice"])
    fields |= _text_settings(fields.pop("text", {})) | _logprobs(fields)
    if effort := fields.pop("reasoning", {}).get("effort"):
        fields["reasoning_effort"] = effort
    for name in ("include", "truncation", "stream_options"):
        fields.pop(name, None)  # of what this service never sends, cuts or hides
    try:
        return ChatBody.model_validate(fields | {"messages": messages})
    except ValidationError as error:
        [first, *_] = error.errors()
        place = ".".join(map(str, first["loc"]))
        raise invalid(f"input: {place}: {first['msg']}", "input", "invalid_value") from error


def _messages(items: str | Sequence[JSON]) -> list[JSON]:
    """Return the messages of an input; calls of functions belong to the message before them."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[JSON] = []
    for place, item in enumerate(items):
        kind = item.get("type") or "message"
        if kind == "message":
            content = _content(item.get("content"), f"input[{place}].content")
            messages.append({"role": item.get("role"), "content": content})
        elif kind == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(_call(item))
        elif kind == "function_call_output":
            content = _content(item.get("output"), f"input[{place}].output")
            messages.append(
                {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
            )
        elif kind != "reasoning":  # thinking of earlier turns is not shown to a model again
            reason = _NOTHING_KEPT if kind == "item_reference" else "there is no such item here"
            raise invalid(f"input[{place}] is of the type {str(kind)[:50]!r}: {reason}", "input")
    return messages


def _content(value: object, place: str) -> object:
    """Return the content of a message in the form of a chat."""
    if not isinstance(value, list):
        return value
    return [_part(part, f"{place}[{i}]") for i, part in enumerate(value)]


def _part(part: object, place: str) -> object:
    """Return a part of a content in the form of a chat; what is unknown is refused as there."""
    if not isinstance(part, dict):
        return part
    kind = str(part.get("type"))
    if kind in _TEXTS:
        return {"type": "text", "text": part.get(_TEXTS[kind])}
    if kind == "input_image":
        if not isinstance(part.get("image_url"), str):
            raise invalid(f"{place} has no image_url; send the image as a data: URI", "input")
        detail = {"detail": part["detail"]} if part.get("detail") not in (None, "auto") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    return part


def _call(item: Mapping[str, Any]) -> JSON:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _tool(tool: Mapping[str, Any], place: int) -> JSON:
    if tool.get("type") != "function":
        kind = str(tool.get("type"))[:50]
        raise invalid(f"tools[{place}] is of the type {kind!r}; there are functions only", "tools")
    return {"type": "function", "function": _present(tool, _FUNCTION)}


def _choice(choice: Mapping[str, Any]) -> JSON:
    if choice.get("type") != "function":
        raise invalid("tool_choice: name a function, or 'auto', 'required' or 'none'")
    return {"type": "function", "function": _present(choice, ("name",))}


def _text_settings(text: Mapping[str, Any]) -> JSON:
    """Return the fields of a chat for the form of the text that is wanted."""
    wanted = text.get("format") or {}
    settings: JSON = {"verbosity": text["verbosity"]} if text.get("verbosity") else {}
    if wanted.get("type") == "json_schema":
        schema = _present(wanted, _SCHEMA)
        return settings | {"response_format": {"type": "json_schema", "json_schema": schema}}
    return settings | ({"response_format": wanted} if wanted else {})


def _logprobs(fields: Mapping[str, Any]) -> JSON:
    wanted = _LOGPROBS in fields.get("include", ()) or bool(fields.get("top_logprobs"))
    return {"logprobs": True} if wanted else {}


def _present(source: Mapping[str, Any], names: Sequence[str]) -> JSON:
    return {name: source[name] for name in names if source.get(name) is not None}
