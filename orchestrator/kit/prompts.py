"""Prompts made of other prompts and of what a model said: what strategies that ask twice have in
common. Pure text.

What a strategy is given as `problem.prompt` is the question as the plan asks it, in its template
and with its system message; what it builds from that here keeps both, so that a revised answer is
stated as the plan wants answers stated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.core.values import Message, Prompt, Trace
from orchestrator.kit.answers.find import reply


def question(prompt: Prompt) -> str:
    """Return a prompt as one text for a model that is to look at it, not to answer it: without
    system messages, a chat by role.
    """
    if isinstance(prompt, str):
        return prompt
    said = [m for m in prompt if m.role != "system"]
    return (
        said[0].content if len(said) == 1 else "\n\n".join(f"[{m.role}] {m.content}" for m in said)
    )


def visible_text(trace: Trace) -> str:
    """Return a trace's own text as it is shown to a model: what follows the last closed `</think>`."""
    return reply(trace.text, finished=True).text.strip()


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return a template with `{name}` replaced by the value of that name; other braces stay, also
    those within values.
    """
    return re.sub(
        r"\{(" + "|".join(map(re.escape, values)) + r")\}", lambda found: values[found[1]], template
    )


def next_turn(prompt: Prompt, said: str, asked: str) -> tuple[Message, ...]:
    """Return a conversation one turn on: the prompt, what the model said to it, and what it is
    asked next.
    """
    before = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return (*before, Message("assistant", said), Message("user", asked))


def with_question(prompt: Prompt, text: str) -> Prompt:
    """Return a prompt with the last user message replaced by `text`; its system message and what
    came before stay.
    """
    if isinstance(prompt, str):
        return text
    last = max((i for i, m in enumerate(prompt) if m.role == "user"), default=len(prompt))
    return (*prompt[:last], Message("user", text), *prompt[last + 1 :])
