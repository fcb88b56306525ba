"""Adaptive sample counts: samples waves of attempts until a rule finds the vote decided.

Attempts that still run then are cancelled. The rules are options of one strategy, because they
differ only in the test for a decided vote:

- `beta`: Adaptive-Consistency (Aggarwal et al., arXiv 2305.11860;
  github.com/Pranjal2041/AdaptiveConsistency). Stop when the leader beats the runner-up with
  probability `confidence` under a uniform Beta prior on their two shares.
- `window`: ESC (Li et al., arXiv 2401.10480; github.com/Yiwei98/ESC). Stop after the first window
  of `window` attempts that all agree.
- `bayes`: Best-of-infinity (Komiyama et al., arXiv 2509.21091;
  github.com/jkomiyama/BoInf-code-publish). Stop when the Bayes factor for "the present mode is the
  true mode" reaches `bayes_factor`. We follow the released code's distribution,
  Dir(N_1 + 1, ..., N_s + 1, 1.3), not the paper's Dir(N_1, ..., N_s, 0.3), and integrate it
  numerically where the code draws a thousand samples.
- `certificate`: stop when the leader is certified to be the most probable answer
  (`core.votes.certificate`, after CITE, arXiv 2605.05873, and arXiv 2510.17472). Of all
  rules this one alone keeps a promise: it stops with another leader with probability `error` at
  most, however often one looks. Votes are counted in the order of submission, as far as all
  attempts before them have arrived, because short attempts arrive first; and the certified answer
  must lead the vote over all that arrived.

As published, the first three are sequential: `wave = 1, growth = 1` (for `window`: `wave = window,
growth = 1`) reproduces that. The default uses growing waves, which costs some attempts and saves
most of the waiting time.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from orchestrator.core.steps import Steps, cancel, next_trace, submit
from orchestrator.core.values import Problem
from orchestrator.core.votes import beta_confidence, certified
from orchestrator.kit.options import AttemptOptions

# the released code's "unknown" category: concentration 0.3, plus the 1 it adds to every category
_UNKNOWN = 1.3
# Gauss-Legendre nodes per panel: unanimous Bayes factors agree with the closed form to 1e-9
# (tested)
_PANEL = 64

Keys: TypeAlias = Mapping[int, str | None]  # answer keys by ordinal; None: no answer


@dataclass(frozen=True, slots=True)
class Adaptive(AttemptOptions):
    """Samples in waves until the vote is decided; easy questions cost less."""

    n: Annotated[int, Meta(ge=1, description="Largest number of attempts.")] = 40
    rule: Annotated[
        Literal["beta", "window", "bayes", "certificate"],
        Meta(
            description='The test for a decided vote: "beta" compares the leader with the '
            'runner-up, "window" waits for consecutive attempts that agree, "bayes" tests whether '
            'the leader is the most probable answer, "certificate" guarantees it with a '
            "probability of error."
        ),
    ] = "beta"
    confidence: Annotated[
        float,
        Meta(
            gt=0.5,
            lt=1,
            description='For rule "beta": required probability that the leader leads.',
        ),
    ] = 0.95
    window: Annotated[
        int,
        Meta(ge=2, description='For rule "window": number of consecutive attempts to agree.'),
    ] = 5
    bayes_factor: Annotated[
        float, Meta(gt=0, description='For rule "bayes": the required Bayes factor.')
    ] = 10.0
    error: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description='For rule "certificate": largest probability that it stops while another '
            "answer is the most probable one.",
        ),
    ] = 0.05
    wave: Annotated[int, Meta(ge=1, description="Number of attempts in the first wave.")] = 4
    growth: Annotated[
        float,
        Meta(ge=1, description="Size of each wave relative to the previous one; 1 keeps it equal."),
    ] = 1.5

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Sample waves until the rule holds or `n` attempts have arrived."""
        decided = self._rule()
        keys: dict[int, str | None] = {}
        size = float(self.wave)
        while len(keys) < self.n:
            n_wave = min(math.floor(min(size, self.n)), self.n - len(keys))
            wave = yield from submit([self.request] * n_wave)
            # an empty grant means that the budget ended: waiting then ends the exploration
            for _ in wave or (0,):
                trace = yield from next_trace()
                keys[trace.ordinal] = trace.answer.key if trace.answer else None
                if decided(keys):
                    yield from cancel(wave, f"the rule {self.rule} had decided the vote")
                    return
            size *= self.growth

    def _rule(self) -> Callable[[Keys], bool]:
        if self.rule == "beta":
            return lambda keys: beta_confidence(*_top_two(keys)) >= self.confidence
        if self.rule == "window":
            return lambda keys: agreeing_window(keys, self.window)
        if self.rule == "bayes":
            return lambda keys: bayes_factor(_counts(keys)) >= self.bayes_factor
        return lambda keys: has_certificate(keys, self.error)


