"""Sounding: attempts run a few at a time, are looked at while they run, and stop when the vote is
decided at a stated risk.

Each idea was measured on recorded reasoning traces (benchmarks/README.md):

- Shorter is righter: a finished attempt votes with (shortest / its length) ** `slope`, here and
  in the selector `discounted`. That is no
  law; `leadline replay` shows which slope fits, and 0 turns it off.
- The vote is decided when P[the runner-up overtakes the leader], from the Beta posterior of
  Adaptive-Consistency (arXiv 2305.11860) over
  the two weighted counts, times (leader's share) ** `share_power`, is below the risk. The risk
    allowed grows with what was spent, by
  `risk_growth`, so that a hopeless question ends too.
- No more attempts run than could still be needed, and `spare` beside them: as many as would
  decide the vote if all of them agreed with
  the leader. So an easy question runs few at a time, a hard one `width`.
- An attempt longer than the shortest voter is dropped when its probes have contradicted the
  leader `patience` times in a row, or when it
  has reached `longest_tokens`: it is likely wrong, and long. A probe is a short continuation with
    a forced suffix, made beside the
  attempt's own continuation.

What is dropped has no vote, nor has what still runs when the vote is decided. With `risk_growth =
0`, `spare = width` and a budget in `tokens` this is the rule called LDV there; with slope,
share_power and patience 0, no longest_tokens and width 1 besides, it is Adaptive-Consistency.

Votes that count less the longer a trace is, and how sure a leader's lead is. Pure formulas over
finished attempts.

Among recorded reasoning traces of one question a right one is shorter than a wrong one four times
in five; `slope` says how much that is worth (0: nothing, every vote counts alike). What decides to
stop, and by which risk, is a strategy's; see `strategies.pruning.sounding`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from orchestrator.core.steps import Steps, drop, next_trace, submit
from orchestrator.core.values import (
    Capability,
    Cluster,
    Finish,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Trace,
)
from orchestrator.core.votes import tally, voters

# the risk allowed is the risk stated when this many attempts of mean length have been paid for
_FREE_ATTEMPTS = 10.0
# of the budget in tokens: where the attempts still running are stopped, once one has ended
_OVERDRAFT = 1.15
_LEAST = dict.fromkeys(("n", "width", "interval", "at_least", "probe_tokens"), 1) | dict.fromkeys(
    ("spare", "slope", "share_power", "risk_growth", "patience", "longest_tokens", "tokens"), 0
)


@dataclass(frozen=True, slots=True)
class Sounding:
    """Runs up to `n` attempts, `width` at once, in stretches of `interval` tokens.

    `risk` is the one knob: smaller costs more.
    """

    risk: float = 0.15  # of an upset that is allowed once ten attempts are paid for
    n: int = 64  # attempts at most
    width: int = 8  # attempts that run at once, at most
    spare: int = (
        1  # attempts that run beyond those the decision could need; more are faster and cost more
    )
    interval: int = 500  # tokens between two looks
    slope: float = 0.5  # how much shorter attempts weigh more; 0: all alike
    share_power: float = 0.25  # how much sooner a leader of small share is taken
    risk_growth: float = 0.5  # how the risk allowed grows with what was paid; 0: not
    at_least: int = 2  # voters before it may stop
    patience: int = 24  # contrary probes in a row that drop an attempt; 0: no probes
    longest_tokens: int = (
        24_000  # an attempt of this length is dropped if a shorter one has an answer; 0: never
    )
    tokens: int = 0  # budget of a question, opened only as far as it pays; 0: none
    suffix: str = "\n\nThe final answer is"  # of a probe
    probe_tokens: int = 16  # of a probe at most
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CONTINUE})

    def __post_init__(self) -> None:
        if not 0 < self.risk < 1:
            raise ValueError(f"0 < risk < 1 is needed; got {self.risk!r}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} >= {least} is needed; got {getattr(self, name)!r}")

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def selector(self) -> PluginSpec:
        """The vote that its decisions are about."""
        return PluginSpec("discounted", {"slope": self.slope})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Run, look, drop and vote until the vote is decided or the means are spent; what then
        still runs is dropped.
        """
        state = _State(self)
        while True:
            opened = state.n_to_open()
            if opened:
                granted = yield from submit([Request(checkpoint=self._stretch(0))] * opened)
                state.open(granted, opened)
            if not state.running:
                return
            trace = yield from next_trace()
            state.spent += trace.usage.output_tokens
            if trace.purpose is Purpose.PROBE:
                dropped = state.heed(trace)
                if dropped is not None:
                    yield from drop(dropped.stretches)
            else:
                yield from self._go_on(state, trace)
            if state.decided():
                if state.leader:
                    yield from drop(
                        o for attempt in state.running.values() for o in attempt.stretches
                    )
                return

    def _go_on(self, state: _State, trace: Trace) -> Steps:
        """Take a stretch that ended: a vote if its attempt has, else its continuation with a probe
        beside it, unless it is too long.
        """
        attempt = state.running.pop(trace.ordinal, None)
        if attempt is None:  # it was dropped
            return
        attempt.tokens += trace.usage.output_tokens
        if trace.finish is not Finish.RULE:
            state.end(attempt, trace)
        elif 0 < self.longest_tokens <= attempt.tokens and state.is_long(attempt):
            yield from drop(attempt.stretches)
        else:
            requests = [Request(parent=trace.ordinal, checkpoint=self._stretch(attempt.tokens))]
            if self.patience and state.leader:
                probe = Request(
                    parent=trace.ordinal,
                    suffix=self.suffix,
                    max_new_tokens=self.probe_tokens,
                    purpose=Purpose.PROBE,
                )
                requests.append(probe)
            granted = yield from submit(requests)
            state.go_on(attempt, granted)

    def _stretch(self, n_done: int) -> int | None:
        """Return after how many tokens an attempt is looked at again; None when no look could
        change anything.

        There are looks for probes, for the budget in tokens, and from the cap on, where it may be
        dropped.
        """
        if self.patience or self.tokens or n_done >= self.longest_tokens > 0:
            return (
                min(self.interval, self.longest_tokens - n_done)
                if self.longest_tokens > n_done
                else self.interval
            )
        return self.longest_tokens - n_done or None


