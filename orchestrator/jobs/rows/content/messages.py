"""The messages of a row, as values: roles, texts, media, calls of tools and their replies.

The one rule: what a model would not see as it was written is refused with its place. Not covered:
files that messages name, which a copy of the rows has as data (`media`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from orchestrator.core.values import Media, Message, ToolCall
from orchestrator.jobs.rows.content.media import PARTS, MediaFault, require_known
from orchestrator.plan import registry

_ROLES = ("system", "user", "assistant", "tool")
_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id")


class MessageFault(Exception):
    """Why the messages of a row are invalid."""


def messages_of(value: object) -> tuple[Message, ...]:
    """Return the messages that a row has, as a list or as its JSON in a cell; MessageFault."""
    if isinstance(value, str):  # a CSV cell holds JSON
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise MessageFault(f"its messages are not JSON: {error}") from error
    if not isinstance(value, list) or not value:
        raise MessageFault(
            f"its messages are {kind_of(value)}; they must be a list of at least one message"
        )
    messages = tuple(_message(item, f"message {i}") for i, item in enumerate(value, start=1))
    if not any(m.content.strip() or m.media or m.calls for m in messages):
        raise MessageFault("all its messages are empty")
    return messages


def column_media(parts: object) -> tuple[Media, ...]:
    """Return the media that an image column has as content parts; MessageFault."""
    return _content(parts, "its image column", is_optional=False)[1]


def _message(item: object, where: str) -> Message:
    if not isinstance(item, dict):
        raise MessageFault(
            f"{where} is {kind_of(item)}; a message is an object with 'role' and 'content'"
        )
    # OpenAI's newer word for the same thing
    role = "system" if item.get("role") == "developer" else item.get("role")
    if role not in _ROLES:
        raise MessageFault(
            f"{where} has the role {role!r}{registry.near(str(role), _ROLES)}; there are: "
            f"{', '.join(_ROLES)}"
        )
    own = {name: value for name, value in item.items() if value not in (None, [], "")}
    belongs = {"tool_calls": "assistant", "tool_call_id": "tool"}
    for name in own:
        if name not in _FIELDS or belongs.get(name, role) != role:
            raise MessageFault(f"{where} has {name!r}, which is not supported; remove it")
    calls = _calls(own.get("tool_calls", []), where)
    text, media = _content(item.get("content"), where, is_optional=bool(calls))
    name, call_id = _text(own, "name", where), _text(own, "tool_call_id", where)
    if role == "tool" and not call_id:
        raise MessageFault(
            f"{where} has no 'tool_call_id'; it is the id of the call that it answers"
        )
    return Message(role, text, media, calls, call_id, name)


def _text(message: Mapping[str, Any], field: str, where: str) -> str:
    value = message.get(field, "")
    if not isinstance(value, str):
        raise MessageFault(f"{where} has {kind_of(value)} as {field}; it must be a text")
    return value


def _content(value: object, where: str, *, is_optional: bool) -> tuple[str, tuple[Media, ...]]:
    """Return a message's text and its media, each with its place in the text."""
    if isinstance(value, str) or (value is None and is_optional):
        return value or "", ()
    if not isinstance(value, list):
        what = "no content" if value is None else f"{kind_of(value)} as content"
        raise MessageFault(f"{where} has {what}; it must be a text or a list of parts")
    text, media = "", []
    for part in value:
        if isinstance(part, dict) and part.get("type") == "text":
            text += _text(part, "text", where)
        else:
            media.append(_medium(part, where, len(text)))
    return text, tuple(media)


def _medium(part: object, where: str, at: int) -> Media:
    kind = str(part.get("type")) if isinstance(part, dict) else kind_of(part)
    if not isinstance(part, dict) or kind not in PARTS:
        known = ", ".join(("text", *PARTS))
        raise MessageFault(f"{where} has a part of the type {kind!r}; there are: {known}")
    body = part.get(kind)
    body = {"url": body} if isinstance(body, str) else body
    try:
        return Media(kind, require_known(kind, body), at)
    except MediaFault as fault:
        raise MessageFault(f"{where} has an {kind}: {fault}") from fault


def _calls(value: object, where: str) -> tuple[ToolCall, ...]:
    if not isinstance(value, list):
        raise MessageFault(f"{where} has {kind_of(value)} as tool_calls; it must be a list")
    return tuple(_call(one, where) for one in value)


def _call(value: object, where: str) -> ToolCall:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict) or not isinstance(name, str):
        raise MessageFault(
            f"{where} has a call that is not {{'id': ..., 'type': 'function', 'function': "
            "{'name': ..., 'arguments': ...}}"
        )
    arguments = function.get("arguments", "{}")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(name, text or "{}", str(value.get("id", "")))


_NAMES: Mapping[type, str] = {
    type(None): "nothing",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    """Return what a value of a row is, in words."""
    return _NAMES.get(type(value), type(value).__name__) if value != [] else "an empty list"
