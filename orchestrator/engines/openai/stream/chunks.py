"""The events of a stream as OpenAI-compatible servers send them, in all their dialects.

Fields that are not read are not checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from orchestrator.core.values import LikelyToken
from orchestrator.engines.openai.stream.calls import CallDelta


class MalformedReply(Exception):
    """A reply that violates the API; the message becomes `Trace.error`."""


class CutStream(Exception):
    """A stream that ended in the middle of a completion."""


class ErrorEvent(Exception):
    """An error that the server sent as an event, as `error`."""

    def __init__(self, error: object) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that the model might have written."""

    logprob: float
    token: str = ""
    bytes: tuple[int, ...] | None = None

    def likely(self) -> LikelyToken:
        """Return the token; its bytes only where they are not those of its text."""
        is_text = self.bytes is None or bytes(self.bytes) == self.token.encode()
        return LikelyToken(self.token, self.logprob, None if is_text else self.bytes)


@dataclass(frozen=True, slots=True)
class ScoredToken(Alternative):
    """A token that the model wrote, with the most likely ones in its place."""

    top_logprobs: tuple[Alternative, ...] | None = None


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities in the form of chat completions, or of text completions."""

    content: tuple[ScoredToken, ...] | None = None  # chat completions
    token_logprobs: tuple[float, ...] | None = None  # text completions, with the next
    top_logprobs: tuple[dict[str, float] | None, ...] | None = None
    tokens: tuple[str, ...] | None = None

    def scored(self) -> tuple[ScoredToken, ...]:
        """Return the tokens, of either form; MalformedReply if one lacks its text."""
        if self.content is not None:
            return self.content
        own, tops = self.token_logprobs or (), self.top_logprobs or ()
        tops = tops or (None,) * len(own)
        if not len(self.tokens or ()) == len(own) == len(tops):
            raise MalformedReply("the server sent log-probabilities without their tokens")
        return tuple(
            ScoredToken(
                logprob, token, None, tuple(Alternative(p, t) for t, p in (top or {}).items())
            )
            for token, logprob, top in zip(self.tokens or (), own, tops, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a message; Mistral's of the type "thinking" have texts of their own."""

    type: str = "text"
    text: str | None = None
    thinking: str | tuple[Part, ...] | None = None
    reasoning: str | tuple[Part, ...] | None = None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What a chunk adds to a message."""

    content: str | tuple[Part, ...] | None = None
    reasoning: str | tuple[Part, ...] | None = None  # vLLM and others
    reasoning_content: str | tuple[Part, ...] | None = None  # DeepSeek, SGLang, llama.cpp
    reasoning_details: tuple[Part, ...] | None = None  # OpenRouter, mostly beside `reasoning`
    tool_calls: tuple[CallDelta, ...] | None = None

    def pieces(self) -> Iterable[tuple[bool, str]]:
        """Return the texts in order, each with whether it is thinking."""
        if isinstance(self.content, str) and not self.has_reasoning:  # nearly all there are
            return ((False, self.content),)
        return self._pieces()

    @property
    def has_reasoning(self) -> bool:
        """Whether there is thinking beside the content."""
        return bool(self.reasoning or self.reasoning_content or self.reasoning_details)

    def _pieces(self) -> Iterator[tuple[bool, str]]:
        same = (self.reasoning, self.reasoning_content, self.reasoning_details)
        yield True, next((text for text in map(_plain, same) if text), "")
        parts = (Part(text=self.content),) if isinstance(self.content, str) else self.content
        for part in parts or ():
            thought = _plain(part.thinking) or _plain(part.reasoning)
            is_thought = bool(thought) or part.type in ("thinking", "reasoning")
            yield is_thought, thought or part.text or ""


def _plain(content: str | tuple[Part, ...] | None) -> str:
    return content if isinstance(content, str) else "".join(p.text or "" for p in content or ())


class Choice(msgspec.Struct, frozen=True, gc=False):
    """What a chunk adds to a completion."""

    delta: Delta | None = None  # chat completions
    text: str | None = None  # text completions
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | None = None  # vLLM, on request
    index: int | None = None
    error: Any = None  # of some gateways


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """One event of a stream."""

    choices: tuple[Choice, ...] | None = None
    error: Any = None
    usage: Any = None  # whatever it is, the text is there all the same
