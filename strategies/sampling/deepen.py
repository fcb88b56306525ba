"""Starts shallow and narrow; goes deeper or wider, whichever is cheaper, while undecided.

At each of `depths` in turn, the votes of that depth alone decide:

1. Sample a wave: as many attempts as would decide if all gave the leader, at most `wave`. The
   vote is decided when its leader is right with probability `confidence`: by the depth's calibrated
   `accuracies` (below) or, without them, when it beats the runner-up with that probability under a
   uniform prior on their shares (Adaptive-Consistency, `core.votes.beta_confidence`).
2. Undecided: compare two moves. *Wider* samples as many attempts as would be needed under the
   current posterior shares (Dirichlet: one for each answer seen and for one unseen), at this
   depth's price. *Deeper* samples a first wave at the next depth. The cheaper move is made, or the
   deeper one if the remaining attempts would not decide this depth.
3. Decided, but not at the last depth: `confirm` attempts of the last depth must state the same
   answer. If they do, exploration ends; if not, the last depth decides, and they are part of its
   first wave. The deepest setting thus verifies the shallow ones: otherwise, shallow attempts that
   agree on a mistake would decide.

Calibrated: an attempt states the right answer with probability a, its depth's accuracy, and each of
m = `alternatives` wrong ones with (1 - a) / m. Then an answer with c votes has odds proportional to
(a m / (1 - a))^c, and each unseen one to 1. `leadline sweep` measures both. The price of an attempt
is the median of the layer-tokens seen at its depth; at a depth not yet tried, that of this one
times the ratio of the depths, which no schedule exceeds. The vote is the selector `depth-weighted`,
so that shallow attempts do not outvote deeper ones.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from statistics import median
from typing import Annotated, ClassVar, TypeAlias

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps, cancel, next_trace, submit
from orchestrator.core.values import Capability, PluginSpec, Problem, Request, Trace
from orchestrator.core.votes import beta_confidence
from orchestrator.kit.options import LARGEST, PlannedAttempts

_ByDepth: TypeAlias = dict[int, list[Trace]]  # in order of arrival


@dataclass(frozen=True, slots=True)
class Deepen(PlannedAttempts):
    """Goes from low to high latent depth, deeper or wider where votes differ.

    For looped models: shallow attempts are cheap, and the deepest ones confirm their answers.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.DEPTH})

    depths: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...],
        Meta(min_length=1, description="Latent depths to go through, ascending."),
    ] = (1, 8)
    n: Annotated[int, Meta(ge=1, description="Largest number of attempts at all depths.")] = 16
    wave: Annotated[int, Meta(ge=1, description="Largest number of attempts in one wave.")] = 4
    confidence: Annotated[
        float,
        Meta(gt=0.5, lt=1, description="Required probability that the leader is right."),
    ] = 0.95
    confirm: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of attempts at the last depth that must confirm a decision made at "
            "a lower one; 0 accepts it unconfirmed.",
        ),
    ] = 1
    accuracies: Annotated[
        tuple[Annotated[float, Meta(gt=0, lt=1)], ...],
        Meta(
            description="Accuracy of a single attempt at each of `depths`, as `leadline sweep` "
            "measures it; empty decides by the counts of votes alone."
        ),
    ] = ()
    alternatives: Annotated[
        float,
        Meta(
            ge=1,
            le=LARGEST,
            description="Effective number of wrong answers among which wrong attempts spread; used "
            "only with `accuracies`.",
        ),
    ] = 1.0
    model: Annotated[
        str,
        Meta(description="Model pool of the plan to sample from; empty for the plan's first."),
    ] = ""

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.depths, self.depths[1:], strict=False)):
            raise ValueError(f"depths = {self.depths}: give them in ascending order")
        if len(self.accuracies) not in (0, len(self.depths)):
            raise ValueError(
                f"accuracies = {self.accuracies}: give one for each of {len(self.depths)} depths, "
                "or none"
            )

    @property
    def selector(self) -> PluginSpec:
        """The vote in which shallow attempts do not outvote deeper ones.

        It weighs by the log-odds of the accuracies, where there are any.
        """
        weights = [max(0.0, math.log(a * self.alternatives / (1 - a))) for a in self.accuracies]
        return PluginSpec(
            "depth-weighted", {"depths": list(self.depths), "weights": weights} if weights else {}
        )

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Sample until the last depth decides or confirms the vote, or `n` attempts arrived."""
        by_depth: _ByDepth = {depth: [] for depth in self.depths}
        level, last = 0, len(self.depths) - 1
        while n_left := self._n_left(by_depth):
            yield from self._take(level, min(self._wave(level, by_depth), n_left), by_depth)
            if self._sure(level, _votes(by_depth[self.depths[level]])):
                if level == last or (yield from self._confirmed(level, by_depth)):
                    return
                level = last
            elif level < last and self._deeper_is_cheaper(level, by_depth):
                level += 1

    def _n_left(self, by_depth: _ByDepth) -> int:
        return self.n - sum(map(len, by_depth.values()))

    def _wave(self, level: int, by_depth: _ByDepth) -> int:
        """Return the least number of attempts that could decide, at most a wave."""
        votes = _votes(by_depth[self.depths[level]])
        # with no votes any answer may come to lead
        leader = max(votes, key=lambda key: votes[key], default="")
        sizes = range(1, self.wave)
        return next(
            (k for k in sizes if self._sure(level, votes + Counter({leader: k}))), self.wave
        )

    def _take(self, level: int, n: int, by_depth: _ByDepth) -> Generator[Command, Reply, None]:
        """Take `n` attempts at a depth; once its vote is decided, cancel those that still run."""
        depth = self.depths[level]
        ordinals = yield from submit([Request(model=self.model, depth=depth)] * n)
        # an empty grant means that the budget ended: waiting then ends the exploration
        for i, _ in enumerate(ordinals or (0,), 1):
            by_depth[depth].append((yield from next_trace(ordinals)))
            if i < len(ordinals) and self._sure(level, _votes(by_depth[depth])):
                yield from cancel(ordinals, f"the vote at depth {depth} was decided")

    def _confirmed(self, level: int, by_depth: _ByDepth) -> Generator[Command, Reply, bool]:
        """Take `confirm` attempts at the last depth and tell whether all state the leader."""
        n = min(self.confirm, self._n_left(by_depth))
        if not n:
            return True
        yield from self._take(len(self.depths) - 1, n, by_depth)
        [(leader, _)] = _votes(by_depth[self.depths[level]]).most_common(1)
        return all(
            trace.answer is not None and trace.answer.key == leader
            for trace in by_depth[self.depths[-1]]
        )

    def _sure(self, level: int, votes: Counter[str]) -> bool:
        first, second, *_ = *sorted(votes.values(), reverse=True), 0, 0
        if not self.accuracies:
            return beta_confidence(first, second) >= self.confidence
        odds = self.accuracies[level] * self.alternatives / (1.0 - self.accuracies[level])
        if odds <= 1.0:  # worse than chance: such votes decide nothing
            return False
        n_unseen = max(0.0, self.alternatives + 1.0 - len(votes))
        # in units of the leader's
        total = sum(odds ** (count - first) for count in votes.values()) + n_unseen * odds**-first
        return self.confidence * total <= 1.0

    def _deeper_is_cheaper(self, level: int, by_depth: _ByDepth) -> bool:
        depth, deeper = self.depths[level], self.depths[level + 1]
        here = median(trace.usage.layer_tokens for trace in by_depth[depth]) or 1.0
        tried = [trace.usage.layer_tokens for trace in by_depth[deeper]]
        there = (median(tried) if tried else 0.0) or here * deeper / depth
        return (
            self._n_wanted(level, _votes(by_depth[depth]), self._n_left(by_depth)) * here
            > self._wave(level + 1, by_depth) * there
        )

    def _n_wanted(self, level: int, votes: Counter[str], n_left: int) -> float:
        """Return how many more attempts, in the present posterior shares, would decide.

        Infinite if more than are left.
        """
        total = sum(votes.values()) + len(votes) + 1
        shares = [(key, (count + 1) / total) for key, count in votes.most_common(2)]
        for n in range(1, n_left + 1):
            if self._sure(level, votes + Counter({key: round(share * n) for key, share in shares})):
                return n
        return math.inf


def _votes(traces: list[Trace]) -> Counter[str]:
    return Counter(trace.answer.key for trace in traces if trace.answer is not None)
