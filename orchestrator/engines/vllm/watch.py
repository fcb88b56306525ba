"""Watches one request's tokens in vLLM's output processor to compute confidences and check rules.

It depends on three private parts of vLLM 0.32 and no others: the output processor's state of a
request (`request_states`), the queue in that state, and its container of log-probabilities. Does
not import vllm: it receives vLLM's objects.
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
    logprobs_needed,
    metric_values,
    recorded_with,
)
from orchestrator.core.values import ConfidenceFloor, Request, StopRule


class TokenWatch:
    """Watches the tokens of a request that vLLM has just accepted, if necessary (`wanted`).

    vLLM calls `put` once per step. The watch replaces the request's queue and forwards only the
    last output, or the output at which a rule fired. A rule takes precedence over the length limit,
    and the end of the sequence over a rule.
    """

    def __init__(self, request: Request, queue: Any, flat_logprobs: type, state: Any) -> None:
        """Replace `queue`; `state` is None if vLLM has already finished the request."""
        self.fired = False
        self.text: str | None = None  # None: no rule was checked; the text is in the output
        self.ids: tuple[int, ...] = ()
        self._queue = queue
        self._state = state
        self._folds = [(RuleFold(rules), top_k) for top_k, rules in by_top_k(request.rules)]
        self._top_ks = {TOP_K, *(top_k for _, top_k in self._folds if top_k)}
        self._empty = functools.partial(series_class(flat_logprobs), self._top_ks)
        self._series: Any = None
        self._seen_chars = self._seen_tokens = 0
        if state is None:
            return
        if logprobs_needed(request.metrics, request.rules) is not None:
            self._series = _adopted(self._empty(), state.logprobs_processor.logprobs)
            state.logprobs_processor.logprobs = self._series
            state.logprobs_processor.tokenizer = (
                None  # otherwise vLLM decodes every alternative token to text
            )
        if request.rules:
            state.queue = self
            queue.get_nowait()  # earlier outputs are also in the state

    @staticmethod
    def wanted(request: Request) -> bool:
        """Return whether the request's tokens have to be watched."""
        return bool(request.rules) or logprobs_needed(request.metrics, ()) is not None

    def put(self, output: Any) -> None:
        """Process an item for the consumer: one step's output, or the engine's fatal error."""
        if self.fired:
            return  # a step that ran before the abort
        if isinstance(output, Exception):
            self._queue.put(output)
            return
        detokenizer = self._state.detokenizer
        if not output.finished or output.outputs[0].finish_reason == "length":
            self.fired = self._fires(detokenizer.output_text, detokenizer.num_output_tokens())
        if self.fired or output.finished:
            self.text, self.ids = detokenizer.output_text, tuple(detokenizer.output_token_ids)
            self._queue.put(output)

    def metrics(
        self, names: Sequence[str], output: Any, n_tokens: int, decode: Callable[[int], str]
    ) -> dict[str, float]:
        """Return the metrics of the first `n_tokens` tokens.

        `output` is the request's last output; `decode` returns a token's text.
        """
        if not names:
            return {}
        series = (
            self._series
            if self._series is not None
            else _adopted(self._empty(), output.outputs[0].logprobs)
        )
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

    def _fires(self, text: str, n_tokens: int) -> bool:
        new_text, self._seen_chars = text[self._seen_chars :], len(text)
        new_tokens, self._seen_tokens = slice(self._seen_tokens, n_tokens), n_tokens
        fired = [
            fold.update(new_text, self._series.confidences[top_k][new_tokens] if top_k else ())
            for fold, top_k in self._folds
        ]
        return any(fired)


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
        likely first tokens, as (token id, log-probability).
        """

        def __init__(self, top_ks: Collection[int]) -> None:
            super().__init__()
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
