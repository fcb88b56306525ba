"""Parses an OpenAI-compatible server's stream into a Trace: checks, counts, metrics, stop rules.

The one rule: nothing is made up. If the server sends no count, `Trace.note` reports it; a missing
log-probability that was requested fails the trace. Does no I/O. Not covered: connections, retries
and HTTP errors (`engine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from orchestrator.core.metrics import RuleFold, entropy, logprobs_needed, metric_values
from orchestrator.core.values import Finish, Request, Trace, Usage
from orchestrator.engines.reply import trace_for

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH}
_NO_COUNT = (
    "usage: the server sent no count; output_tokens is {}, prompt_tokens is unknown and given as 0"
)


class MalformedReply(Exception):
    """A reply that violates the API; the message becomes `Trace.error`."""


@dataclass(frozen=True, slots=True)
class _Alternative:
    logprob: float
    token: str = ""


@dataclass(frozen=True, slots=True)
class _ScoredToken:
    logprob: float
    top_logprobs: tuple[_Alternative, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Logprobs:
    content: tuple[_ScoredToken, ...] | None = None  # chat completions
    token_logprobs: tuple[float, ...] | None = None  # text completions, with the next
    top_logprobs: tuple[dict[str, float] | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Delta:
    content: str | None = None
    reasoning: str | None = None  # vLLM and others
    reasoning_content: str | None = None  # DeepSeek, SGLang, llama.cpp: the same


@dataclass(frozen=True, slots=True)
class _Choice:
    delta: _Delta | None = None  # chat completions
    text: str | None = None  # text completions
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | None = None  # vLLM, on request


@dataclass(frozen=True, slots=True)
class _PromptDetails:
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class _Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


@dataclass(frozen=True, slots=True)
class _Chunk:
    choices: tuple[_Choice, ...] | None = None
    usage: _Usage | None = None


class StreamedReply:
    """Collects one request's stream; `finish` is None until the end of the trace is known."""

    def __init__(self, request: Request) -> None:
        """Start with nothing received."""
        self.finish: Finish | None = None
        self.error = ""
        self.suffix_ids: tuple[int, ...] = ()
        self._request = request
        self._top_k = logprobs_needed(request.metrics, request.rules)
        self._rules = RuleFold(request.rules)
        self._thinking = False
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._confidences: list[float] = []
        self._entropies: list[float] = []
        self._first: list[tuple[str, float]] = []  # the most likely first tokens
        self._usage: _Usage | None = None
        self._n_choices = 0

    def take(self, data: object) -> bool:
        """Add one event; return whether a stop rule fired, which ends the stream.

        MalformedReply if it is not a chunk.
        """
        try:
            chunk = msgspec.convert(data, _Chunk)
        except msgspec.ValidationError as error:
            raise MalformedReply(f"the server sent a malformed reply: {error}") from error
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return False
        choice = chunk.choices[0]
        self._n_choices += 1
        text = self._text(choice)
        confidences = self._scores(choice.logprobs)
        self._texts.append(text)
        self._ids += choice.token_ids or ()
        if choice.finish_reason:
            self._end(choice.finish_reason)
        elif self._rules.update(text, confidences):
            self.finish = Finish.RULE
            return True
        return False

    def close(self, content_type: str) -> None:
        """End the stream. MalformedReply if the completion has not ended."""
        if self.finish is None and self._n_choices:
            raise MalformedReply("the stream was cut: it ended without a finish_reason")
        if self.finish is None:
            raise MalformedReply(
                f"the server sent no choices (content type {content_type or 'not given'})"
            )
        if self._top_k is not None and any(self._texts) and not self._logprobs:
            raise MalformedReply(
                "the server sent no log-probabilities; this plan's metrics or stop rules need them"
            )

    def fail(self, reason: str) -> None:
        """End the trace as FAILED; the tokens so far are kept and charged."""
        self.finish, self.error = Finish.FAILED, reason

    def trace(self, seconds: float) -> Trace:
        """Return the trace so far; a failed one has no metrics."""
        assert self.finish is not None
        request = self._request
        usage, note = self._counted(seconds)
        failed = self.finish is Finish.FAILED
        return trace_for(
            request,
            self.finish,
            text="".join(self._texts),
            token_ids=tuple(self._ids),
            usage=usage,
            metrics={}
            if failed
            else metric_values(
                request.metrics, self._logprobs, self._confidences, self._first, self._entropies
            ),
            suffix_ids=self.suffix_ids,
            error=self.error,
            note=note,
        )

    def _text(self, choice: _Choice) -> str:
        # Servers with a reasoning parser send the reasoning separately. It is output like the rest:
        # rules must see it, and a trace cut inside it must not look empty. The tags are those that
        # most models write themselves.
        delta = choice.delta or _Delta(content=choice.text)
        thought, content = delta.reasoning or delta.reasoning_content or "", delta.content or ""
        if thought and not self._thinking:
            thought, self._thinking = f"<think>{thought}", True
        if content and self._thinking:
            content, self._thinking = f"</think>{content}", False
        return thought + content

    def _scores(self, logprobs: _Logprobs | None) -> list[float]:
        if logprobs is None or self._top_k is None:
            return []
        if logprobs.content is not None:
            sampled = [token.logprob for token in logprobs.content]
            named = [
                [(a.token, a.logprob) for a in token.top_logprobs or ()]
                for token in logprobs.content
            ]
        else:
            sampled = list(logprobs.token_logprobs or ())
            named = [list((top or {}).items()) for top in logprobs.top_logprobs or ()]
        tops = [[logprob for _, logprob in top] for top in named]
        if not self._logprobs and named:
            self._first = sorted(named[0], key=lambda token: -token[1])[: self._top_k]
        self._logprobs += sampled
        if not self._top_k:
            return []
        if len(tops) != len(sampled):
            raise MalformedReply(
                f"the server sent top log-probabilities for {len(tops)} of {len(sampled)} tokens"
            )
        confidences = [_confidence(top, self._top_k) for top in tops]
        self._confidences += confidences
        self._entropies += map(entropy, tops)
        return confidences

    def _end(self, reason: str) -> None:
        self.finish = _FINISHES.get(reason)
        if self.finish is None:
            self.fail(f"the server ended it with finish_reason {reason!r}")

    def _counted(self, seconds: float) -> tuple[Usage, str]:
        usage = self._usage or _Usage()
        n_tokens = max(usage.completion_tokens, len(self._ids), len(self._logprobs))
        note = ""
        if self._usage is None and n_tokens:
            note = _NO_COUNT.format("what arrived")
        elif self._usage is None and (self._n_choices or self.finish is Finish.CANCELLED):
            n_tokens = sum(map(bool, self._texts))
            note = _NO_COUNT.format("the number of pieces that arrived, a lower bound")
        details = usage.prompt_tokens_details
        cached = (details.cached_tokens or 0) if details else 0
        return Usage(usage.prompt_tokens, cached, n_tokens, 0, seconds), note


def _confidence(top: list[float], top_k: int) -> float:
    # Fewer than top_k would give a value on another scale, which must not be compared with a floor
    # or used as a weight.
    if len(top) < top_k:
        raise MalformedReply(
            f"the server sent {len(top)} of the {top_k} top log-probabilities that confidence is "
            "defined on"
        )
    return -sum(sorted(top, reverse=True)[:top_k]) / top_k


def token_ids(data: Any) -> tuple[int, ...]:
    """Return the ids in vLLM's reply to /tokenize; MalformedReply if it is invalid."""
    try:
        return msgspec.convert(data, _Tokenized).tokens
    except msgspec.ValidationError as error:
        raise MalformedReply(f"/tokenize sent a malformed reply: {error}") from error


def model_names(data: Any) -> tuple[str, ...]:
    """Return the model names in a reply to /models; MalformedReply if it is invalid."""
    try:
        return tuple(card.id for card in msgspec.convert(data, _Models).data)
    except msgspec.ValidationError as error:
        raise MalformedReply(f"/models sent a malformed reply: {error}") from error


@dataclass(frozen=True, slots=True)
class _Tokenized:
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Card:
    id: str


@dataclass(frozen=True, slots=True)
class _Models:
    data: tuple[_Card, ...]
