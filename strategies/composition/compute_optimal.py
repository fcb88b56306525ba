"""The compute-optimal choice by difficulty: estimate it first, then choose.

Snell et al. (arXiv 2408.03314) and Liu et al. (arXiv 2502.06703) sort questions into bins by how
hard they are for the model and find that the best way to spend a budget differs by bin: where the
model is mostly right, revising in sequence; in the middle, sequence and breadth mixed, or search
with a verifier; where it is mostly wrong, breadth. They estimate difficulty from thousands of
samples, by reference answers ("oracle") or by mean verifier scores ("predicted"), and take
quintiles (the first) or fixed shares (the second) as bins.

Where we differ: difficulty is estimated per question from its `first` traces, by the verifier's
mean or without one by agreement, and bins are fixed shares of it. The arms are strategies of any
kind; the defaults follow the first paper's section 6, at the budgets given here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Meta

from orchestrator.core.steps import Steps, sample
from orchestrator.core.values import PluginSpec, Problem, Trace
from orchestrator.core.votes import agreement, voters
from orchestrator.kit.compose import run_inner
from orchestrator.kit.options import ModelOptions

Bin: TypeAlias = Literal["easy", "medium", "hard"]


@dataclass(frozen=True, slots=True)
class ComputeOptimal(ModelOptions):
    """Estimates a question's difficulty, then runs the strategy set for it.

    The estimate is the mean score of `verifier` over the first attempts (one without an answer
    counts 0, one that could not be scored does not count), or without a verifier the share of the
    leading answer.
    """

    parts: ClassVar[Mapping[str, str]] = {
        "easy": "strategies",
        "medium": "strategies",
        "hard": "strategies",
    }

    first: Annotated[
        int, Meta(ge=1, description="Number of attempts from which difficulty is estimated.")
    ] = 4
    verifier: Annotated[
        str,
        Meta(
            description="Name of the plan's verifier whose scores estimate difficulty; empty for "
            "the agreement of the first attempts."
        ),
    ] = ""
    easy_from: Annotated[
        float, Meta(ge=0, le=1, description="Estimate from which on a question is easy.")
    ] = 0.75
    hard_to: Annotated[
        float, Meta(ge=0, le=1, description="Estimate up to which a question is hard.")
    ] = 0.25
    easy: Annotated[
        Any, Meta(description="Strategy for easy questions; empty stops after the first attempts.")
    ] = "revise chains=1 revisions=3"  # 4 attempts, one after another
    medium: Annotated[
        Any, Meta(description="Strategy for questions in between; empty as for `easy`.")
    ] = "revise chains=4 revisions=3"  # 16, four by four
    hard: Annotated[Any, Meta(description="Strategy for hard questions; empty as for `easy`.")] = (
        "revise chains=8 revisions=1"  # 16, mostly side by side
    )

    def __post_init__(self) -> None:
        if self.hard_to >= self.easy_from:
            raise ValueError(
                f"hard_to = {self.hard_to}, easy_from = {self.easy_from}: hard_to must be smaller"
            )

    @property
    def n_planned(self) -> int | None:
        """How many attempts the most expensive arm takes, where every arm knows."""
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
    def selector(self) -> PluginSpec:
        """All attempts vote: by the verifier's scores, as in the paper, or equally without one."""
        return (
            PluginSpec("best-weighted", {"by": f"verdict:{self.verifier}"})
            if self.verifier
            else PluginSpec("majority")
        )

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Estimate difficulty, then run one arm."""
        first = yield from sample(self.first, self.request)
        arm = {"easy": self.easy, "medium": self.medium, "hard": self.hard}[self.bin(first)]
        if arm is not None:
            yield from run_inner(arm, problem, rng)

    def bin(self, first: Sequence[Trace]) -> Bin:
        """Return the bin of a question from its first attempts."""
        rate = _mean_score(first, self.verifier) if self.verifier else agreement(first)
        return "easy" if rate >= self.easy_from else "hard" if rate <= self.hard_to else "medium"


def _mean_score(traces: Sequence[Trace], verifier: str) -> float:
    answered = voters(traces)
    scores = [v.score for t in answered for v in t.verdicts if v.verifier == verifier]
    if answered and not scores:
        raise ValueError(
            f"none of the first traces carries a verdict of {verifier!r}, by which difficulty is "
            "estimated"
        )
    n = len(traces) - len(answered) + len(scores)
    return sum(scores) / n if n else 0.0
