"""DeepConf online: traces whose confidence falls below what warm-up traces had are stopped in the
engine (arXiv 2508.15260, algorithm 2).

`n_init` whole traces give the threshold: the (1 - `keep`) percentile of their lowest group
confidences. The paper's DeepConf-low keeps
0.1, so its threshold is the 90th percentile; DeepConf-high keeps 0.9, the 10th. (The released
  code's `confidence_percentile` 90 is the
10th, DeepConf-high, under the name of the other.) Later traces end at the first full window whose
mean is below it; those do not vote, nor do warm-up traces below it. It ends when the leader's share
of the votes, weighted by lowest group confidence, reaches `consensus`.

The vote is the plan's selector: `weighted` by `lowest_confidence@WINDOW` is the published one, and
the one that consensus is measured by. The algorithm is sequential, the released code starts all
later traces at once and never tests for consensus: `wave` is in between.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.core.steps import Steps, drop, next_trace, sample, submit
from orchestrator.core.values import (
    Capability,
    ConfidenceFloor,
    Finish,
    PluginSpec,
    Problem,
    Request,
    Trace,
)
from orchestrator.core.votes import tally

_WHOLE = (Finish.STOP, Finish.LENGTH)


@dataclass(frozen=True, slots=True)
class DeepConf:
    """Samples `n_init` traces in full, then up to `n` in all under a floor of confidence. Its vote
    is the selector `weighted` by `by`.

    `keep` is the paper's eta: 0.1 is DeepConf-low (the floor is the 90th percentile), 0.9 is
    DeepConf-high (the 10th).
    """

    n: int = 32  # the paper's budget B, 32 to 512
    n_init: int = 16
    keep: float = 0.1  # eta: share of warm-up traces above the floor
    window_tokens: int = 2048
    consensus: float = 0.95  # tau: share of the vote that ends it; 1: only without any other answer
    # traces that run at once after the warm-up; 1 is the paper's algorithm, n the released code's
    wave: int = 8
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "1 <= n_init <= n": 1 <= self.n_init <= self.n,
            "0 < keep < 1": 0 < self.keep < 1,
            "window_tokens >= 1": self.window_tokens >= 1,
            "0.5 < consensus <= 1": 0.5 < self.consensus <= 1,
            "wave >= 1": self.wave >= 1,
        }
        for need, held in checks.items():
            if not held:
                raise ValueError(
                    f"{need} is needed; got {getattr(self, next(w for w in need.split() if w.isidentifier()))!r}"
                )

    @property
    def by(self) -> str:
        """The metric that decides who votes, and with what weight."""
        return f"lowest_confidence@{self.window_tokens}"

    @property
    def selector(self) -> PluginSpec:
        """The vote it is published with."""
        return PluginSpec("weighted", {"by": self.by})

    @property
    def metrics(self) -> tuple[str, ...]:
        """What each trace must carry."""
        return (self.by,)

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        own = {Capability.LOGPROBS, Capability.RULES}
        return frozenset(own if self.depth is None else {*own, Capability.DEPTH})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Warm up, set the floor, then go on until consensus or `n` traces; what then still runs is
        stopped and does not vote.
        """
        request = Request(model=self.model, depth=self.depth, metrics=(self.by,))
        warm = [
            t
            for t in (yield from sample(self.n_init, request))
            if t.finish in _WHOLE and self.by in t.metrics
        ]
        floor = (
            percentile([t.metrics[self.by] for t in warm], 100 * (1 - self.keep)) if warm else 0.0
        )
        voting = [t for t in warm if t.metrics[self.by] >= floor]
        yield from drop(t.ordinal for t in warm if t.metrics[self.by] < floor)
        later = Request(
            model=self.model,
            depth=self.depth,
            metrics=(self.by,),
            rules=(ConfidenceFloor(floor, self.window_tokens),) if floor else (),
        )
        running: set[int] = set()
        n_left = self.n - self.n_init
        while not self._agreed(voting) and (running or n_left):
            more = min(n_left, self.wave - len(running))
            running.update((yield from submit([later] * more)) if more else ())
            n_left -= more
            trace = yield from next_trace(running)
            running.discard(trace.ordinal)
            if trace.finish in _WHOLE and self.by in trace.metrics:
                voting.append(trace)
            else:
                yield from drop([trace.ordinal])
        if running:
            yield from drop(running)

    def _agreed(self, voting: Iterable[Trace]) -> bool:
        clusters = tally(voting, lambda trace: trace.metrics[self.by])
        total = sum(c.weight for c in clusters)
        return bool(clusters) and clusters[0].weight >= self.consensus * total


def percentile(values: Sequence[float], share: float) -> float:
    """Return the `share` percentile (0 to 100) of at least one value, with linear interpolation, as
    NumPy's default has it.
    """
    ordered = sorted(values)
    place = share / 100 * (len(ordered) - 1)
    # 100 * (1 - 0.9) is a hair below 10: take the value at it, not one before
    below = min(int(place + 1e-9), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + max(0.0, place - below) * (ordered[above] - ordered[below])
