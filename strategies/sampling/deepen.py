"""Shallow and few first; deeper or wider where the vote is undecided, whichever looks cheaper; a
deep trace checks a shallow verdict.

At each of `depths` in turn, the votes of that depth alone decide:

1. Take a wave: as many traces as would decide if all stated the leader, at most `wave`. The vote
  is decided when its leader is right with
   probability `confidence`: by the traces' calibrated `accuracies` (below), or, without them,
     when it beats the runner-up so surely under a
   uniform prior on their shares (Adaptive-Consistency, `core.votes.beta_confidence`).
2. Undecided: compare two moves. *Wider* takes the traces that it would need if they came out in
  the present posterior shares (Dirichlet:
   one for each answer seen and for one unseen), at this depth's price. *Deeper* takes a first
     wave at the next depth. The cheaper one is
   made, and deeper if this depth would not be decided with the traces that are left.
3. Decided, but not at the last depth: `confirm` traces of the last depth must state the same. If
  they do it ends there; if not, the last
   depth decides, and they are part of its first wave. This is the same model at another depth as
     verifier: without it, shallow traces that
   agree on one and the same mistake decide.

Calibrated: a trace states the right answer with probability a, its depth's accuracy, and each of m
= `alternatives` wrong ones with (1 - a) / m. Then an answer with c votes has odds proportional to
(a m / (1 - a))^c, and each unseen one to 1. `leadline sweep` measures both. The price of a trace is
the median layer-tokens of those seen at its depth; of a depth not yet tried, that of this one times
the ratio of the depths, which no schedule exceeds. The vote is the selector `depth-weighted`, so
that shallow traces do not outvote deeper ones.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from statistics import median

from orchestrator.core.steps import Command, Reply, Steps, cancel, next_trace, submit
from orchestrator.core.values import Capability, PluginSpec, Problem, Request, Trace
from orchestrator.core.votes import beta_confidence

_Seen = dict[int, list[Trace]]  # by depth, in order of arrival


@dataclass(frozen=True, slots=True)
class Deepen:
    """Samples up to `n` traces in all, in waves, from the first of `depths` to the last."""

    depths: tuple[int, ...] = (1, 8)
    n: int = 16
    wave: int = 4
    confidence: float = 0.95
    confirm: int = 1
    accuracies: tuple[float, ...] = ()
    alternatives: float = 1.0
    model: str = ""

    def __post_init__(self) -> None:
        if (
            not self.depths
            or self.depths[0] < 1
            or any(a >= b for a, b in zip(self.depths, self.depths[1:], strict=False))
        ):
            raise ValueError(f"depths = {self.depths}: at least one, from 1, ascending")
        for name, least in (("n", 1), ("wave", 1), ("confirm", 0), ("alternatives", 1)):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: at least {least} is needed")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence = {self.confidence}: 0.5 < confidence < 1 is needed")
        if len(self.accuracies) not in (0, len(self.depths)) or not all(
            0 < a < 1 for a in self.accuracies
        ):
            raise ValueError(
                f"accuracies = {self.accuracies}: between 0 and 1, one for each of {len(self.depths)} depths, or none"
            )

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes: `n`, which a fixed setting would all take at one
        depth.
        """
        return self.n

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset({Capability.DEPTH})

    @property
    def selector(self) -> PluginSpec:
        """The vote in which shallow traces do not outvote deeper ones: by the log-odds of its
        accuracies, where it has them.
        """
        weights = [max(0.0, math.log(a * self.alternatives / (1 - a))) for a in self.accuracies]
        return PluginSpec(
            "depth-weighted", {"depths": list(self.depths), "weights": weights} if weights else {}
        )

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Move by the rule until the vote is decided at the last depth, or confirmed by it, or `n`
        traces are in.
        """
        seen: _Seen = {depth: [] for depth in self.depths}
        level, last = 0, len(self.depths) - 1
        while n_left := self._n_left(seen):
            yield from self._take(level, min(self._wave(level, seen), n_left), seen)
            if self._sure(level, _votes(seen[self.depths[level]])):
                if level == last or (yield from self._confirmed(level, seen)):
                    return
                level = last
            elif level < last and self._deeper_is_cheaper(level, seen):
                level += 1

    def _n_left(self, seen: _Seen) -> int:
        return self.n - sum(map(len, seen.values()))

    def _wave(self, level: int, seen: _Seen) -> int:
        """Return the least number of traces that could decide, at most a wave."""
        votes = _votes(seen[self.depths[level]])
        # with no votes any answer may come to lead
        leader = max(votes, key=lambda key: votes[key], default="")
        sizes = range(1, self.wave)
        return next(
            (k for k in sizes if self._sure(level, votes + Counter({leader: k}))), self.wave
        )

    def _take(self, level: int, n: int, seen: _Seen) -> Generator[Command, Reply, None]:
        """Take `n` traces at a depth; once the vote there is decided, those that still run are
        cancelled.
        """
        depth = self.depths[level]
        ordinals = yield from submit([Request(model=self.model, depth=depth)] * n)
        # an empty grant means that the budget ended: waiting then ends the exploration
        for i, _ in enumerate(ordinals or (0,), 1):
            seen[depth].append((yield from next_trace(ordinals)))
            if i < len(ordinals) and self._sure(level, _votes(seen[depth])):
                yield from cancel(ordinals)

    def _confirmed(self, level: int, seen: _Seen) -> Generator[Command, Reply, bool]:
        """Take `confirm` traces at the last depth and tell whether all state what the shallow ones
        lead with.
        """
        n = min(self.confirm, self._n_left(seen))
        if not n:
            return True
        yield from self._take(len(self.depths) - 1, n, seen)
        [(leader, _)] = _votes(seen[self.depths[level]]).most_common(1)
        return all(
            trace.answer is not None and trace.answer.key == leader
            for trace in seen[self.depths[-1]]
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

    def _deeper_is_cheaper(self, level: int, seen: _Seen) -> bool:
        depth, deeper = self.depths[level], self.depths[level + 1]
        here = median(trace.usage.layer_tokens for trace in seen[depth]) or 1.0
        tried = [trace.usage.layer_tokens for trace in seen[deeper]]
        there = (median(tried) if tried else 0.0) or here * deeper / depth
        return (
            self._n_wanted(level, _votes(seen[depth]), self._n_left(seen)) * here
            > self._wave(level + 1, seen) * there
        )

    def _n_wanted(self, level: int, votes: Counter[str], n_left: int) -> float:
        """Return how many traces more, in the present posterior shares, decide; infinite if more
        than are left.
        """
        total = sum(votes.values()) + len(votes) + 1
        shares = [(key, (count + 1) / total) for key, count in votes.most_common(2)]
        for n in range(1, n_left + 1):
            if self._sure(level, votes + Counter({key: round(share * n) for key, share in shares})):
                return n
        return math.inf


def _votes(traces: list[Trace]) -> Counter[str]:
    return Counter(trace.answer.key for trace in traces if trace.answer is not None)
