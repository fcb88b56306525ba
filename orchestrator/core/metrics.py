"""Metrics and stop rules, computed incrementally over tokens in the engine process. Pure.

Metrics are named scalars, and only these scalars leave the engine process. Some names accept a
window in tokens after `@` (2048 without one):

- `mean_logprob`: mean natural log-probability of the generated tokens.
- `mean_entropy`: mean entropy, in nats, of the distributions from which they were drawn. It is a
  lower bound: all tokens but the 20 most likely count together as one more token.
- `mean_confidence`, `tail_confidence[@w]`, `lowest_confidence[@w]`, `bottom10_confidence[@w]`:
  DeepConf (arXiv 2508.15260, section 3). The confidence of a token is minus the mean
  log-probability of the 20 most likely tokens; a group is a window of `w` tokens, stride 1, or the
  whole trace when it is shorter. Tail: mean over the last `w` tokens. Lowest: the lowest group.
  Bottom 10: mean of the lowest tenth of the groups, at least one. High is confident.
- `first_token_logprob@WORD`: natural log of the probability that the trace begins with WORD: the
  sum over those of the 20 most likely first tokens that equal WORD after removing spaces around
  them. Absent when none of them does.
- `prefix_logprob`: the sum of the natural log-probabilities of the tokens that the request inherits
  from its ancestors, after its own prompt, which may differ from theirs. The engine computes it by
  scoring those tokens again (Capability.SCORE), not when they are generated.

Engines record with one metric what its log-probabilities give for nothing (`recorded_with`), so
that another selector can be tried on the job. A trace without tokens has no metrics: their names
are absent, never 0. A trace that inherits no tokens has no `prefix_logprob`. The first token of a
sequence has no log-probability: where a prompt has no tokens, the first inherited one is left out.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.core.errors import PlanError
from orchestrator.core.values import (
    ConfidenceFloor,
    Delimiter,
    Request,
    StopRule,
    WordLimit,
)

DEFAULT_WINDOW = 2048  # DeepConf, section 3.1
TOP_K = 20  # the released DeepConf code requests 20 log-probabilities
_WINDOWED = ("tail_confidence", "lowest_confidence", "bottom10_confidence")
_PLAIN = ("mean_logprob", "mean_confidence", "mean_entropy")
_TOGETHER = (*_PLAIN, *_WINDOWED)  # what the 20 most likely tokens give for nothing
_FIRST = "first_token_logprob"
PREFIX = "prefix_logprob"


def parse_metric(name: str) -> tuple[str, int]:
    """Return the kind of a metric and its window in tokens (0 if it has none).

    PlanError, with the known names, for an unknown metric.
    """
    kind, at, window = name.partition("@")
    if kind in (*_PLAIN, PREFIX) and not at:
        return kind, 0
    if kind in _WINDOWED and (not at or (window.isdecimal() and int(window) > 0)):
        return kind, int(window or DEFAULT_WINDOW)
    if kind == _FIRST and window.strip():
        return kind, 0
    known = f"{', '.join(_PLAIN)}, {PREFIX}, {_FIRST}@WORD"
    windowed = f"and with an optional @window {', '.join(_WINDOWED)}"
    raise PlanError(f"metric {name!r} is not known; the known ones are {known}, {windowed}")


def first_words(metrics: Sequence[str]) -> list[str]:
    """Return the words of the `first_token_logprob` metrics, in order."""
    return [
        word.strip()
        for kind, _, word in (name.partition("@") for name in metrics)
        if kind == _FIRST
    ]


def logprobs_needed(metrics: Sequence[str], rules: Sequence[StopRule]) -> int | None:
    """Return how many top log-probabilities of each token these metrics and rules need.

    None: no log-probabilities at all. 0: only that of the sampled token.
    """
    top_k = max((r.top_k for r in rules if isinstance(r, ConfidenceFloor)), default=0)
    kinds = {parse_metric(name)[0] for name in metrics} - {PREFIX}
    if kinds - {"mean_logprob"}:
        top_k = max(top_k, TOP_K)
    return top_k or (0 if kinds else None)


def top_logprobs_returned(request: Request) -> int | None:
    """Return how many top log-probabilities of each token a request's trace has to have.

    None: no log-probabilities at all. 0: only that of the sampled token.
    """
    sampling = request.sampling
    return sampling.top_logprobs if sampling is not None and sampling.logprobs else None


def top_logprobs_computed(request: Request) -> int | None:
    """Return the same for all that the request needs: its trace, metrics and rules."""
    counts = (top_logprobs_returned(request), logprobs_needed(request.metrics, request.rules))
    return max((n for n in counts if n is not None), default=None)


def recorded_with(names: Sequence[str]) -> tuple[str, ...]:
    """Return these metrics and those that are recorded with them."""
    together = _TOGETHER if logprobs_needed(names, ()) == TOP_K else ()
    return tuple(dict.fromkeys((*names, *together)))


def metric_values(
    names: Sequence[str],
    sampled_logprobs: Sequence[float],
    confidences: Sequence[float],
    first_tokens: Sequence[tuple[str, float]] = (),
    entropies: Sequence[float] = (),
) -> dict[str, float]:
    """Return a trace's metrics from its tokens' log-probabilities, confidences and entropies.

    Each has shape (n_tokens,). `first_tokens` are the texts and log-probabilities of the most
    likely first tokens. `prefix_value` computes `prefix_logprob`.
    """
    values: dict[str, float] = {}
    for name in names:
        kind, window = parse_metric(name)
        if kind == _FIRST:
            [word] = first_words([name])
            probability = math.fsum(
                math.exp(logprob) for text, logprob in first_tokens if text.strip() == word
            )
            if probability > 0:
                values[name] = min(0.0, math.log(probability))
            continue
        series = {"mean_logprob": sampled_logprobs, "mean_entropy": entropies, PREFIX: ()}.get(
            kind, confidences
        )
        if series:
            values[name] = _value(kind, window, series)
    return values


def prefix_value(names: Sequence[str], prefix_logprobs: Sequence[float]) -> dict[str, float]:
    """Return `prefix_logprob`, if `names` has it, from the inherited tokens' log-probabilities.

    `prefix_logprobs` has shape (n_inherited,).
    """
    return {PREFIX: math.fsum(prefix_logprobs)} if PREFIX in names and prefix_logprobs else {}


def entropy(ranked_logprobs: Sequence[float]) -> float:
    """Return a token's entropy, in nats, from its 20 largest log-probabilities."""
    probabilities = [math.exp(logprob) for logprob in ranked_logprobs[:TOP_K]]
    rest = max(0.0, 1.0 - math.fsum(probabilities))
    return -math.fsum(p * math.log(p) for p in (*probabilities, rest) if p > 0)


