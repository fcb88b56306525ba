"""Prompts built from other prompts and replies, for strategies with more than one turn. Pure text.

The `problem.prompt` of a strategy is the prompt as the model sees it: with the plan's template and
system message. The prompts built here keep both, so a revised answer has the form that the plan
requires:

    revision = next_turn(problem.prompt, visible_text(trace), "Check your solution.")
    yield from ask(Request(prompt=revision, subjects=(trace.ordinal,)))
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.core.values import Message, Prompt, Trace
from orchestrator.kit.answers.thinking import parts_of


def question(prompt: Prompt) -> str:
    """Return a prompt as one text for a model that should read it, not answer it.

    System messages are left out; each message of a chat is labelled with its role.
    """
    if isinstance(prompt, str):
        return prompt
    messages = [m for m in prompt if m.role != "system"]
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"[{m.role}] {m.content}" for m in messages)


def visible_text(trace: Trace) -> str:
    """Return a trace's own reply; all of its text where that is thinking only."""
    return parts_of(trace).reply_text.strip() or trace.text.strip()


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
