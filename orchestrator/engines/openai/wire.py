"""Parses an OpenAI-compatible server's stream into a Trace: checks, counts, metrics, stop rules.

The one rule: nothing is made up. If the server sends no count, `Trace.note` reports it; a missing
log-probability that was requested fails the trace. Does no I/O. Not covered: connections, retries
and HTTP errors (`engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from orchestrator.core.metrics import (
    RuleFold,
    entropy,
    logprobs_needed,
    metric_values,
    recorded_with,
    top_logprobs_returned,
)
from orchestrator.core.values import (
    Finish,
    Request,
    Span,
    Spans,
    TokenLogprob,
    Trace,
    Usage,
)
from orchestrator.engines.openai.stream.calls import StreamedCalls
from orchestrator.engines.openai.stream.chunks import (
    Choice,
    Chunk,
    CutStream,
    Delta,
    Logprobs,
    MalformedReply,
)
from orchestrator.engines.reply import trace_for
from orchestrator.kit.answers.tags import CLOSE, OPEN
from orchestrator.kit.answers.thinking import merged, refined

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "tool_calls": Finish.STOP}
_NO_COUNT = "output_tokens is {}"
_NO_PROMPT_COUNT = "prompt_tokens is unknown and given as 0"
_MAX_COUNT = 10**9  # tokens: no context is as long
_MAX_CHARS_PER_TOKEN, _MAX_MORE_CHARS = 1_000, 1 << 20


def _count(value: object) -> int | None:
    """Return a count of tokens; None for what cannot be one, such as -1, 10^40 or 2.5."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT
    return value if is_count else None  # type: ignore[return-value]  # it is an int


def _member(value: object, name: str) -> object:
    """Return a member of an object; None where there is none, or no object."""
    return value.get(name) if isinstance(value, dict) else None


