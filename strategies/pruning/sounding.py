"""Sounding: few attempts run at once, are probed, and stop at a given risk of a wrong vote.

Each idea was measured on recorded reasoning traces (benchmarks/README.md):

- Shorter attempts are right more often: a finished attempt votes with (shortest / its length) **
  `slope`, here and in the selector `discounted`. This does not hold for every model;
  `leadline replay` shows which slope fits, and 0 turns it off.
- The vote is decided when P[the runner-up overtakes the leader], from the Beta posterior of
  Adaptive-Consistency (arXiv 2305.11860) over the two weighted counts, times (leader's share) **
  `share_power`, is below the risk. The allowed risk grows with the tokens spent, by `risk_growth`,
  so that a hopeless question ends as well.
- The number of running attempts is the number that would decide the vote if all agreed with the
  leader, plus `spare`. An easy question thus runs few attempts at a time, a hard one `width`.
- An attempt longer than the shortest voter is dropped when its probes have contradicted the leader
  `patience` times in a row, or when it has reached `longest_tokens`: it is probably wrong, and
  expensive. A probe is a short continuation with a forced suffix, generated while the attempt
  continues. Both limits follow from the length that the plan allows (`fitted`). What is long is a
  matter of the model, not of the question: limits that follow the lengths of the question's own
  attempts lost one to two points.

Dropped attempts do not vote, nor do those that still run when the vote is decided. With `error`,
the vote is decided by a certificate instead (`core.votes.certificate`), in which a dropped
attempt counts against the leader. With `risk_growth = 0`, `spare = width` and a budget in `tokens`
this is the rule that benchmarks call LDV; if also slope, share_power and patience are 0,
longest_tokens is 0 and width is 1, it is Adaptive-Consistency.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Steps, drop, next_trace, submit
from orchestrator.core.values import (
    Finish,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Sampling,
    Trace,
)
from orchestrator.core.votes import certifies
from strategies.pruning.discounted import Slope, length_weights
from strategies.pruning.probing import ProbeOptions, StretchedAttempt
from strategies.pruning.upset import upset_probability

# the allowed risk is `risk` itself when tokens for this many attempts of mean length are spent
_FREE_ATTEMPTS = 10.0
# multiple of the token budget at which running attempts are stopped, once one has ended
_OVERDRAFT = 1.15
# what was allowed where the limits were tuned, and the limits as shares of it
_USUAL = Sampling(max_new_tokens=32_000)
_LONGEST = 0.75
_INTERVAL = 1 / 64
_PROBES = 8  # an interval is so many times a probe at least, so that looks stay cheap


@dataclass(frozen=True, slots=True)
class Sounding(ProbeOptions):
    """Runs few attempts, probes them, and stops at a given risk.

    For reasoning models with long attempts. `risk` is the main option; a smaller risk costs more.
    """

    risk: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="Allowed probability that the vote would change, once ten attempts are "
            "paid for.",
        ),
    ] = 0.15
    n: Annotated[int, Meta(ge=1, description="Largest number of attempts.")] = 64
    width: Annotated[int, Meta(ge=1, description="Largest number of attempts at once.")] = 8
    spare: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of attempts that run in addition to those that the decision needs; "
            "a larger number is faster and costs more.",
        ),
    ] = 1
    error: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Largest probability that the vote is decided for another answer than the "
            "most probable one; replaces `risk`, and 0 turns it off.",
        ),
    ] = 0.0
    interval: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Tokens between two probes. By default a 64th of the length that the plan "
            "allows, and eight times a probe at least."
        ),
    ] = None
    slope: Slope = 0.5
    share_power: Annotated[
        float,
        Meta(
            ge=0,
            description="How much sooner a leader with a small share of the votes is accepted; 0 "
            "turns this off.",
        ),
    ] = 0.25
    risk_growth: Annotated[
        float,
        Meta(ge=0, description="How the allowed risk grows with the tokens spent; 0 keeps it."),
    ] = 0.5
    at_least: Annotated[
        int, Meta(ge=1, description="Number of voters before the vote may be decided.")
    ] = 2
    patience: Annotated[
        int,
        Meta(ge=0, description="Contrary probes in a row that drop an attempt; 0 does not probe."),
    ] = 24
    longest_tokens: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Length in tokens at which an attempt is dropped if a shorter one has an "
            "answer; 0 is no limit. By default three quarters of what the plan allows."
        ),
    ] = None
    tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Token budget of a question, within which attempts start; 0 is no limit.",
        ),
    ] = 0

    @property
    def selector(self) -> PluginSpec:
        """The selector that this strategy's decisions assume."""
        return PluginSpec("discounted", {"slope": self.slope})

    def fitted(self, sampling: Sampling) -> Sounding:
        """Return the rule with its limits for attempts of this length.

        Where an attempt ends before probes could drop it, none are made.
        """
        allowed, longest = sampling.max_new_tokens, self.longest_tokens
        interval = self.interval or max(_PROBES * self.probe_tokens, round(_INTERVAL * allowed))
        is_idle = self.interval is None and self.patience * interval >= allowed
        return replace(
            self,
            interval=interval,
            longest_tokens=round(_LONGEST * allowed) if longest is None else longest,
            patience=0 if is_idle else self.patience,
        )

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Run, probe, drop and vote until the vote is decided or the budget is spent.

        Attempts still running then are dropped.
        """
        rule = self.fitted(_USUAL)  # no effect on a rule that was fitted to its plan
        state = _SoundingState(rule, rule.interval or 0, rule.longest_tokens or 0)
        while True:
            n_opened = state.n_to_open()
            if n_opened:
                granted = yield from submit([Request(checkpoint=state.stretch(0))] * n_opened)
                state.open(granted, n_opened)
            if not state.running:
                return
            trace = yield from next_trace()
            state.spent += trace.usage.output_tokens
            if trace.purpose is Purpose.PROBE:
                deviant = state.deviant(trace)
                if deviant is not None:
                    why = f"its last {deviant.n_contrary} probes did not give the leading answer"
                    yield from drop(deviant.stretches, reason=why)
            else:
                yield from self._after_stretch(state, trace)
            if state.decided():
                if state.leader:
                    running = state.running.values()
                    ordinals = [o for attempt in running for o in attempt.stretches]
                    yield from drop(ordinals, reason=state.decision)
                return

    def _after_stretch(self, state: _SoundingState, trace: Trace) -> Steps:
        """Count the vote of an attempt that ended; continue and probe another, or drop it."""
        attempt = state.running.pop(trace.ordinal, None)
        if attempt is None:  # it was dropped
            return
        attempt.tokens += trace.usage.output_tokens
        if trace.finish is not Finish.RULE:
            state.end(attempt, trace)
        elif 0 < state.longest <= attempt.tokens and state.is_long(attempt):
            state.dismiss(attempt)
            why = f"it reached longest_tokens = {state.longest:,}; a shorter one has an answer"
            yield from drop(attempt.stretches, reason=why)
        else:
            requests = [Request(parent=trace.ordinal, checkpoint=state.stretch(attempt.tokens))]
            if state.rule.patience and state.leader:
                requests.append(self.probe(trace.ordinal))
            state.resume(attempt, (yield from submit(requests)))


@dataclass(slots=True)
class _RunningAttempt(StretchedAttempt):
    tokens: int = 0


@dataclass(slots=True)
class _SoundingState:
    rule: Sounding
    interval: int
    longest: int
    # by the ordinal of the running stretch
    running: dict[int, _RunningAttempt] = field(default_factory=dict)
    probes: dict[int, _RunningAttempt] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)  # of the voters, in order of arrival
    lengths: list[int] = field(default_factory=list)  # of the voters
    # lengths of all attempts that ended, voters or not
    ended: list[int] = field(default_factory=list)
    spent: int = 0
    opened: list[int] = field(default_factory=list)  # the first ordinals of attempts
    # by those of attempts that are over: "" without an answer, None if dropped
    votes: dict[int, str | None] = field(default_factory=dict)
    leader: str = ""
    weight: Sequence[float] = (0.0, 0.0, 0.0)  # the leader's, the runner-up's, and the total
    n_needed: int = 0  # how many more attempts could decide the vote; 0: not computed yet
    exhausted: bool = False  # the budget in traces is used up

    def n_to_open(self) -> int:
        """Return how many attempts to open: as many as width and budget allow."""
        rule = self.rule
        if self.exhausted:
            return 0
        self.n_needed = self.n_needed or self._needed()
        at_once = min(rule.width, self.n_needed + rule.spare)
        room = max(0, min(at_once - len(self.running), rule.n - len(self.opened)))
        if not rule.tokens:
            return room
        mean = self._mean()
        due = self.spent + sum(max(0.0, mean - attempt.tokens) for attempt in self.running.values())
        return sum(due + mean * (n + 1) <= rule.tokens for n in range(room))

    def open(self, granted: Sequence[int], n_requested: int) -> None:
        self.opened += granted
        self.exhausted = len(granted) < n_requested
        for ordinal in granted:
            self.running[ordinal] = _RunningAttempt([ordinal])

    def resume(self, attempt: _RunningAttempt, granted: Sequence[int]) -> None:
        """Record a continuation and its probe; the budget may have refused either."""
        if granted:
            attempt.stretches.append(granted[0])
            self.running[attempt.ordinal] = attempt
        if len(granted) > 1:
            self.probes[granted[1]] = attempt

    def stretch(self, n_done: int) -> int | None:
        """Return the number of tokens until an attempt is inspected again; None if never.

        Attempts are inspected for probes, for the token budget, and at `longest`, where they may be
        dropped.
        """
        n_left = self.longest - n_done
        if self.rule.patience or self.rule.tokens or n_done >= self.longest > 0:
            return min(self.interval, n_left) if n_left > 0 else self.interval
        return n_left or None

    def deviant(self, probe: Trace) -> _RunningAttempt | None:
        """Record a probe's answer; return its attempt if the attempt must be dropped."""
        attempt = self.probes.pop(probe.ordinal)
        if probe.lost or self.running.get(attempt.ordinal) is not attempt:
            return None
        agrees = probe.answer is not None and probe.answer.key == self.leader
        attempt.n_contrary = 0 if agrees else attempt.n_contrary + 1
        if attempt.n_contrary < self.rule.patience or not self.is_long(attempt):
            return None
        self.dismiss(attempt)
        return self.running.pop(attempt.ordinal)

    def dismiss(self, attempt: _RunningAttempt) -> None:
        """Record that an attempt is dropped."""
        self.votes[attempt.stretches[0]] = None

    def end(self, attempt: _RunningAttempt, trace: Trace) -> None:
        """Count an attempt that ended, and vote again."""
        if trace.finish is not Finish.FAILED:
            self.ended.append(attempt.tokens)
        if trace.answer is None or trace.finish is Finish.FAILED:
            self.votes[attempt.stretches[0]] = ""
            return
        self.votes[attempt.stretches[0]] = trace.answer.key
        self.keys.append(trace.answer.key)
        self.lengths.append(attempt.tokens)
        self.leader, *self.weight = vote_weights(
            self.keys, length_weights(self.lengths, self.rule.slope)
        )
        self.n_needed = self._needed()

    def is_long(self, attempt: _RunningAttempt) -> bool:
        """Return whether an attempt is longer than a voter; a shorter one may still be the best."""
        return bool(self.lengths) and attempt.tokens > min(self.lengths)

    @property
    def decision(self) -> str:
        """The reason for which attempts that still run are dropped."""
        sure = len(self.keys) >= self.rule.at_least and self._is_sure(0)
        why = f"an upset was less likely than risk = {self.rule.risk:g} allows"
        if self.rule.error:
            why = f"its leader was certified with error = {self.rule.error:g}"
        return f"the vote was decided: {why}" if sure else "the budget in tokens was overdrawn"

    def decided(self) -> bool:
        overdrawn = self.rule.tokens and self.ended and self.spent > _OVERDRAFT * self.rule.tokens
        return bool(overdrawn) or (len(self.keys) >= self.rule.at_least and self._is_sure(0))

    def _needed(self) -> int:
        """Return how many more attempts would decide the vote, at most `width`.

        Assumes that all of them agree with the leader and have the shortest length.
        """
        lacking = max(1, self.rule.at_least - len(self.keys))
        return next(
            (n for n in range(lacking, self.rule.width) if self._is_sure(n)), self.rule.width
        )

    def _is_sure(self, n_more: int) -> bool:
        """Return whether the vote would be decided if `n_more` attempts agreed with the leader."""
        rule, (first, second, total) = self.rule, self.weight
        if rule.error:
            return self._is_certified(n_more)
        share = (first + n_more) / (total + n_more)
        upset = upset_probability(first + n_more, second) * math.pow(share, rule.share_power)
        paid = self.spent / max(1.0, self._mean()) + n_more
        return upset < rule.risk * math.pow(paid / _FREE_ATTEMPTS, rule.risk_growth)

    def _is_certified(self, n_more: int) -> bool:
        """Return the same for the certificate, which counts attempts in the order of submission."""
        votes: list[str | None] = []
        for ordinal in self.opened:
            if ordinal in self.votes:
                votes.append(self.votes[ordinal])
            elif not n_more:  # it still runs; what was submitted later may be over because of that
                break
        votes = [vote for vote in votes if vote != ""] + [self.leader] * n_more
        return certifies(self.leader, votes, self.rule.error)

    def _mean(self) -> float:
        return sum(self.ended) / len(self.ended) if self.ended else 0.0


def vote_weights(keys: Iterable[str], weights: Iterable[float]) -> tuple[str, float, float, float]:
    """Return the leading key, its weight, the runner-up's and the total; ("", 0, 0, 0) for none.

    The key seen first wins a tie.
    """
    totals: dict[str, float] = {}
    for key, weight in zip(keys, weights, strict=True):
        totals[key] = totals.get(key, 0.0) + weight
    if not totals:
        return "", 0.0, 0.0, 0.0
    leader = max(totals, key=lambda key: totals[key])  # max keeps the first of equals
    second = max((w for key, w in totals.items() if key != leader), default=0.0)
    return leader, totals[leader], second, sum(totals.values())
