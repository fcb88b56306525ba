"""short-m@k: start k traces, keep the first m that finish, cancel the rest (Hassid et al., arXiv
2505.17813).

Differs from the paper in one point: it breaks ties in the vote by the shortest chain, the project's
selectors by the lowest ordinal.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from orchestrator.core.steps import Steps, depth_needs, next_trace, submit
from orchestrator.core.values import Capability, Finish, Problem, Request, Trace


@dataclass(frozen=True, slots=True)
class ShortM:
    """Starts `k` traces and stops when `m` of them have finished their thinking: ended by
    themselves, or stated an answer.
    """

    m: int = 3
    k: int = 8
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.m <= self.k:
            raise ValueError(f"m = {self.m}, k = {self.k}: 1 <= m <= k is needed")

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.k

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Wait for `m` finished traces, or for all `k`; returning cancels what still runs."""
        ordinals = yield from submit([Request(model=self.model, depth=self.depth)] * self.k)
        n_finished = 0
        for _ in ordinals:
            n_finished += _finished((yield from next_trace()))
            if n_finished == self.m:
                return


def _finished(trace: Trace) -> bool:
    return trace.finish is Finish.STOP or (
        trace.finish is Finish.LENGTH and trace.answer is not None
    )
