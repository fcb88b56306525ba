"""Depth ensembles: a vote weighs what its latent depth is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.values import Cluster, Trace
from orchestrator.core.votes import tally, voters
from orchestrator.kit.options import LARGEST


@dataclass(frozen=True, slots=True)
class DepthWeighted:
    """Weighs votes by the latent depth of their attempts; for looped models.

    With the log-odds of a vote as its weight, log(a m / (1 - a)) for accuracy a and m wrong answers
    in effect, the leader is the most probable answer if attempts err independently (weighted
    plurality, naive Bayes). Without weights only the deepest attempts that answered vote, and the
    shallower ones break their ties.
    """

    depths: Annotated[
        tuple[Annotated[int, Meta(ge=0)], ...],
        Meta(
            description="Latent depths that have a weight, all different; 0 stands for attempts "
            "at the depth that the model ships with."
        ),
    ] = ()
    weights: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=LARGEST)], ...],
        Meta(
            description="Weight of a vote at each of `depths`, as `leadline sweep` measures it; "
            "empty, and `depths` too, lets only the deepest attempts vote."
        ),
    ] = ()

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.weights):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.depths)} depths; give one each, or "
                "neither"
            )
        if len(set(self.depths)) < len(self.depths):
            raise ValueError(f"depths = {self.depths}: give different ones")

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
                    f"trace {trace.ordinal} has depth {trace.depth or 0}, and weights are given "
                    f"for {sorted(weight_of)}"
                )
        return tally(pool, lambda trace: weight_of[trace.depth or 0])
