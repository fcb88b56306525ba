"""Helpers for verifiers that query models: submitting requests and reading the replies. Pure.

Such a verifier is a generator of commands over one trace:

    def ask(self, problem, trace):
        request = Request(prompt=..., metrics=word_metrics("Yes", "No"))
        [reply] = completed_only((yield from ask_all([request], trace)))
        ...

The verifier sees only `problem`, `trace` and the replies, so its verdict can be reproduced from
recorded replies. The one rule: a reply that is missing or unreadable leads to no verdict, never to
a low one.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence

from orchestrator.core.errors import NoVerdict
from orchestrator.core.steps import Command, Reply, ask_each
from orchestrator.core.values import Message, Problem, Purpose, Request, Trace, changed
from orchestrator.kit.prompts import visible_text


def ask_all(requests: Sequence[Request], trace: Trace) -> Generator[Command, Reply, list[Trace]]:
    """Submit requests about `trace` side by side and return their replies, in order.

    Failed replies are included.
    """
    subjects = (trace.ordinal,)
    return (
        yield from ask_each(
            [changed(r, purpose=Purpose.VERIFY, subjects=subjects) for r in requests]
        )
    )


def completed_only(replies: Sequence[Trace]) -> list[Trace]:
    """Return the replies; NoVerdict, with the first reason, when one failed or was cancelled."""
    lost = next((t for t in replies if t.lost), None)
    if lost is not None:
        raise NoVerdict(f"a request {lost.finish}{f': {lost.error}' if lost.error else ''}")
    return list(replies)


def usable(replies: Sequence[Trace]) -> list[Trace]:
    """Return the replies that neither failed nor were cancelled.

    NoVerdict, with the first reason, when there is none.
    """
    return [t for t in replies if not t.lost] or completed_only(replies)


def solution(trace: Trace) -> str:
    """Return a trace's solution: its reply, or all of its text where that is thinking only.

    NoVerdict when there is no text.
    """
    text = visible_text(trace)
    if not text:
        raise NoVerdict("the trace has no text")
    return text


def conversation(problem: Problem, reply: str, system: str = "") -> tuple[Message, ...]:
    """Return the problem and a reply to it as a conversation, the input format of reward models.

    `system` becomes the system message, unless the problem already has one.
    """
    prompt = problem.prompt
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if system and all(m.role != "system" for m in messages):
        messages = (Message("system", system), *messages)
    return (*messages, Message("assistant", reply))


def solution_steps(text: str, delimiter: str) -> list[str]:
    """Return the steps of a solution, without blank ones; NoVerdict when it has none."""
    steps = [step.strip() for step in text.split(delimiter) if step.strip()]
    if not steps:
        raise NoVerdict(f"the solution has no step; {delimiter!r} must end each step")
    return steps


def word_metrics(yes: str, no: str) -> tuple[str, str]:
    """Return the metrics that `preference` reads: log-probabilities of beginning with each word."""
    return f"first_token_logprob@{yes}", f"first_token_logprob@{no}"


def require_two_words(**words: str) -> None:
    """Raise ValueError unless two words are different and not empty.

    Pass the words as keywords named after their options.
    """
    (_, one), (_, other) = words.items()
    if not one.strip() or not other.strip() or one.strip() == other.strip():
        options = ", ".join(f"{name} = {word!r}" for name, word in words.items())
        raise ValueError(f"{options}: give two different, non-empty words")


def preference(metrics: Mapping[str, float], yes: str, no: str) -> float | None:
    """Return P(yes) / (P(yes) + P(no)) of the first token.

    None if neither word was among the twenty most likely tokens. If only one was missing, its
    probability counts as 0, since it is below that of each of the twenty.
    """
    first, second = (metrics.get(name) for name in word_metrics(yes, no))
    if first is None or second is None:
        return None if first is second else float(first is not None)
    return sigmoid(first - second)


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)), for any finite x."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