def _counts(keys: Keys) -> list[int]:
    """Return how often each answer was stated, largest first."""
    return sorted(Counter(key for key in keys.values() if key is not None).values(), reverse=True)


def _top_two(keys: Keys) -> tuple[int, int]:
    first, second, *_ = *_counts(keys), 0, 0
    return first, second


def agreeing_window(keys: Keys, window: int) -> bool:
    """Tell whether all attempts in a full window of consecutive ordinals state one answer.

    Windows do not overlap: ordinals 0 to w - 1, w to 2w - 1, and so on.
    """
    starts = range(0, max(keys, default=-1) + 1, window)
    answers = [{keys.get(o) for o in range(start, start + window)} for start in starts]
    return any(len(stated) == 1 and None not in stated for stated in answers)


def has_certificate(keys: Keys, error: float) -> bool:
    """Tell whether the leader of all votes is certified by the attempts that came first."""
    votes = []
    for ordinal in range(len(keys)):
        if ordinal not in keys:
            break
        votes.append(keys[ordinal])
    answer = certified([key for key in votes if key is not None], error)
    counts = Counter(key for key in keys.values() if key is not None)
    others = (n for key, n in counts.items() if key != answer)
    return answer is not None and counts[answer] > max(others, default=0)


def bayes_factor(counts: Sequence[int]) -> float:
    """Return the Bayes factor for "the leading answer is the most probable one"; 0 without counts.

    It is (s + 1) P / (1 - P), P the posterior probability of that statement. `counts`, of shape
    (s,), are how often each distinct answer was stated, largest first.
    """
    if not counts:
        return 0.0
    wrong = _probability_not_mode((*(c + 1.0 for c in counts), _UNKNOWN))
    return (len(counts) + 1) * (1.0 - wrong) / wrong if wrong else math.inf


@lru_cache(maxsize=65536)  # a millisecond each, and the same few counts recur in every problem
def _probability_not_mode(concentrations: tuple[float, ...]) -> float:
    """Return P[some other share exceeds the first] for Dirichlet shares.

    By quadrature over the first one's gamma variate.
    """
    import numpy as np
    from scipy import special, stats

    first, rest = concentrations[0], np.asarray(concentrations[1:])
    gamma = stats.gamma(first)
    edges = np.linspace(0.0, gamma.isf(1e-18), 9)  # what lies beyond adds less than 1e-18
    nodes, weights = np.polynomial.legendre.leggauss(_PANEL)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    x = (edges[:-1, None] + half * (nodes + 1)).ravel()
    # 1 - prod(cdf), without cancellation where every cdf is close to 1
    below = special.gammainc(rest[:, None], x[None, :])
    above = special.gammaincc(rest[:, None], x[None, :])
    log_below = np.where(
        above < 0.5, np.log1p(-np.minimum(above, 0.5)), np.log(np.maximum(below, 1e-300))
    )
    return float((gamma.pdf(x) * -np.expm1(log_below.sum(axis=0)) * (half * weights).ravel()).sum())
