"""Prompts made of other prompts and of replies, for strategies that ask more than once. Pure text.

A strategy gets `problem.prompt` as the model gets it: in the plan's template, with its system
message. What is built here keeps both, so that a revised answer is given in the form that the plan
asks for:

    revision = next_turn(problem.prompt, visible_text(trace), "Check your solution.")
    yield from ask(Request(prompt=revision, subjects=(trace.ordinal,)))
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.core.values import Message, Prompt, Trace
from orchestrator.kit.answers import find


def question(prompt: Prompt) -> str:
    """Return a prompt as one text for a model that is to look at it, not to answer it.

    System messages are left out; a chat is written out by role.
    """
    if isinstance(prompt, str):
        return prompt
    messages = [m for m in prompt if m.role != "system"]
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"[{m.role}] {m.content}" for m in messages)


def visible_text(trace: Trace) -> str:
    """Return a trace's own text without its reasoning: what follows the last `</think>`."""
    return find.reply(trace.text, finished=True).text.strip()


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return a template with `{name}` replaced by that value; all other braces stay as they are."""
    return re.sub(
        r"\{(" + "|".join(map(re.escape, values)) + r")\}", lambda match: values[match[1]], template
    )


def next_turn(prompt: Prompt, reply: str, message: str) -> tuple[Message, ...]:
    """Return the conversation of a prompt, the model's reply to it, and the next user message."""
    before = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return (*before, Message("assistant", reply), Message("user", message))


def with_question(prompt: Prompt, text: str) -> Prompt:
    """Return a prompt with its last user message replaced by `text`; everything else stays."""
    if isinstance(prompt, str):
        return text
    last = max((i for i, m in enumerate(prompt) if m.role == "user"), default=len(prompt))
    return (*prompt[:last], Message("user", text), *prompt[last + 1 :])
