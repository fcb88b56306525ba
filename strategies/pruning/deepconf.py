"""DeepConf online (arXiv 2508.15260, algorithm 2): the engine ends attempts of low confidence.

The threshold is the (1 - `keep`) percentile of the lowest group confidences of `n_init` whole
attempts. The paper's DeepConf-low keeps 0.1, so its threshold is the 90th percentile; DeepConf-high
keeps 0.9, the 10th. (In the released code, `confidence_percentile` 90 means the 10th percentile,
DeepConf-high.) Later attempts end at the first full window with a mean below the threshold. They do
not vote, nor do warm-up attempts below it. Exploration ends when the leader's share of the votes,
weighted by lowest group confidence, reaches `consensus`.

The vote is the plan's selector: the published one is `weighted` by `lowest_confidence@WINDOW`, and
consensus is measured by it. The paper's algorithm is sequential; the released code starts all later
attempts at once and never tests for consensus. `wave` covers both and the range between them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Steps, depth_needs, drop, next_trace, sample, submit
from orchestrator.core.values import (
    Capability,
    ConfidenceFloor,
    Finish,
    PluginSpec,
    Problem,
    Trace,
    changed,
)
from orchestrator.core.votes import tally
from orchestrator.kit.options import AttemptOptions


@dataclass(frozen=True, slots=True)
class DeepConf(AttemptOptions):
    """Ends attempts of low confidence early; needs log-probabilities.

    The default selector is `weighted` by lowest group confidence.
    """

    n: Annotated[
        int,
        Meta(ge=1, description="Largest number of attempts; the paper has 32 to 512."),
    ] = 32
    n_init: Annotated[
        int,
        Meta(ge=1, description="Number of warm-up attempts, which set the floor; at most `n`."),
    ] = 16
    keep: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="Share of warm-up attempts above the confidence floor (the paper's eta): "
            "0.1 is DeepConf-low, 0.9 is DeepConf-high.",
        ),
    ] = 0.1
    window_tokens: Annotated[
        int,
        Meta(ge=1, description="Tokens of a group, over which confidence is averaged."),
    ] = 2048
    consensus: Annotated[
        float,
        Meta(
            gt=0.5,
            le=1,
            description="Share of the weighted vote at which exploration ends (the paper's tau); 1 "
            "requires that there is no other answer.",
        ),
    ] = 0.95
    wave: Annotated[
        int,
        Meta(
            ge=1,
            description="Number of attempts that run at once after the warm-up; 1 is the paper's "
            "algorithm, `n` the released code.",
        ),
    ] = 8

    def __post_init__(self) -> None:
        if self.n_init > self.n:
            raise ValueError(f"n_init = {self.n_init}, n = {self.n}: n_init must not exceed n")

    @property
    def by(self) -> str:
        """The metric that decides which attempts vote, and their weights."""
        return f"lowest_confidence@{self.window_tokens}"

    @property
    def selector(self) -> PluginSpec:
        """The published selector."""
        return PluginSpec("weighted", {"by": self.by})

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that each attempt must carry."""
        return (self.by,)

    @property
    def needs(self) -> frozenset[Capability]:
        """Log-probabilities, stop rules, and latent depth if one is set."""
        return depth_needs(self.depth) | {Capability.LOGPROBS, Capability.RULES}

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Warm up, set the floor, then sample until consensus or until `n` attempts.

        Attempts still running then are stopped and do not vote.
        """
        request = changed(self.request, metrics=self.metrics)
        warm_up = yield from sample(self.n_init, request)
        warm = {t.ordinal: t.metrics[self.by] for t in warm_up if self._is_whole(t)}
        floor = percentile([*warm.values()], 100 * (1 - self.keep)) if warm else 0.0
        voting = [t for t in warm_up if t.ordinal in warm and warm[t.ordinal] >= floor]
        for ordinal, confidence in warm.items():
            if confidence < floor:
                why = f"its lowest confidence of {confidence:.3g} is below the floor {floor:.3g}"
                yield from drop([ordinal], reason=why)
        rules = (ConfidenceFloor(floor, self.window_tokens),) if floor else ()
        later = changed(request, rules=rules)
        running: set[int] = set()
        n_left = self.n - self.n_init
        while not self._agreed(voting) and (running or n_left):
            n_more = min(n_left, self.wave - len(running))
            running.update((yield from submit([later] * n_more)) if n_more else ())
            n_left -= n_more
            trace = yield from next_trace(running)
            running.discard(trace.ordinal)
            if self._is_whole(trace):
                voting.append(trace)
            else:
                why = f"its confidence fell below the floor {floor:.3g}"
                yield from drop([trace.ordinal], reason=why)
        if running:
            why = f"the leading answer had {self.consensus:.0%} of the weight"
            yield from drop(running, reason=why)

    def _is_whole(self, trace: Trace) -> bool:
        """Return whether an attempt ended above the floor and has its confidence metric."""
        return trace.finish in (Finish.STOP, Finish.LENGTH) and self.by in trace.metrics

    def _agreed(self, voting: Iterable[Trace]) -> bool:
        clusters = tally(voting, lambda trace: trace.metrics[self.by])
        total = sum(c.weight for c in clusters)
        return bool(clusters) and clusters[0].weight >= self.consensus * total


def percentile(values: Sequence[float], share: float) -> float:
    """Return the `share` percentile (0 to 100) of at least one value, like NumPy's default.

    The percentile is linearly interpolated.
    """
    ordered = sorted(values)
    place = share / 100 * (len(ordered) - 1)
    # 100 * (1 - 0.9) is slightly below 10: use the value at index 10, not the one before
    below = min(int(place + 1e-9), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + max(0.0, place - below) * (ordered[above] - ordered[below])