@dataclass(slots=True)
class _Attempt:
    stretches: list[int]  # their ordinals, the latest last
    tokens: int = 0
    n_contrary: int = 0  # probes in a row that contradicted the leader

    @property
    def ordinal(self) -> int:
        """That of its latest stretch."""
        return self.stretches[-1]


@dataclass(slots=True)
class _State:
    rule: Sounding
    # by the ordinal of the stretch that runs
    running: dict[int, _Attempt] = field(default_factory=dict)
    probes: dict[int, _Attempt] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)  # of the voters, in order of arrival
    lengths: list[int] = field(default_factory=list)  # of the voters
    # lengths of all attempts that ended, voters or not
    ended: list[int] = field(default_factory=list)
    spent: int = 0
    n_opened: int = 0
    leader: str = ""
    # the leader's, the runner-up's, all of it
    weight: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    n_needed: int = 0  # how many more attempts could decide the vote; 0: not reckoned yet
    exhausted: bool = False

    def n_to_open(self) -> int:
        """Return how many attempts to open: as many as the width and, if one is set, the budget in
        tokens hold.
        """
        rule = self.rule
        self.n_needed = self.n_needed or self._needed()
        at_once = min(rule.width, self.n_needed + rule.spare)
        room = (
            0
            if self.exhausted
            else max(0, min(at_once - len(self.running), rule.n - self.n_opened))
        )
        if not rule.tokens:
            return room
        mean = self._mean()
        due = self.spent + sum(max(0.0, mean - attempt.tokens) for attempt in self.running.values())
        return sum(due + mean * (n + 1) <= rule.tokens for n in range(room))

    def open(self, granted: Sequence[int], n_asked: int) -> None:
        self.n_opened += len(granted)
        self.exhausted = len(granted) < n_asked
        for ordinal in granted:
            self.running[ordinal] = _Attempt([ordinal])

    def go_on(self, attempt: _Attempt, granted: Sequence[int]) -> None:
        """Note a continuation and its probe; a budget may have refused either."""
        if granted:
            attempt.stretches.append(granted[0])
            self.running[attempt.ordinal] = attempt
        if len(granted) > 1:
            self.probes[granted[1]] = attempt

    def heed(self, probe: Trace) -> _Attempt | None:
        """Take a probe's answer; return its attempt if that is to be dropped."""
        attempt = self.probes.pop(probe.ordinal)
        if (
            probe.finish in (Finish.FAILED, Finish.CANCELLED)
            or self.running.get(attempt.ordinal) is not attempt
        ):
            return None
        agrees = probe.answer is not None and probe.answer.key == self.leader
        attempt.n_contrary = 0 if agrees else attempt.n_contrary + 1
        if attempt.n_contrary < self.rule.patience or not self.is_long(attempt):
            return None
        return self.running.pop(attempt.ordinal)

    def end(self, attempt: _Attempt, trace: Trace) -> None:
        """Count an attempt that ended, and vote again."""
        if trace.finish is not Finish.FAILED:
            self.ended.append(attempt.tokens)
        if trace.answer is None or trace.finish is Finish.FAILED:
            return
        self.keys.append(trace.answer.key)
        self.lengths.append(attempt.tokens)
        self.leader, *self.weight = shares(self.keys, weights(self.lengths, self.rule.slope))
        self.n_needed = self._needed()

    def is_long(self, attempt: _Attempt) -> bool:
        """Tell whether it is longer than a voter; one that is not may yet be the best of all."""
        return bool(self.lengths) and attempt.tokens > min(self.lengths)

    def decided(self) -> bool:
        overdrawn = self.rule.tokens and self.ended and self.spent > _OVERDRAFT * self.rule.tokens
        return bool(overdrawn) or (len(self.keys) >= self.rule.at_least and self._is_sure(0))

    def _needed(self) -> int:
        """Return how many more attempts, all for the leader and as short as the shortest, would
        decide it; `width` at most.
        """
        lacking = max(1, self.rule.at_least - len(self.keys))
        return next(
            (n for n in range(lacking, self.rule.width) if self._is_sure(n)), self.rule.width
        )

    def _is_sure(self, n_more: int) -> bool:
        """Tell whether the vote is decided at the risk, if so many more attempts agreed with the
        leader.
        """
        rule, (first, second, total) = self.rule, self.weight
        upset = upset_probability(first + n_more, second) * math.pow(
            (first + n_more) / (total + n_more), rule.share_power
        )
        paid = self.spent / max(1.0, self._mean()) + n_more
        return upset < rule.risk * math.pow(paid / _FREE_ATTEMPTS, rule.risk_growth)

    def _mean(self) -> float:
        return sum(self.ended) / len(self.ended) if self.ended else 0.0


