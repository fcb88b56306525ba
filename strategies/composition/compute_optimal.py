"""The compute-optimal choice by difficulty (Snell et al., arXiv 2408.03314; Liu et al., arXiv
2502.06703): look first, then choose.

Both papers sort questions into bins by how hard they are for the model and find that the best way
to spend a budget differs by bin: where the model is mostly right, revising in sequence; in the
middle, sequence and breadth mixed, or search with a verifier; where it is mostly wrong, breadth.
They estimate difficulty from thousands of samples, by reference answers ("oracle") or by mean
verifier scores ("predicted"), and take quintiles (the first) or fixed shares (the second) as bins.

Where we differ: difficulty is estimated per question from its `first` traces, by the verifier's
mean or without one by agreement, and bins are fixed shares of it. The arms are strategies of any
kind; the defaults follow the first paper's section 6, at the budgets stated here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from orchestrator.core.steps import Steps, depth_needs, sample
from orchestrator.core.values import Capability, PluginSpec, Problem, Request, Trace
from orchestrator.core.votes import agreement, voters
from orchestrator.kit.compose import run_inner

Bin: TypeAlias = Literal["easy", "medium", "hard"]


@dataclass(frozen=True, slots=True)
class ComputeOptimal:
    """Takes `first` traces, estimates from them how often the model is right, and goes on with the
    arm of that bin.

    The estimate is the mean score of `verifier` over them (a trace without an answer counts 0, one
    that could not be scored does not count), or without a verifier the share of the leading answer.
    At `easy_from` and above the question is easy, at `hard_to` and below hard. An arm "" stops
    there.
    """

    parts: ClassVar[Mapping[str, str]] = {
        "easy": "strategies",
        "medium": "strategies",
        "hard": "strategies",
    }

    first: int = 4
    verifier: str = ""  # one of the plan's; "": agreement
    easy_from: float = 0.75
    hard_to: float = 0.25
    easy: Any = "revise chains=1 revisions=3"  # 4 attempts, one after another
    medium: Any = "revise chains=4 revisions=3"  # 16, four by four
    hard: Any = "revise chains=8 revisions=1"  # 16, mostly side by side
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.first < 1:
            raise ValueError(f"first = {self.first}: at least one trace is needed to look at")
        if not 0 <= self.hard_to < self.easy_from <= 1:
            raise ValueError(
                f"hard_to = {self.hard_to}, easy_from = {self.easy_from}: 0 <= hard_to < easy_from <= 1 is needed"
            )

    @property
    def n_planned(self) -> int | None:
        """How many traces the dearest way takes, where every arm says so."""
        sizes = [
            getattr(arm, "n_planned", None) if arm is not None else 0
            for arm in (self.easy, self.medium, self.hard)
        ]
        return None if None in sizes else self.first + max(n for n in sizes if n is not None)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads, if it does."""
        return (self.verifier,) if self.verifier else ()

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth)

    @property
    def selector(self) -> PluginSpec:
        """All attempts vote: by the verifier's scores, as in the paper, or without one alike."""
        return (
            PluginSpec("best-weighted", {"by": f"verdict:{self.verifier}"})
            if self.verifier
            else PluginSpec("majority")
        )

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Look, then run one arm."""
        seen = yield from sample(self.first, Request(model=self.model, depth=self.depth))
        arm = {"easy": self.easy, "medium": self.medium, "hard": self.hard}[self.bin(seen)]
        if arm is not None:
            yield from run_inner(arm, problem, rng)

    def bin(self, seen: Sequence[Trace]) -> Bin:
        """Return the bin of a question from its first traces."""
        rate = _mean_score(seen, self.verifier) if self.verifier else agreement(seen)
        return "easy" if rate >= self.easy_from else "hard" if rate <= self.hard_to else "medium"


def _mean_score(traces: Sequence[Trace], verifier: str) -> float:
    answered = voters(traces)
    scores = [v.score for t in answered for v in t.verdicts if v.verifier == verifier]
    if answered and not scores:
        raise ValueError(
            f"none of the first traces carries a verdict of {verifier!r}, by which difficulty is estimated"
        )
    n = len(traces) - len(answered) + len(scores)
    return sum(scores) / n if n else 0.0
