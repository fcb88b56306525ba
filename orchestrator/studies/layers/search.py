"""One search for the best order of layers for a task.

It splits problems, chooses targets, tries orders and compares the winner on other problems.

The one rule: the problems that guided a search are never reported as a test of it. The winner and
the model's own order are compared on held-out problems. If there are none, and reference answers
guided the search, the number is called an oracle. Values in, values out: nothing is printed.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from orchestrator.core.errors import JournalError, PlanError
from orchestrator.core.layers import Schedule, parse_schedule
from orchestrator.core.plan import Plan, derive_seed
from orchestrator.core.session import prepared_prompt
from orchestrator.core.values import Problem, Prompt
from orchestrator.jobs.files import write_atomically
from orchestrator.plan.execution import Execution
from orchestrator.studies.estimates import Estimate, share_estimate
from orchestrator.studies.evaluate import RightAnswers
from orchestrator.studies.layers.mcts import Order, SearchOptions, Trial, explore, front
from orchestrator.studies.layers.scoring import (
    Complete,
    Completion,
    Grader,
    OrderScore,
    Scorer,
    SearchReward,
    split,
    voted,
)


class Runner(Protocol):
    """The model interface of a search, implemented by `orchestrator.studies.layers.decoder`."""

    @property
    def n_layers(self) -> int:
        """Return the number of layers of the model."""

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return a prompt as token ids."""

    def greedy(
        self,
        prompts: Sequence[Sequence[int]],
        order: Sequence[int],
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """Return one reply per prompt, without sampling."""

    def drawn(
        self,
        prompts: Sequence[Sequence[int]],
        order: Sequence[int],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """Return one sampled reply per prompt."""


@dataclass(frozen=True, slots=True)
class SearchTask:
    """The input of a search: the problems of `file`, their references, and the search settings.

    `n_votes` is for agreement only.
    """

    plan: Plan
    execution: Execution
    file: str
    problems: tuple[Problem, ...]
    references: RightAnswers
    reward: SearchReward
    holdout: float
    n_votes: int
    options: SearchOptions


@dataclass(frozen=True, slots=True)
class OrderComparison:
    """The comparison of the winner with the model's own order.

    `kind` is "accuracy", "oracle" or "agreement". The two orders differ on `n_gained` + `n_lost`
    problems.
    """

    kind: str
    own: Estimate
    winner: Estimate
    n_gained: int  # problems that only the winner gets right
    n_lost: int  # problems that only the own order gets right


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The outcome of a search.

    `front` is the Pareto set of the orders tried on all problems. `comparison` is None when the
    search was interrupted.
    """

    reward: SearchReward
    n_problems: int  # that guided the search
    n_unvoted: int  # left out, because no sampled reply gave an answer
    n_orders: int
    n_whole: int  # orders tried on all problems
    own: OrderScore
    winner: OrderScore
    front: tuple[OrderScore, ...]
    comparison: OrderComparison | None
    interrupted: bool


def chosen_reward(
    wanted: str, problems: Sequence[Problem], references: RightAnswers
) -> tuple[SearchReward, tuple[Problem, ...]]:
    """Return the reward that guides the search, and the problems that can be used for it.

    "auto" is accuracy if there are references, and then leaves out the problems without one;
    otherwise it is agreement. Raises PlanError when accuracy is requested and no problem has a
    reference.
    """
    with_reference = tuple(p for p in problems if p.id in references)
    if wanted == SearchReward.AGREEMENT or (wanted == "auto" and not with_reference):
        return SearchReward.AGREEMENT, tuple(problems)
    if not with_reference:
        raise PlanError(
            "no problem has a reference answer (`answer`), "
            "so there is no accuracy to search by; use --reward agreement"
        )
    return SearchReward.ACCURACY, with_reference


def search(
    runner: Runner,
    own: Order,
    task: SearchTask,
    path: Path,
    report: Callable[[int, OrderScore, OrderScore], None],
) -> SearchResult:
    """Return the outcome of the search.

    Each order is logged in `path` once scored, and never run again. `report` is called for every
    order, with the number of orders so far, the score of the order and the best score so far.
    Ctrl-C ends the search with the results so far, once the model's own order has been scored.
    Raises PlanError when there is nothing to reward or when the log belongs to another search.
    """
    calibration, held_out = split(task.problems, task.holdout, task.plan.seed)
    complete = completer(runner, task)
    log = SearchLog(path, task, calibration)
    with Grader(task.plan, task.execution) as grader:
        targets = _targets(task, runner, own, grader, calibration)
        used = [p for p in calibration if p.id in targets]
        scorer = Scorer(complete, grader, used, targets, log.known)
        tried = _TriedOrders(scorer.whole(own), log, report)
        rng = random.Random(derive_seed(task.plan.seed, "depth search"))

        def reward(order: Order) -> float:
            return tried.add(tried.own if order == own else scorer.score(order))

        try:
            for _ in explore(own, task.options, reward, rng):
                pass
            comparison = _comparison(
                task, runner, own, grader, complete, tried.best, held_out or used, targets
            )
        except KeyboardInterrupt:
            comparison = None
    return SearchResult(
        reward=task.reward,
        n_problems=len(used),
        n_unvoted=len(calibration) - len(used),
        n_orders=len(tried.scores),
        n_whole=len(tried.whole),
        own=tried.own,
        winner=tried.best,
        front=tried.front(),
        comparison=comparison,
        interrupted=comparison is None,
    )


class _TriedOrders:
    """The scores of the orders tried so far, each logged and reported; `own` is the model's."""

    def __init__(
        self,
        own: OrderScore,
        log: SearchLog,
        report: Callable[[int, OrderScore, OrderScore], None],
    ) -> None:
        self.own = self.best = own
        self.scores = [own]
        self._log, self._report = log, report
        log.add(own)

    def add(self, scored: OrderScore) -> float:
        """Add the score of an order and return its reward; the model's own may come again."""
        if scored is not self.own:
            self._log.add(scored)
            self.scores.append(scored)
        self.best = max((self.best, scored), key=_merit)
        self._report(len(self.scores), scored, self.best)
        return scored.reward

    @property
    def whole(self) -> list[OrderScore]:
        """The scores of the orders that were tried on all problems."""
        return [scored for scored in self.scores if scored.whole]

    def front(self) -> tuple[OrderScore, ...]:
        """Return the Pareto set of these."""
        by_order = {scored.order: scored for scored in self.whole}
        trials = [Trial(scored.order, scored.reward) for scored in self.whole]
        return tuple(by_order[trial.order] for trial in front(trials))


def completer(runner: Runner, task: SearchTask) -> Complete:
    """Return a function that runs problems under an order, greedily.

    Prompts and limits are those of the plan.
    """
    ids = {p.id: runner.prompt_ids(prepared_prompt(p, task.plan)) for p in task.problems}
    sampling = task.plan.sampling
    return lambda order, problems: runner.greedy(
        [ids[p.id] for p in problems], order, sampling.max_new_tokens, sampling.stop
    )


def _merit(scored: OrderScore) -> tuple[float, float]:
    """Return a sort key: tried on all problems, then highest reward, then shortest.

    `max` keeps the first of equals. If no order has any reward, the first one, the model's own,
    stays; otherwise short orders would win by their length alone.
    """
    reward = scored.reward if scored.whole else 0.0
    return reward, -len(scored.order) if reward else -math.inf


def _targets(
    task: SearchTask, runner: Runner, own: Order, grader: Grader, problems: Sequence[Problem]
) -> RightAnswers:
    if task.reward is SearchReward.ACCURACY:
        return {p.id: task.references[p.id] for p in problems}
    sampling = task.plan.sampling
    if sampling.temperature <= 0:
        raise PlanError(
            "a vote needs replies that differ: set sampling.temperature above 0, "
            "or give reference answers"
        )
    prompts = [runner.prompt_ids(prepared_prompt(p, task.plan)) for p in problems]
    rounds = []
    for i in range(task.n_votes):
        seed = derive_seed(task.plan.seed, "vote", i)
        replies = runner.drawn(
            prompts,
            own,
            sampling.max_new_tokens,
            sampling.stop,
            temperature=sampling.temperature,
            seed=seed,
        )
        rounds.append(grader.answers(problems, replies))
    targets = voted(problems, rounds)
    if not targets:
        raise PlanError(
            f"{task.file}: without reference answers the model's own vote guides a search, "
            f"and none of {task.n_votes} replies to "
            f"{len(problems)} problems gave an answer; give references, "
            "or a template or domain under which it answers"
        )
    return targets


def _comparison(
    task: SearchTask,
    runner: Runner,
    own: Order,
    grader: Grader,
    complete: Complete,
    winner: OrderScore,
    problems: Sequence[Problem],
    targets: RightAnswers,
) -> OrderComparison:
    """Return both orders' accuracy against references if there are any, otherwise against votes."""
    graded = [p for p in problems if p.id in task.references]
    if graded:
        kind = "oracle" if task.reward is SearchReward.ACCURACY and not task.holdout else "accuracy"
        against = task.references
    else:
        kind = "agreement"
        against = targets if not task.holdout else _targets(task, runner, own, grader, problems)
        graded = [p for p in problems if p.id in against]
    grades = [
        grader.right(graded, complete(order, graded), against) for order in (own, winner.order)
    ]
    a, b = (share_estimate(row) for row in grades)
    assert a is not None
    assert b is not None
    pairs = list(zip(*grades, strict=True))
    return OrderComparison(kind, a, b, pairs.count((False, True)), pairs.count((True, False)))


class SearchLog:
    """Orders with their grades, one per line; the first line identifies the search.

    The whole file is rewritten for each order. A search has a few hundred orders.
    """

    def __init__(self, path: Path, task: SearchTask, problems: Sequence[Problem]) -> None:
        """Read the log, without a truncated last line.

        Raises PlanError for the log of another search.
        """
        head = msgspec.json.encode({"search": _identity(task, problems)}) + b"\n"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        self._lines = [line for line in lines if line.endswith(b"\n")] or [head]
        self._path = path
        if self._lines[0] != head:
            raise PlanError(
                f"{path} belongs to another search (other problems, model, seed or sampling); "
                "choose another --out"
            )
        self.known = [_scored(msgspec.json.decode(line)) for line in self._lines[1:]]
        self._orders = {scored.order for scored in self.known}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(f"{path}: {error.strerror}; choose another --out") from error

    def add(self, scored: OrderScore) -> None:
        """Write the score of an order, unless it is already logged."""
        if scored.order in self._orders:
            return
        self._orders.add(scored.order)
        row = {
            "layers": str(Schedule(scored.order)),
            "right": [int(right) for right in scored.right],
            "whole": scored.whole,
        }
        self._lines.append(msgspec.json.encode(row) + b"\n")
        write_atomically(self._path, b"".join(self._lines))


def _scored(row: Mapping[str, Any]) -> OrderScore:
    return OrderScore(
        parse_schedule(row["layers"]).order(), tuple(map(bool, row["right"])), row["whole"]
    )


def _identity(task: SearchTask, problems: Sequence[Problem]) -> str:
    """Return a digest of everything that grades depend on: model, prompts, targets and sampling.

    The options of the search are not included: other options may use the same grades.
    """
    # one answer as a text: as logs have it that were begun when a problem had one reference at most
    one = {id: answers[0] for id, answers in task.references.items() if len(answers) == 1}
    prompts = [
        (p.id, prepared_prompt(p, task.plan), p.domain, one.get(p.id, task.references.get(p.id)))
        for p in problems
    ]
    what = [
        asdict(task.plan.models[task.plan.default_model]),
        asdict(task.plan.sampling),
        task.plan.seed,
        task.reward,
        task.n_votes,
    ]
    return hashlib.blake2b(msgspec.json.encode([what, prompts]), digest_size=12).hexdigest()
