"""Verifiers that ask models: what they are, how they ask, and what they read off the replies. Pure.

Such a verifier is a generator of a strategy's commands over one trace. It sees what `problem` and
`trace` hold and the replies, no more, so its verdict can be made again from recorded replies. The
one rule: a reply that cannot be had or read is no verdict, never a low one.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence

from orchestrator.core.errors import NoVerdict
from orchestrator.core.steps import Command, Reply, next_trace, submit
from orchestrator.core.values import Finish, Message, Problem, Purpose, Request, Trace, changed
from orchestrator.kit.prompts import visible_text

_LOST = (Finish.FAILED, Finish.CANCELLED)


def ask_all(requests: Sequence[Request], trace: Trace) -> Generator[Command, Reply, list[Trace]]:
    """Submit requests about `trace` side by side and return their replies, in order, failed ones
    included.
    """
    ordinals = yield from submit(
        [changed(r, purpose=Purpose.VERIFY, subjects=(trace.ordinal,)) for r in requests]
    )
    found = []
    for ordinal in ordinals:
        found.append((yield from next_trace((ordinal,))))  # noqa: PERF401 - a comprehension cannot yield
    return found


def completed_only(given: Sequence[Trace]) -> list[Trace]:
    """Return the replies; NoVerdict, with the first reason, when one of them failed or was
    cancelled.
    """
    lost = next((t for t in given if t.finish in _LOST), None)
    if lost is not None:
        raise NoVerdict(f"a request {lost.finish}{f': {lost.error}' if lost.error else ''}")
    return list(given)


def usable(given: Sequence[Trace]) -> list[Trace]:
    """Return the replies that neither failed nor were cancelled; NoVerdict, with the first reason,
    when there is none.
    """
    found = [t for t in given if t.finish not in _LOST]
    return found or completed_only(given)


def solution(trace: Trace) -> str:
    """Return what a trace says as a solution: what follows its reasoning, or all of it; NoVerdict
    when it says nothing.
    """
    text = visible_text(trace) or trace.text.strip()
    if not text:
        raise NoVerdict("the trace has no text")
    return text


def conversation(problem: Problem, said: str, system: str = "") -> tuple[Message, ...]:
    """Return the problem and what was said to it as reward models read them; `system` goes before
    unless the problem has its own.
    """
    asked = (
        (Message("user", problem.prompt),) if isinstance(problem.prompt, str) else problem.prompt
    )
    before = (
        (Message("system", system),) if system and all(m.role != "system" for m in asked) else ()
    )
    return (*before, *asked, Message("assistant", said))


def solution_steps(text: str, delimiter: str) -> list[str]:
    """Return the steps of a solution, blank ones left out; NoVerdict when no other is there."""
    steps = [step.strip() for step in text.split(delimiter) if step.strip()]
    if not steps:
        raise NoVerdict(f"the solution has no step; {delimiter!r} ends one")
    return steps


def word_metrics(yes: str, no: str) -> tuple[str, str]:
    """Return the metrics from which `preference` reads whether a reply begins with `yes` or with
    `no`.
    """
    return f"first_token_logprob@{yes}", f"first_token_logprob@{no}"


def require_two_words(**words: str) -> None:
    """Raise ValueError unless two words, given by the names of their options, are different and not
    empty.
    """
    (_, one), (_, other) = words.items()
    if not one.strip() or not other.strip() or one.strip() == other.strip():
        raise ValueError(
            f"{', '.join(f'{name} = {word!r}' for name, word in words.items())}: two different words are needed"
        )


def preference(metrics: Mapping[str, float], yes: str, no: str) -> float | None:
    """Return P(yes) / (P(yes) + P(no)) of the first token; None where neither was among the twenty
    likeliest.

    Where one of them was not, it is less likely than each of the twenty that were reported, and
    counts as 0.
    """
    first, second = (metrics.get(name) for name in word_metrics(yes, no))
    if first is None or second is None:
        return None if first is second else float(first is not None)
    return sigmoid(first - second)


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)), for any finite x."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
