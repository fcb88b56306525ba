"""Watches one request's tokens in vLLM's output processor to compute confidences and check rules.

It depends on four private parts of vLLM 0.32 and no others: the output processor's state of a
request (`request_states`), the queue and the detokenizer in that state, and its container of
log-probabilities. Does not import vllm: it receives vLLM's objects.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.core.metrics import (
    TOP_K,
    RuleFold,
    entropy,
    first_words,
    metric_values,
    recorded_with,
    top_logprobs_computed,
    top_logprobs_returned,
)
from orchestrator.core.values import (
    ConfidenceFloor,
    LikelyToken,
    Request,
    StopRule,
    TokenLogprob,
)

LEAST_LOGPROB = -9999.0  # of a token that cannot be drawn; as vLLM's server sends it


class TokenWatch:
    """Watches the tokens of a request that vLLM has just accepted, if necessary (`wanted`).

    vLLM calls `put` once per step, which has several tokens where the model drafts for itself. The
    watch replaces the request's queue and forwards only the last output, or the output at which a
    rule fired. A rule fires at its token, whatever follows in the step. It takes precedence over
    the length limit; at the same token, the end of the sequence takes precedence over a rule.
    """

    def __init__(
        self,
        request: Request,
        queue: Any,
        flat_logprobs: type,
        state: Any,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        """Replace `queue`; `state` is None if vLLM has already finished the request.

        `on_text` is called with each new piece of text.
        """
        self._on_text = on_text
        self.fired = False
        self.text: str | None = None  # None: no rule was checked; the text is in the output
        self.ids: tuple[int, ...] = ()
        self._queue = queue
        self._state = state
        self._folds = [(RuleFold(rules), top_k) for top_k, rules in by_top_k(request.rules)]
        self._top_ks = {TOP_K, *(top_k for _, top_k in self._folds if top_k)}
        n_top = top_logprobs_returned(request)
        self._keeps = n_top is not None
        n_kept = 0 if n_top is None else 1 + n_top
        self._empty = functools.partial(series_class(flat_logprobs), self._top_ks, n_kept)
        self._series: Any = None
        self._seen_tokens, self._seen_text = 0, ""  # by the rules
        self._new: list[tuple[int, str]] = []  # numbers of tokens, and the text of the last one
        self._n_reported = 0  # characters
        if state is None:
            return
        if top_logprobs_computed(request) is not None:
            self._series = _adopted(self._empty(), state.logprobs_processor.logprobs)
            state.logprobs_processor.logprobs = self._series
            state.logprobs_processor.tokenizer = (
                None  # otherwise vLLM decodes every alternative token to text
            )
        if request.rules:
            self._record(state.detokenizer)
        if request.rules or on_text is not None:
            state.queue = self
            earlier = queue.get_nowait()  # earlier outputs are also in the state
            if earlier is not None:
                self._report(earlier)

    @staticmethod
    def wanted(request: Request) -> bool:
        """Return whether the request's tokens have to be watched."""
        return bool(request.rules) or top_logprobs_computed(request) is not None

    def put(self, output: Any) -> None:
        """Process an item for the consumer: one step's output, or the engine's fatal error."""
        if self.fired:
            return  # a step that ran before the abort
        if isinstance(output, Exception):
            self._queue.put(output)
            return
        detokenizer = self._state.detokenizer
        n_tokens = detokenizer.num_output_tokens()
        ends = output.finished and output.outputs[0].finish_reason != "length"
        self.fired = self._fires(n_tokens - 1 if ends else n_tokens)
        if self.fired:
            self.text = self._seen_text
            self.ids = tuple(detokenizer.output_token_ids)[: self._seen_tokens]
        elif output.finished:
            self.text, self.ids = detokenizer.output_text, tuple(detokenizer.output_token_ids)
        self._report(output)
        if self.fired or output.finished:
            self._queue.put(output)

    def metrics(
        self, names: Sequence[str], output: Any, n_tokens: int, decode: Callable[[int], str]
    ) -> dict[str, float]:
        """Return the metrics of the first `n_tokens` tokens.

        `output` is the request's last output; `decode` returns a token's text.
        """
        if not names:
            return {}
        series = self._series_of(output)
        first = (
            [(decode(id), logprob) for id, logprob in series.first] if first_words(names) else []
        )
        return metric_values(
            recorded_with(names),
            series.sampled[:n_tokens],
            series.confidences[TOP_K][:n_tokens],
            first,
            series.entropies[:n_tokens],
        )

    def _report(self, output: Any) -> None:
        """Report a step's text, from which vLLM holds back what may begin a stop string.

        Nothing after the token at which a rule fired.
        """
        if self._on_text is None:
            return
        text = output.outputs[0].text
        if self.fired and self.text is not None:
            text = text[: max(0, len(self.text) - self._n_reported)]
        self._n_reported += len(text)
        if text:
            self._on_text(text)

    def logprobs(
        self, output: Any, n_tokens: int, likely: Callable[[int, float], LikelyToken]
    ) -> tuple[TokenLogprob, ...]:
        """Return what the trace keeps of the first `n_tokens` tokens; `likely` decodes a token."""
        if not self._keeps:
            return ()
        kept = self._series_of(output).kept[:n_tokens]
        return tuple(
            TokenLogprob(*likely(*own), tuple(likely(*one) for one in top)) for own, *top in kept
        )

    def _series_of(self, output: Any) -> Any:
        if self._series is not None:
            return self._series
        return _adopted(self._empty(), output.outputs[0].logprobs)

    def _record(self, detokenizer: Any) -> None:
        """Make vLLM's detokenizer tell the text of each token."""
        stock = detokenizer.decode_next
        if earlier := detokenizer.num_output_tokens():
            self._new.append((earlier, detokenizer.output_text))

        def decode_next(token: int) -> str:
            text: str = stock(token)
            self._new.append((detokenizer.num_output_tokens(), text))
            return text

        detokenizer.decode_next = decode_next

    def _fires(self, n_tokens: int) -> bool:
        """Return whether a rule fires among the first `n_tokens`; the first such is the last seen.

        vLLM counts a token before it decodes it.
        """
        new, self._new = self._new, []
        for n, text in new:
            if n > n_tokens:
                break
            tokens, self._seen_tokens = slice(self._seen_tokens, n), n
            self._seen_text += text
            fired = [
                fold.update(text, self._series.confidences[top_k][tokens] if top_k else ())
                for fold, top_k in self._folds
            ]
            if any(fired):
                return True
        return False


