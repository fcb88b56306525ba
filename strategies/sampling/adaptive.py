"""Adaptive sample counts: waves of traces, stopped as soon as a rule calls the vote decided; what
then still runs is cancelled.

Rules (an option of one strategy, because only the question "is it decided?" differs):

- `beta`: Adaptive-Consistency (Aggarwal et al., arXiv 2305.11860;
  github.com/Pranjal2041/AdaptiveConsistency). Stop when the leader beats
  the runner-up with probability `confidence` under a uniform Beta prior on their two shares.
- `window`: ESC (Li et al., arXiv 2401.10480; github.com/Yiwei98/ESC). Stop after the first window
  of `window` traces that all agree.
- `bayes`: Best-of-infinity (Komiyama et al., arXiv 2509.21091;
  github.com/jkomiyama/BoInf-code-publish). Stop when the Bayes factor for
  "the present mode is the true mode" reaches `bayes_factor`. We follow the released code's law,
    Dir(N_1 + 1, ..., N_s + 1, 1.3), not the
  paper's Dir(N_1, ..., N_s, 0.3), and integrate it numerically where the code draws a thousand
    samples.

As published all three are sequential: `wave = 1, growth = 1` (for `window`: `wave = window, growth
= 1`) samples exactly so. The default grows its waves, which costs some traces and saves most of the
waiting.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from orchestrator.core.steps import Steps, depth_needs, next_trace, submit
from orchestrator.core.values import Capability, Problem, Request, Trace
from orchestrator.core.votes import beta_confidence

# the released code's "unknown" category: concentration 0.3, plus the 1 it adds to every category
_UNKNOWN = 1.3
# Gauss-Legendre nodes per panel: unanimous Bayes factors agree with the closed form to 1e-9
# (tested)
_PANEL = 64


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Samples up to `n` traces in waves: `wave` at first, each next one `growth` times as large."""

    n: int = 40
    rule: Literal["beta", "window", "bayes"] = "beta"
    confidence: float = 0.95
    window: int = 5
    bayes_factor: float = 10.0
    wave: int = 4
    growth: float = 1.5
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "n >= 1": self.n >= 1,
            "0.5 < confidence < 1": 0.5 < self.confidence < 1,
            "window >= 2": self.window >= 2,
            "bayes_factor > 0": self.bayes_factor > 0,
            "wave >= 1": self.wave >= 1,
            "growth >= 1": self.growth >= 1,
        }
        for need, held in checks.items():
            if not held:
                raise ValueError(
                    f"{need} is needed; got {getattr(self, next(w for w in need.split() if w.isidentifier()))!r}"
                )

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Sample waves until the rule holds or `n` traces are in; returning cancels what still
        runs.
        """
        decided = self._rule()
        answers: dict[int, str | None] = {}
        size = float(self.wave)
        while len(answers) < self.n:
            asked = min(math.floor(min(size, self.n)), self.n - len(answers))
            wave = yield from submit([Request(model=self.model, depth=self.depth)] * asked)
            # an empty grant means that the budget ended: waiting then ends the exploration
            for _ in wave or (0,):
                trace: Trace = yield from next_trace()
                answers[trace.ordinal] = trace.answer.key if trace.answer else None
                if decided(answers):
                    return
            size *= self.growth

    def _rule(self) -> Callable[[dict[int, str | None]], bool]:
        if self.rule == "beta":
            return lambda answers: beta_confidence(*_top_two(answers)) >= self.confidence
        if self.rule == "window":
            return lambda answers: agreeing_window(answers, self.window)
        return lambda answers: bayes_factor(_counts(answers)) >= self.bayes_factor


def _counts(answers: dict[int, str | None]) -> list[int]:
    return sorted(
        Counter(key for key in answers.values() if key is not None).values(), reverse=True
    )


def _top_two(answers: dict[int, str | None]) -> tuple[int, int]:
    first, second, *_ = *_counts(answers), 0, 0
    return first, second


def agreeing_window(answers: dict[int, str | None], window: int) -> bool:
    """Tell whether some full window of consecutive ordinals (0 to w-1, w to 2w-1, ...) states one
    and the same answer throughout.
    """
    for start in range(0, max(answers, default=-1) + 1, window):
        keys = {answers.get(ordinal) for ordinal in range(start, start + window)}
        if len(keys) == 1 and None not in keys:
            return True
    return False


def bayes_factor(counts: Sequence[int]) -> float:
    """Return (s + 1) P / (1 - P), P the posterior probability that the answer most often seen is
    the likeliest one; 0 with no counts.

    `counts`, of shape (s,), are the times each distinct answer was seen, largest first.
    """
    if not counts:
        return 0.0
    wrong = _probability_not_mode((*(c + 1.0 for c in counts), _UNKNOWN))
    return (len(counts) + 1) * (1.0 - wrong) / wrong if wrong else math.inf


@lru_cache(maxsize=65536)  # a millisecond each, and the same few counts come up in every problem
def _probability_not_mode(concentrations: tuple[float, ...]) -> float:
    """Return P[some other share exceeds the first] for Dirichlet shares, by quadrature over the
    first one's gamma variate.
    """
    import numpy as np
    from scipy import special, stats

    first, rest = concentrations[0], np.asarray(concentrations[1:])
    law = stats.gamma(first)
    edges = np.linspace(0.0, law.isf(1e-18), 9)  # what lies beyond adds less than 1e-18
    nodes, weights = np.polynomial.legendre.leggauss(_PANEL)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    x = (edges[:-1, None] + half * (nodes + 1)).ravel()
    # 1 - prod(cdf), without cancellation where every cdf is close to 1
    below = special.gammainc(rest[:, None], x[None, :])
    above = special.gammaincc(rest[:, None], x[None, :])
    log_below = np.where(
        above < 0.5, np.log1p(-np.minimum(above, 0.5)), np.log(np.maximum(below, 1e-300))
    )
    return float((law.pdf(x) * -np.expm1(log_below.sum(axis=0)) * (half * weights).ravel()).sum())