@dataclass(frozen=True, slots=True)
class Discounted:
    """Plurality in which an attempt counts (shortest voter / its length) ** `slope`; lengths are
    tokens, continuations added up.
    """

    slope: float = 0.5

    def __post_init__(self) -> None:
        if self.slope < 0:
            raise ValueError(f"slope = {self.slope}: 0 (every vote counts alike) or more is needed")

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by summed weight."""
        by_ordinal = {t.ordinal: t for t in traces}
        pool = voters(traces)
        weight = dict(
            zip(
                [t.ordinal for t in pool],
                weights([chain_tokens(by_ordinal, t.ordinal) for t in pool], self.slope),
                strict=True,
            )
        )
        return tally(pool, lambda trace: weight[trace.ordinal])


_N_TERMS = 400  # of the continued fraction: 30 suffice for counts below a thousand
_TINY = 1e-300


def chain_tokens(traces: Mapping[int, Trace], ordinal: int) -> int:
    """Return the output tokens of an attempt: a trace and all that it continues."""
    total, link = 0, traces.get(ordinal)
    while link is not None:
        total += link.usage.output_tokens
        link = None if link.parent is None else traces.get(link.parent)
    return total


def weights(lengths: Sequence[int], slope: float) -> list[float]:
    """Return one weight in (0, 1] per attempt of these lengths in tokens: (shortest / length) **
    slope.
    """
    shortest = max(1, min(lengths, default=1))
    return [(shortest / max(1, length)) ** slope for length in lengths]


def shares(keys: Iterable[str], weight: Iterable[float]) -> tuple[str, float, float, float]:
    """Return the leading key, its weight, the runner-up's and the total; ("", 0, 0, 0) for no
        votes.

    The key seen first wins a tie.
    """
    totals: dict[str, float] = {}
    for key, one in zip(keys, weight, strict=True):
        totals[key] = totals.get(key, 0.0) + one
    if not totals:
        return "", 0.0, 0.0, 0.0
    leader = max(totals, key=lambda key: totals[key])  # max keeps the first of equals
    second = max((w for key, w in totals.items() if key != leader), default=0.0)
    return leader, totals[leader], second, sum(totals.values())


@lru_cache(maxsize=65_536)  # the same few counts come up in every problem
def upset_probability(first: float, second: float) -> float:
    """Return P[X < 1/2] for X ~ Beta(first + 1, second + 1): how likely the runner-up is ahead in
    the long run.

    The regularised incomplete beta function at 1/2, by its continued fraction (Abramowitz and
    Stegun 26.5.8, evaluated by Lentz's method). For whole counts this is Adaptive-Consistency's
    criterion (arXiv 2305.11860). ValueError for negative weights.
    """
    if first < 0 or second < 0:
        raise ValueError(f"weights of votes are not negative; got {first!r} and {second!r}")
    a, b = first + 1.0, second + 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - (a + b) * math.log(2.0))
    if a < b:  # the fraction converges fast below the mean only
        return 1.0 - front * _fraction(b, a) / b
    return front * _fraction(a, b) / a


def _fraction(a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * 0.5 / (a + 1.0))
    value = d
    for m in range(1, _N_TERMS):
        even = m * (b - m) * 0.5 / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * 0.5 / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