def tokens_so_far(states: Mapping[str, Any]) -> int:
    """Return the output tokens of the requests in vLLM's output processor, by their states."""
    detokenizers = [state.detokenizer for state in states.values()]  # None in pooling models
    return sum(one.num_output_tokens() for one in detokenizers if one is not None)


def by_top_k(rules: Sequence[StopRule]) -> Iterator[tuple[int, list[StopRule]]]:
    """Yield the rules by `top_k`, as these share confidences; rules on text are under 0."""
    top_ks = [rule.top_k if isinstance(rule, ConfidenceFloor) else 0 for rule in rules]
    for top_k in sorted(set(top_ks)):
        yield top_k, [rule for rule, k in zip(rules, top_ks, strict=True) if k == top_k]


def confidence(ranked_logprobs: Sequence[float], top_k: int) -> float:
    """Return a token's confidence in nats: minus the mean of its `top_k` largest log-probabilities.

    DeepConf, section 3.1.
    """
    return -math.fsum(ranked_logprobs[:top_k]) / top_k


@functools.cache
def series_class(flat_logprobs: type) -> type:
    """Return the container that replaces vLLM's `FlatLogprobs`, or a class with its methods."""

    class Series(flat_logprobs):  # type: ignore[misc]  # vLLM checks its container's class
        """Stores three floats per token, where vLLM stores four lists of 21 values.

        `sampled` are log-probabilities, `confidences` are keyed by top_k, and `first` are the most
        likely first tokens, as (token id, log-probability). So are the first `n_kept` of each
        token, itself first, in `kept`.
        """

        def __init__(self, top_ks: Collection[int], n_kept: int = 0) -> None:
            super().__init__()
            self._n_kept = n_kept
            self.kept: list[list[tuple[int, float]]] = []
            self.sampled: list[float] = []
            self.confidences: dict[int, list[float]] = {top_k: [] for top_k in top_ks}
            self.entropies: list[float] = []
            self.first: list[tuple[int, float]] = []

        def append_fast(
            self, token_ids: Any, logprobs: list[float], ranks: Any, decoded_tokens: Any
        ) -> None:
            # The sampled token is first, even if it is among the most likely ones, which follow by
            # rank.
            ranked = logprobs[1:]
            if not self.sampled:
                self.first = list(zip(map(int, token_ids[1:]), ranked, strict=True))
            self.sampled.append(logprobs[0])
            if self._n_kept:
                pairs = zip(token_ids[: self._n_kept], logprobs, strict=False)
                self.kept.append([(int(id), max(p, LEAST_LOGPROB)) for id, p in pairs])
            if len(ranked) >= TOP_K:
                self.entropies.append(entropy(ranked))
            for top_k, values in self.confidences.items():
                if len(ranked) >= top_k:
                    values.append(confidence(ranked, top_k))

    return Series


def _adopted(series: Any, begun: Any) -> Any:
    """Return `series` after adding the entries of vLLM's own container."""
    for start, end in zip(begun.start_indices, begun.end_indices, strict=True):
        series.append_fast(begun.token_ids[start:end], begun.logprobs[start:end], (), ())
    return series
