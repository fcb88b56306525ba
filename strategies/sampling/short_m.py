"""short-m@k: start k attempts, keep the first m to finish (Hassid et al., arXiv 2505.17813).

Where we differ: the paper breaks ties in the vote by the shortest chain, the project's selectors by
the lowest ordinal.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Steps, cancel, next_trace, submit
from orchestrator.core.values import Finish, Problem, Trace
from orchestrator.kit.options import ModelOptions


@dataclass(frozen=True, slots=True)
class ShortM(ModelOptions):
    """Keeps the first `m` of `k` attempts to finish; for low latency.

    An attempt has finished when it ended by itself or gave an answer.
    """

    m: Annotated[
        int, Meta(ge=1, description="Number of finished attempts that end the exploration.")
    ] = 3
    k: Annotated[int, Meta(ge=1, description="Number of attempts started; at least `m`.")] = 8

    def __post_init__(self) -> None:
        if self.m > self.k:
            raise ValueError(f"m = {self.m}, k = {self.k}: m must not exceed k")

    @property
    def n_planned(self) -> int:
        """The number of attempts of full sampling."""
        return self.k

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Wait for `m` finished attempts, or for all `k`; returning cancels what still runs."""
        ordinals = yield from submit([self.request] * self.k)
        n_finished = 0
        for _ in ordinals:
            n_finished += _finished((yield from next_trace()))
            if n_finished == self.m:
                yield from cancel(ordinals, f"m = {self.m} attempts had finished")
                return


def _finished(trace: Trace) -> bool:
    return trace.finish is Finish.STOP or (
        trace.finish is Finish.LENGTH and trace.answer is not None
    )
