"""Messages of a conversation: their texts, the media in them, and calls of tools.

The one rule: a message keeps what the OpenAI API says of it, so that it can be sent as it came.
Media are data or addresses; nothing is loaded here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

# what `Sampling.extra` says of tools, by the names of the OpenAI API
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's call of a tool; `arguments` are JSON as the model wrote it."""

    name: str
    arguments: str = "{}"
    id: str = ""


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a sound or a video in a message.

    `type` is the type of the content part in the OpenAI API, such as "image_url", and `body` is
    what the part has under that name, as JSON. It stands before the character `at` of the message's
    text.
    """

    type: str
    body: str
    at: int = 0

    @property
    def modality(self) -> str:
        """The kind of its content: "image", "audio" or "video"."""
        return next((kind for kind in ("image", "audio", "video") if kind in self.type), self.type)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message: its text, the media in it, and the tools that it calls.

    A message of the role "tool" has in `call_id` the id of the call that it answers.
    """

    role: str
    content: str
    media: tuple[Media, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    name: str = ""


Prompt: TypeAlias = str | tuple[Message, ...]


def media_of(prompt: Prompt) -> tuple[Media, ...]:
    """Return all media in a prompt, in order."""
    return () if isinstance(prompt, str) else tuple(one for m in prompt for one in m.media)


def calls_text(calls: Sequence[ToolCall]) -> str:
    """Return calls as one JSON array of names and arguments, in their order; "" without any.

    Arguments that are not JSON stand there as a text.
    """
    if not calls:
        return ""
    one = (f'{{"name": {json.dumps(c.name)}, "arguments": {_json(c.arguments)}}}' for c in calls)
    return f"[{', '.join(one)}]"


def _json(arguments: str) -> str:
    try:
        json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return json.dumps(arguments)
    return arguments.strip() or "{}"
