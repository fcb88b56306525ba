"""Attempts that grow as a tree of revisions, as in AB-MCTS (arXiv 2503.04412). Pure.

A node is an attempt with a verifier's score; the root is the question. A child of the root is a
fresh attempt, a child of an attempt its revision. A strategy builds a `TreeSearch` with its own
`place` and `join` and runs it:

    yield from TreeSearch(Request(), "v", n, parallel, place, join)(problem.prompt)

Where the next child goes, and which model makes it, is the strategy's choice; `Ucb1` is one way to
choose a model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from orchestrator.core.steps import Command, Reply, next_trace, submit
from orchestrator.core.values import Prompt, Request, Trace, changed
from orchestrator.kit.prompts import next_turn, visible_text

A = TypeVar("A")
REVISE = (
    "A checker gave this attempt a score of {score:.2f}, from 0 (wrong) to 1 (right). "
    "Go through it, find what is wrong or missing, and give a better solution, "
    "complete and in the form that was asked for. Keep what is right."
)


@dataclass(slots=True, eq=False)
class Node(Generic[A]):
    """An attempt in the tree, or the question at its root; `arms` is what a search knows of it."""

    arms: A
    attempt: Trace | None = None
    score: float = 0.0
    parent: Node[A] | None = None
    children: list[Node[A]] = field(default_factory=list)

    def subtree(self) -> Iterator[Node[A]]:
        """Yield this node and all below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.subtree()


@dataclass(frozen=True, slots=True)
class TreeSearch(Generic[A]):
    """Grows a tree by `n` attempts, up to `parallel` in flight.

    They are like `request`, and `verifier` scores them. `place` returns the node that gets a new
    child and the model that makes it. `join` adds a scored child below a node, with its model.
    """

    request: Request
    verifier: str
    n: int
    parallel: int
    place: Callable[[], tuple[Node[A], str]]
    join: Callable[[Node[A], str, Trace, float], None]

    def __call__(self, prompt: Prompt) -> Generator[Command, Reply, None]:
        """Keep `parallel` attempts in flight until `n` were started.

        Each one that arrives with a score joins the tree.
        """
        in_flight: dict[int, tuple[Node[A], str]] = {}
        for n_started in range(self.n + self.parallel):
            if n_started < self.n:
                node, model = self.place()
                for ordinal in (yield from submit([self._request(prompt, node, model)])):
                    in_flight[ordinal] = node, model
            if n_started < self.parallel - 1 or not in_flight:
                continue
            trace = yield from next_trace(in_flight)
            node, model = in_flight.pop(trace.ordinal)
            scores = [v.score for v in trace.verdicts if v.verifier == self.verifier]
            if scores and not trace.lost:
                self.join(node, model, trace, scores[-1])

    def _request(self, prompt: Prompt, node: Node[A], model: str) -> Request:
        request = changed(self.request, model=model, verifiers=(self.verifier,))
        if node.attempt is None:
            return request
        revision = next_turn(prompt, visible_text(node.attempt), REVISE.format(score=node.score))
        return changed(request, prompt=revision, subjects=(node.attempt.ordinal,))


class Ucb1:
    """Chooses among models by UCB1 with c = sqrt(2) (Auer et al., 2002), as AB-MCTS's code offers.

    An attempt counts from its start, as if it had scored 0 until its score arrives: what is in
    flight, or failed, is not forgotten.
    """

    def __init__(self, models: Sequence[str]) -> None:
        """Start without knowledge: each model is chosen once, in the order given."""
        self._gain = dict.fromkeys(models, 0.0)
        self._n_chosen = dict.fromkeys(models, 0)

    def choose(self, rng: random.Random) -> str:
        """Return the model with the highest bound, of equal ones the first; draws nothing."""
        n_all = sum(self._n_chosen.values())

        def bound(model: str) -> float:
            n = self._n_chosen[model]
            return self._gain[model] / n + math.sqrt(2 * math.log(n_all) / n) if n else math.inf

        chosen = max(self._gain, key=bound)
        self._n_chosen[chosen] += 1
        return chosen

    def learn(self, model: str, score: float) -> None:
        """Take the score of an attempt of this model."""
        self._gain[model] += score
