"""Validates engines' replies before they are used, and builds replies. Pure.

The one rule: an invalid reply becomes a FAILED trace with the reason. A bad reply costs one trace,
and never the job or a readable journal.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.core.values import (
    Finish,
    LikelyToken,
    Request,
    Span,
    ToolCall,
    Trace,
    Usage,
    changed,
)

_MAX_TOKEN_ID = 2**31 - 1  # the journal keeps token ids as int32
_BLANK = Trace(0)  # a changed copy takes a third of the time of a new trace


def validated(request: Request, reply: object) -> Trace:
    """Return the reply to a request, or a FAILED trace with the reason if the reply is invalid.

    Lone surrogates (half an emoji, which UTF-8 cannot encode) become `?`.
    """
    if not isinstance(reply, Trace):
        return _failed(request, f"the engine returned {reply!r:.200}, not a Trace")
    if reply.ordinal != request.ordinal:
        return _failed(
            request,
            f"the engine returned trace {reply.ordinal} for request {request.ordinal}: "
            "it mixes up requests",
        )
    if not (math.isfinite(reply.usage.seconds) and all(map(math.isfinite, reply.metrics.values()))):
        numbers = {**reply.metrics, "usage.seconds": reply.usage.seconds}
        odd = {name: value for name, value in numbers.items() if not math.isfinite(value)}
        return _failed(
            request, f"the engine returned numbers that are not finite: {odd}", reply.usage
        )
    if not all(map(math.isfinite, reply.values)):
        return _failed(request, "the engine returned values that are not finite", reply.usage)
    if reply.logprobs and not all(map(math.isfinite, _logprobs(reply))):
        return _failed(
            request, "the engine returned log-probabilities that are not finite", reply.usage
        )
    if not (_within(reply.token_ids) and _within(reply.suffix_ids)):
        return _failed(request, "the engine returned token ids beyond 32 bits", reply.usage)
    if (spans := reply.thinking_spans + (reply.reply_spans or ())) and not _are_spans(
        spans, len(reply.text)
    ):
        return _failed(request, "the engine returned spans that are not in the text", reply.usage)
    if reply.subjects != request.subjects:
        # the strategy decides a trace's subjects, not the engine
        reply = changed(reply, subjects=request.subjects)
    if (
        request.checkpoint
        and reply.finish is Finish.LENGTH
        and reply.usage.output_tokens >= request.checkpoint
    ):
        # the engine was given the checkpoint as its limit
        reply = changed(reply, finish=Finish.RULE)
    if reply.calls:
        reply = changed(reply, calls=tuple(map(_encodable_call, reply.calls)))
    text, error = encodable(reply.text), encodable(reply.error)
    return (
        reply
        if (text, error) == (reply.text, reply.error)
        else replace(reply, text=text, error=error)
    )


def _logprobs(reply: Trace) -> Iterator[float]:
    for one in reply.logprobs:
        yield from (token.logprob for token in (LikelyToken(*one[:3]), *one.top))


def _within(ids: tuple[int, ...]) -> bool:
    return not ids or (min(ids) >= -_MAX_TOKEN_ID - 1 and max(ids) <= _MAX_TOKEN_ID)


def _are_spans(spans: Iterable[Span], n_chars: int) -> bool:
    return all(0 <= start <= end <= n_chars for start, end in spans)


def encodable(text: str) -> str:
    """Return the text with `?` for lone surrogates, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _encodable_call(call: ToolCall) -> ToolCall:
    return ToolCall(encodable(call.name), encodable(call.arguments), encodable(call.id))


def trace_for(request: Request, finish: Finish, **fields: Any) -> Trace:
    """Return a trace of this request with the given other fields."""
    fields.setdefault("metrics", {})
    return changed(
        _BLANK,
        ordinal=request.ordinal,
        finish=finish,
        parent=request.parent,
        purpose=request.purpose,
        model=request.model,
        depth=request.depth,
        subjects=request.subjects,
        **fields,
    )


def without_stop(
    ids: tuple[int, ...], stop: str, decode: Callable[[tuple[int, ...]], str]
) -> tuple[int, ...]:
    """Return token ids without the last ones that together decode to the stop string.

    Removes as few as possible; all are kept if none match.
    """
    for n in range(1, len(ids) + 1):
        if stop in decode(ids[-n:]):
            return ids[:-n]
    return ids


def tokens_between(
    ids: Sequence[int], n_chars: int, span: Span, decode: Callable[[Sequence[int]], str]
) -> int:
    """Return how many of a text's tokens make up a span of it, to within a token.

    The text has `n_chars` characters. Only tokens outside of the span are decoded, so this is fast
    where these are few: before and after a long thinking.
    """
    start, end = span
    n_before = _fewest(start, len(ids), lambda n: len(decode(ids[:n])))
    n_after = _fewest(n_chars - end, len(ids), lambda n: len(decode(ids[len(ids) - n :])))
    return max(0, len(ids) - n_before - n_after)


def _fewest(n_chars: int, n_tokens: int, n_decoded: Callable[[int], int]) -> int:
    """Return the fewest tokens that decode to at least `n_chars` characters; at most all."""
    if n_chars <= 0:
        return 0
    low, high = 0, 1  # too few, and perhaps enough
    while high < n_tokens and n_decoded(high) < n_chars:
        low, high = high, 2 * high
    return bisect_left(range(min(high, n_tokens)), n_chars, low + 1, key=n_decoded)


def _failed(request: Request, error: str, usage: Usage | None = None) -> Trace:
    spent = (
        replace(usage, seconds=usage.seconds if math.isfinite(usage.seconds) else 0.0)
        if usage
        else Usage()
    )
    return trace_for(request, Finish.FAILED, usage=spent, error=error)