def _value(kind: str, window: int, series: Sequence[float]) -> float:
    if kind in _PLAIN:
        return sum(series) / len(series)
    if kind == "tail_confidence":
        tail = series[-window:]
        return sum(tail) / len(tail)
    groups = sorted(group_means(series, window))
    n_lowest = 1 if kind == "lowest_confidence" else max(1, len(groups) // 10)
    return sum(groups[:n_lowest]) / n_lowest


def group_means(series: Sequence[float], window: int) -> list[float]:
    """Return the mean of each window of values, stride 1.

    With fewer than `window` values, the only element is the mean of all of them.
    """
    if len(series) <= window:
        return [sum(series) / len(series)]
    total = sum(series[:window])
    means = [total / window]
    for old, new in zip(series, series[window:], strict=False):
        total += new - old
        means.append(total / window)
    return means


class RuleFold:
    """Follows one trace and reports when a stop rule fires.

    Pass the text of each step and its confidences, one per token, to `update`.
    """

    def __init__(self, rules: Sequence[StopRule]) -> None:
        """Start with an empty trace.

        ValueError for a rule that could never fire or would fire at once.
        """
        self._tests = [_TESTS[type(rule)](rule) for rule in rules]

    def update(self, text: str, confidences: Sequence[float]) -> bool:
        """Add one step's output and return whether a rule fires; if so, stop the trace."""
        fired = [test.update(text, confidences) for test in self._tests]
        return any(fired)


class _Words:
    def __init__(self, rule: WordLimit) -> None:
        if not rule.words or not all(rule.words) or rule.count < 1:
            raise ValueError(
                f"{rule}: give at least one word, none of them empty, and a count of at least 1"
            )
        self._longest = max(map(len, rule.words))
        self._pattern = re.compile(
            r"\b(?:" + "|".join(map(re.escape, rule.words)) + r")\b", re.IGNORECASE
        )
        self._left = rule.count
        self._tail = ""
        self._used = 0  # characters of the tail that belong to a match already counted

    def update(self, text: str, confidences: Sequence[float]) -> bool:
        # A match at the very end may still grow into a longer word, so it counts only once another
        # character follows. Unmatched text is kept as long as a match may begin in it ("let's"
        # arrives as "let", "'", "s"), with one character before it, for \b.
        whole = self._tail + text
        used = self._used
        for match in self._pattern.finditer(whole, used):
            if match.end() < len(whole) or not _is_word(whole[-1]):
                self._left -= 1
                used = match.end()
        start = max(0, used - 1, len(whole) - self._longest - 1)
        self._tail, self._used = whole[start:], max(used - start, min(start, 1))
        return self._left <= 0


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


class _Floor:
    def __init__(self, rule: ConfidenceFloor) -> None:
        if rule.window_tokens < 1 or rule.top_k < 1:
            raise ValueError(f"{rule}: window_tokens and top_k must be at least 1")
        self._rule = rule
        self._window: deque[float] = deque()
        self._total = 0.0

    def update(self, text: str, confidences: Sequence[float]) -> bool:
        for confidence in confidences:
            self._window.append(confidence)
            self._total += confidence
            if len(self._window) > self._rule.window_tokens:
                self._total -= self._window.popleft()
            if (
                len(self._window) == self._rule.window_tokens
                and self._total / len(self._window) < self._rule.floor
            ):
                return True
        return False


class _Delimited:
    def __init__(self, rule: Delimiter) -> None:
        if not rule.text or rule.count < 1:
            raise ValueError(f"{rule}: give a non-empty text and a count of at least 1")
        self._rule = rule
        self._seen = 0
        self._tail = ""

    def update(self, text: str, confidences: Sequence[float]) -> bool:
        parts = (self._tail + text).split(self._rule.text)
        self._seen += len(parts) - 1
        keep = len(self._rule.text) - 1
        self._tail = parts[-1][-keep:] if keep else ""
        return self._seen >= self._rule.count


_TESTS: dict[type, Callable[[Any], _Words | _Floor | _Delimited]] = {
    WordLimit: _Words,
    ConfidenceFloor: _Floor,
    Delimiter: _Delimited,
}
