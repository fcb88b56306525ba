"""The score of an order of layers on a set of problems.

It is the share of right answers, or of answers that agree with a vote.

The one rule: every number is reported with its targets and its number of problems. There are two
kinds of target: reference answers ("accuracy") and, without them, the majority of several replies
sampled from the model as it ships ("agreement"). Agreement was chosen over token confidence because
a damaged model that repeats itself is very confident, and because a vote is more often right than
the single reply it is compared with, so that an order can score better than the model's own.
Agreement cannot tell a better answer from a wrong one that the vote shares: the number is
agreement, never accuracy.

Answers are read and compared as in a job, by `orchestrator.runtime.annotate`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self, TypeAlias

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Finish, Problem, Request, Trace
from orchestrator.core.votes import tally
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.studies.estimates import share_estimate
from orchestrator.studies.evaluate import (
    RightAnswers,
    is_right,
)
from orchestrator.studies.layers.mcts import Order

FIRST = 8  # problems on which an order is tried first


class SearchReward(StrEnum):
    """The objective of a search."""

    ACCURACY = "accuracy"
    AGREEMENT = "agreement"


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply; `finished` when it ended by itself or at a stop text, not at the token limit."""

    text: str
    finished: bool


Complete: TypeAlias = Callable[[Order, Sequence[Problem]], Sequence[Completion]]


@dataclass(frozen=True, slots=True)
class OrderScore:
    """The grades of one order; `right[i]` is the grade of the i-th problem.

    `whole` is true when the order was tried on all problems, not only on the first ones.
    """

    order: Order
    right: tuple[bool, ...]
    whole: bool

    @property
    def reward(self) -> float:
        """Return the share of problems that the order got right."""
        return sum(self.right) / len(self.right)


class Grader:
    """Reads answers and compares them with targets: `with Grader(plan, execution) as grader:`.

    Comparisons may start processes, which end with the block.
    """

    def __init__(self, plan: Plan, execution: Execution) -> None:
        """Load nothing yet; domains are loaded when they are first needed."""
        self._runner = asyncio.Runner()
        self._workers = AnswerWorkers(
            n_workers=execution.checkers, limit_seconds=execution.checker_seconds
        )
        self._annotator = Annotator(replace(plan, verifiers=()), self._workers)
        self._classes: dict[str, Classes] = {}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the processes."""
        self._runner.run(self._workers.aclose())
        self._runner.close()

    def answers(
        self, problems: Sequence[Problem], replies: Sequence[Completion]
    ) -> list[Answer | None]:
        """Return the answer of each reply, in its class within its problem."""
        return self._runner.run(self._answers(problems, replies))

    def right(
        self, problems: Sequence[Problem], replies: Sequence[Completion], targets: RightAnswers
    ) -> list[bool]:
        """Return whether each reply's answer equals its problem's target."""
        answers = self.answers(problems, replies)
        return [
            a is not None
            and bool(
                self._runner.run(is_right(p.domain, a.text, targets[p.id], self._annotator.accepts))
            )
            for p, a in zip(problems, answers, strict=True)
        ]

    async def _answers(
        self, problems: Sequence[Problem], replies: Sequence[Completion]
    ) -> list[Answer | None]:
        answers: list[Answer | None] = []
        for problem, reply in zip(problems, replies, strict=True):
            trace = Trace(
                0, text=reply.text, finish=Finish.STOP if reply.finished else Finish.LENGTH
            )
            classes = self._classes.setdefault(problem.id, Classes())
            answers.append(
                (
                    await self._annotator.annotate(
                        problem, Request(problem_id=problem.id, ordinal=0), trace, classes
                    )
                ).answer
            )
        return answers


def split(
    problems: Sequence[Problem], share: float, seed: int
) -> tuple[list[Problem], list[Problem]]:
    """Return the calibration problems and the held-out problems, drawn at random with the seed.

    Both keep the order of the file. Raises PlanError when a part that needs problems would be
    empty.
    """
    n_held = round(len(problems) * share)
    if n_held == len(problems) or (share > 0 and n_held == 0):
        raise PlanError(
            f"{len(problems)} problems cannot be split with --holdout {share:g}: "
            "each part needs one at least"
        )
    held = set(random.Random(seed).sample(range(len(problems)), n_held))
    return [p for i, p in enumerate(problems) if i not in held], [
        p for i, p in enumerate(problems) if i in held
    ]


def voted(
    problems: Sequence[Problem], rounds: Sequence[Sequence[Answer | None]]
) -> dict[str, tuple[str, ...]]:
    """Return the majority answer of each problem that has any answer.

    The rounds have shape (n_rounds, n_problems).
    """
    majorities: dict[str, tuple[str, ...]] = {}
    for problem, column in zip(problems, zip(*rounds, strict=True), strict=True):
        clusters = tally(Trace(ordinal, answer=answer) for ordinal, answer in enumerate(column))
        if clusters:
            majorities[problem.id] = (clusters[0].answer.text,)
    return majorities


class Scorer:
    """Scores orders on problems with targets, a few problems first, and remembers the scores."""

    def __init__(
        self,
        complete: Complete,
        grader: Grader,
        problems: Sequence[Problem],
        targets: RightAnswers,
        known: Collection[OrderScore] = (),
    ) -> None:
        """Start with `known`, the scores of an earlier run over the same problems and targets."""
        self._complete = complete
        self._marker = grader
        self._problems = problems
        self._targets = targets
        self._known = {scored.order: scored for scored in known}
        self._floor = 0.0

    def whole(self, order: Order) -> OrderScore:
        """Return the score of an order on all problems, which later orders must match.

        The model's own order comes first.
        """
        scored = self._known.get(order)
        if scored is None or not scored.whole:
            scored = OrderScore(order, self._grades(order, self._problems), whole=True)
        self._known[order] = scored
        self._floor = scored.reward
        return scored

    def score(self, order: Order) -> OrderScore:
        """Return the score of an order on the first 8 problems, or on all problems.

        It is tried on all problems if it may match the own order. It may not if the upper end of
        the 95% interval of its share is below the share of the own order.
        """
        if order in self._known:
            return self._known[order]
        first = self._grades(order, self._problems[:FIRST])
        estimate = share_estimate(first)
        assert estimate is not None
        assert estimate.high is not None
        lost = estimate.high < self._floor
        rest = () if lost else self._grades(order, self._problems[FIRST:])
        self._known[order] = OrderScore(
            order, (*first, *rest), whole=not lost or len(self._problems) <= FIRST
        )
        return self._known[order]

    def _grades(self, order: Order, problems: Sequence[Problem]) -> tuple[bool, ...]:
        if not problems:
            return ()
        return tuple(self._marker.right(problems, self._complete(order, problems), self._targets))