class StreamedReply:
    """Collects one request's stream; `finish` is None until the end of the trace is known."""

    def __init__(
        self, request: Request, on_text: Callable[[str], None] = lambda text: None
    ) -> None:
        """Start with nothing received; `on_text` is called with each piece that is."""
        self._on_text = on_text
        self.finish: Finish | None = None
        self.error = ""
        self.suffix_ids: tuple[int, ...] = ()
        self._request = request
        self._top_k = logprobs_needed(request.metrics, request.rules)
        self._rules = RuleFold(request.rules)
        self._texts: list[str] = []
        self._n_chars = 0
        self._thinking: list[Span] = []
        self._content: list[Span] = []
        self._is_thinking = False
        self._n_thinking_tokens = 0  # as far as token ids came with them
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._confidences: list[float] = []
        self._entropies: list[float] = []
        self._first: list[tuple[str, float]] = []  # the most likely first tokens
        self._n_kept = top_logprobs_returned(request)
        self._kept: list[TokenLogprob] = []
        self._calls = StreamedCalls()
        self._usage: object = None
        self._n_choices = 0

    def take(self, chunk: Chunk) -> bool:
        """Add a chunk; return whether a stop rule fired, which ends the stream."""
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return False
        [choice, *others] = chunk.choices
        if others or choice.index:
            raise MalformedReply("the server sent several completions, and one was requested")
        self._n_choices += 1
        is_over = self.finish is not None
        text = "".join(self._received(choice))
        self._texts.append(text)
        if choice.delta and choice.delta.tool_calls:
            self._n_chars += self._calls.take(choice.delta.tool_calls)
        if is_over and text:
            raise MalformedReply("the server sent text after the end of the completion")
        if self._n_chars > _most_chars(self._request):
            raise MalformedReply(
                f"the server sent {self._n_chars:,} characters for a completion of at most "
                f"{self._request.max_new_tokens} tokens"
            )
        self._keep(choice.logprobs)
        confidences = self._scores(choice.logprobs)
        self._ids += choice.token_ids or ()
        if choice.finish_reason:
            self._end(choice.finish_reason)
        elif self._rules.update(text, confidences):
            self.finish = Finish.RULE
            self._on_text(text)
            return True
        if text:
            self._on_text(text)
        return False

    def close(self, content_type: str) -> None:
        """End the stream. CutStream if the completion has not ended."""
        if self.finish is None and self._n_choices:
            raise CutStream("the stream was cut: it ended without a finish_reason")
        if self.finish is None:
            raise MalformedReply(
                f"the server sent no choices (content type {content_type or 'not given'})"
            )
        if self._top_k is not None and any(self._texts) and not self._logprobs:
            raise MalformedReply(
                "the server sent no log-probabilities; this plan's metrics or stop rules need them"
            )
        if self._n_kept is not None and any(self._texts) and not self._kept:
            raise MalformedReply(
                "the server sent no log-probabilities; sampling.logprobs needs them"
            )

    def fail(self, reason: str) -> None:
        """End the trace as FAILED; the tokens so far are kept and charged."""
        self.finish, self.error = Finish.FAILED, reason

    @property
    def n_tokens(self) -> int:
        """The output tokens so far, as far as they are known."""
        return self._counted(0.0)[0].output_tokens

    def trace(self, seconds: float) -> Trace:
        """Return the trace so far; a failed one has no metrics."""
        assert self.finish is not None
        request = self._request
        usage, note = self._counted(seconds)
        failed = self.finish is Finish.FAILED
        text = "".join(self._texts)
        return trace_for(
            request,
            self.finish,
            text=text,
            token_ids=tuple(self._ids),
            usage=usage,
            metrics={}
            if failed
            else metric_values(
                recorded_with(request.metrics),
                self._logprobs,
                self._confidences,
                self._first,
                self._entropies,
            ),
            suffix_ids=self.suffix_ids,
            logprobs=tuple(self._kept),
            calls=() if failed else self._calls.calls,
            error=self.error,
            note=note,
            **self._parts(text),
        )

    def _received(self, choice: Choice) -> Iterator[str]:
        """Yield a chunk's texts, with a tag wherever thinking begins or ends.

        Servers with a reasoning parser send the thinking separately. It is output like the rest:
        rules must see it, and a trace cut inside it must not look empty.
        """
        delta = choice.delta or Delta(content=choice.text)
        pieces = [piece for piece in delta.pieces() if piece[1]]
        if pieces and all(is_thought for is_thought, _ in pieces):
            self._n_thinking_tokens += len(choice.token_ids or ())
        for is_thought, text in pieces:
            if is_thought != self._is_thinking:
                self._is_thinking = is_thought
                yield self._advanced(OPEN if is_thought else CLOSE)
            spans = self._thinking if is_thought else self._content
            spans.append((self._n_chars, self._n_chars + len(text)))
            yield self._advanced(text)

    def _advanced(self, text: str) -> str:
        self._n_chars += len(text)
        return text

    def _keep(self, logprobs: Logprobs | None) -> None:
        """Add what the trace keeps of a chunk's log-probabilities."""
        if logprobs is None or self._n_kept is None:
            return
        for token in logprobs.scored():
            ranked = sorted(
                (t.likely() for t in token.top_logprobs or ()), key=lambda t: -t.logprob
            )
            self._kept.append(TokenLogprob(*token.likely(), tuple(ranked[: self._n_kept])))

    def _scores(self, logprobs: Logprobs | None) -> list[float]:
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

    def _parts(self, text: str) -> Mapping[str, Spans]:
        """Return the trace's spans; none where the server sent no thinking of its own.

        Then the text may contain tags.
        """
        if not self._thinking:
            return {}
        parts = refined(text, merged(self._thinking), merged(self._content))
        return {"thinking_spans": parts.thinking, "reply_spans": parts.reply}

    def _counted(self, seconds: float) -> tuple[Usage, str]:
        """Return the trace's cost, and a note on the counts that the server did not send."""
        sent = [_member(self._usage, name) for name in ("prompt_tokens", "completion_tokens")]
        n_prompt, n_completion = map(_count, sent)
        if n_completion and n_completion > _most_chars(self._request):
            n_completion = None  # a token has a character, and that many fail the reply
        n_arrived = max(len(self._ids), len(self._logprobs))
        n_tokens, notes = max(n_completion or 0, n_arrived), []
        if n_completion is None and n_arrived:
            notes.append(_NO_COUNT.format("what arrived"))
        elif n_completion is None and self._has_begun:
            n_tokens = sum(map(bool, self._texts))
            notes.append(_NO_COUNT.format("the number of pieces that arrived, a lower bound"))
        if n_prompt is None and (n_arrived or self._has_begun):
            notes.append(_NO_PROMPT_COUNT)
        fault = "no count" if None in sent else f"the counts ({sent[0]}, {sent[1]})"[:70]
        note = f"usage: the server sent {fault}; {', '.join(notes)}" if notes else ""
        cached = _part(_member(self._usage, "prompt_tokens_details"), "cached_tokens", n_prompt)
        n_thinking = self._reasoning_tokens(n_tokens)
        return Usage(n_prompt or 0, cached or 0, n_tokens, 0, seconds, n_thinking), note

    @property
    def _has_begun(self) -> bool:
        return bool(self._n_choices) or self.finish is Finish.CANCELLED

    def _reasoning_tokens(self, n_tokens: int) -> int:
        details = _member(self._usage, "completion_tokens_details")
        holder = self._usage if details is None else details  # SGLang has no details
        reported = _part(holder, "reasoning_tokens", n_tokens)
        return self._n_thinking_tokens if reported is None else reported


def _part(holder: object, name: str, whole: int | None) -> int | None:
    """Return a count that is part of another one; None if it is more than that."""
    count = _count(_member(holder, name))
    return None if count is None or count > (whole or 0) else count


def _most_chars(request: Request) -> float:
    if request.max_new_tokens is None:
        return float("inf")
    return request.max_new_tokens * _MAX_CHARS_PER_TOKEN + _MAX_MORE_CHARS


def _confidence(top: list[float], top_k: int) -> float:
    # Fewer than top_k would give a value on another scale, which must not be compared with a floor
    # or used as a weight.
    if len(top) < top_k:
        raise MalformedReply(
            f"the server sent {len(top)} of the {top_k} top log-probabilities that confidence is "
            "defined on"
        )
    return -sum(sorted(top, reverse=True)[:top_k]) / top_k
