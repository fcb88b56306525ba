"""Prompts built from other prompts and replies, for strategies with more than one turn. Pure text.

The `problem.prompt` of a strategy is the prompt as the model sees it: with the plan's template and
system message. The prompts built here keep both, so a revised answer has the form that the plan
requires:

    revision = next_turn(problem.prompt, visible_text(trace), "Check your solution.")
    yield from ask(Request(prompt=revision, subjects=(trace.ordinal,)))
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.core.values import Message, Prompt, ToolCall, Trace, calls_text
from orchestrator.kit.answers.thinking import parts_of


def question(prompt: Prompt) -> str:
    """Return a prompt as one text for a model that should read it, not answer it.

    System messages are left out; each message of a chat is labelled with its role. Media are named
    by their kind, before the text.
    """
    if isinstance(prompt, str):
        return prompt
    messages = [m for m in prompt if m.role != "system"]
    if len(messages) == 1:
        return _readable(messages[0])
    return "\n\n".join(f"[{m.role}] {_readable(m)}" for m in messages)


def _readable(message: Message) -> str:
    kinds = [f"[{one.modality}]" for one in message.media]
    calls = [f"{call.name}({call.arguments})" for call in message.calls]
    return " ".join(filter(None, [*kinds, message.content, *calls]))


def visible_text(trace: Trace) -> str:
    """Return a trace's own reply; all of its text, or its calls, where there is none."""
    return parts_of(trace).reply_text.strip() or trace.text.strip() or calls_text(trace.calls)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return a template with each `{name}` replaced by its value; other braces stay unchanged."""
    return re.sub(
        r"\{(" + "|".join(map(re.escape, values)) + r")\}", lambda match: values[match[1]], template
    )


def next_turn(prompt: Prompt, reply: str, message: str) -> tuple[Message, ...]:
    """Return the conversation of a prompt, the model's reply to it, and the next user message."""
    before = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return (*before, Message("assistant", reply), Message("user", message))


def with_question(prompt: Prompt, text: str) -> Prompt:
    """Return a prompt with its last user message replaced by `text` and all else unchanged."""
    if isinstance(prompt, str):
        return text
    last = max((i for i, m in enumerate(prompt) if m.role == "user"), default=len(prompt))
    return (*prompt[:last], Message("user", text), *prompt[last + 1 :])


def chat_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """Return a prompt as messages of the OpenAI API, with media and calls where there are any."""
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return [_chat_message(message) for message in messages]


def chat_calls(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    """Return calls of tools as the OpenAI API has them."""
    return [
        {
            "id": call.id or f"call_{place}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for place, call in enumerate(calls)
    ]


def _chat_message(message: Message) -> dict[str, Any]:
    content: Any = list(_parts(message)) if message.media else message.content
    found: dict[str, Any] = {"role": message.role, "content": content}
    if message.calls:
        found |= {"content": content or None, "tool_calls": chat_calls(message.calls)}
    if message.call_id:
        found["tool_call_id"] = message.call_id
    return found | ({"name": message.name} if message.name else {})


def _parts(message: Message) -> Iterator[dict[str, Any]]:
    """Yield a message's texts and media in order."""
    start = 0
    for one in (*message.media, None):
        end = len(message.content) if one is None else one.at
        if end > start:
            yield {"type": "text", "text": message.content[start:end]}
        if one is not None:
            yield {"type": one.type, one.type: json.loads(one.body)}
        start = max(start, end)
