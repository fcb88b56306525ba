"""Whether drafts pay, as measured: tokens a second of steps with drafts, and of those without.

The one rule: clocks decide only how fast tokens come, never which, since drafts change none. Pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

_MEMORY = 0.95  # weight of what came before, for each step
_FEWEST = 3  # steps of a kind before its speed counts
_TRIAL = 16  # one step in so many is of the other kind


@dataclass(slots=True)
class _Speed:
    n_tokens: float = 0.0
    seconds: float = 0.0
    n_steps: int = 0

    def count(self, n_tokens: int, seconds: float) -> None:
        self.n_tokens = _MEMORY * self.n_tokens + n_tokens
        self.seconds = _MEMORY * self.seconds + seconds
        self.n_steps += 1


class Payoff:
    """Compares the speed with drafts and without, for each number of requests in a step.

    What a draft costs depends on the machine and on the batch; what it gives on how often it is
    kept. Both are in the tokens a second. Numbers of requests that differ by less than about 40 %
    share a comparison.
    """

    def __init__(self) -> None:
        """Know nothing: drafts pay until steps without them were faster."""
        self._speeds: defaultdict[tuple[int, bool], _Speed] = defaultdict(_Speed)
        self._n_asked: defaultdict[int, int] = defaultdict(int)

    def count(self, n_requests: int, *, drafted: bool, n_tokens: int, seconds: float) -> None:
        """Count a step that gave `n_tokens` tokens after `seconds`, drafts included."""
        self._speeds[_size(n_requests), drafted].count(n_tokens, seconds)

    def pays(self, n_requests: int) -> bool:
        """Tell whether the next step, of so many requests, should draft."""
        size = _size(n_requests)
        self._n_asked[size] += 1
        usual = self._is_faster(size)
        return usual != (self._n_asked[size] % _TRIAL == 0)

    def _is_faster(self, size: int) -> bool:
        drafted, plain = self._speeds[size, True], self._speeds[size, False]
        if min(drafted.n_steps, plain.n_steps) < _FEWEST:
            return True
        return drafted.n_tokens * plain.seconds >= plain.n_tokens * drafted.seconds


def _size(n_requests: int) -> int:
    return int(2 * math.log2(n_requests)) if n_requests else 0
