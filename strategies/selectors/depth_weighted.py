"""Depth ensembles: a vote weighs what its depth is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import tally, voters


@dataclass(frozen=True, slots=True)
class DepthWeighted:
    """Votes weighted by the latent depth of their traces: `weights` in the order of `depths`, as
    `leadline sweep` measures them.

    With the log-odds of a vote as its weight, log(a m / (1 - a)) for accuracy a and m wrong answers
    in effect, the leader is the most probable answer if traces err independently (weighted
    plurality, naive Bayes). Depth 0 stands for traces of no stated depth. Without weights only the
    deepest traces that answered vote, and the shallower ones break their ties.
    """

    depths: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.weights):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.depths)} depths; give one each, or neither"
            )
        if len(set(self.depths)) < len(self.depths) or any(d < 0 for d in self.depths):
            raise ValueError(
                f"depths = {self.depths}: different ones, from 1 (0: of traces of no stated depth)"
            )
        if not all(0.0 <= w < float("inf") for w in self.weights):
            raise ValueError(f"weights = {self.weights}: they must be finite and not negative")

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by summed weight. ValueError naming a trace whose depth has no weight."""
        pool = voters(traces)
        if not self.depths:
            deepest = max((t.depth or 0 for t in pool), default=0)
            return tally(pool, lambda trace: float((trace.depth or 0) == deepest))
        weight_of = dict(zip(self.depths, self.weights, strict=True))
        for trace in pool:
            if (trace.depth or 0) not in weight_of:
                raise ValueError(
                    f"trace {trace.ordinal} has depth {trace.depth or 0}, and weights are given for {sorted(weight_of)}"
                )
        return tally(pool, lambda trace: weight_of[trace.depth or 0])
