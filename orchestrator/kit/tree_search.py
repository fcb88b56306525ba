"""Attempts that grow as a tree of revisions: what the two forms of AB-MCTS share (Inoue et al.,
arXiv 2503.04412). Pure.

A node is an attempt with the score that a verifier gave it; the root is the question. A new child
of the root is a fresh attempt, a new child of an attempt its revision. Where the next child goes
and which model is asked is the strategy's to say; nothing here decides it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from orchestrator.core.steps import Command, Reply, next_trace, submit
from orchestrator.core.values import Finish, Prompt, Request, Trace, changed
from orchestrator.kit.prompts import next_turn, visible_text

A = TypeVar("A")
REVISE = (
    "A checker gave this attempt a score of {score:.2f}, from 0 (wrong) to 1 (right). Go through it, find what is wrong or missing, and "
    "give a better solution, complete and in the form that was asked for. Keep what is right."
)


@dataclass(slots=True, eq=False)
class Node(Generic[A]):
    """An attempt in the tree, or the question at its root; `arms` is what a search believes about
    it.
    """

    arms: A
    attempt: Trace | None = None
    score: float = 0.0
    parent: Node[A] | None = None
    children: list[Node[A]] = field(default_factory=list)

    def subtree(self) -> Iterator[Node[A]]:
        """Yield this node and all below it, each before what is below it."""
        yield self
        for child in self.children:
            yield from child.subtree()


@dataclass(frozen=True, slots=True)
class TreeSearch(Generic[A]):
    """How a tree grows: `n` attempts like `request`, up to `parallel` in flight; `verifier`'s score
    is what is learned.

    `place` returns the node that gets a new child and the model to ask; `join` adds a scored child
    below a node, given its model.
    """

    request: Request
    verifier: str
    n: int
    parallel: int
    place: Callable[[], tuple[Node[A], str]]
    join: Callable[[Node[A], str, Trace, float], None]

    def __call__(self, prompt: Prompt) -> Generator[Command, Reply, None]:
        """Keep `parallel` attempts in flight until `n` were started; each that arrives with a score
        joins the tree.
        """
        flying: dict[int, tuple[Node[A], str]] = {}
        for n_started in range(self.n + self.parallel):
            if n_started < self.n:
                node, model = self.place()
                for ordinal in (yield from submit([self._asked(prompt, node, model)])):
                    flying[ordinal] = node, model
            if n_started < self.parallel - 1 or not flying:
                continue
            trace = yield from next_trace(flying)
            node, model = flying.pop(trace.ordinal)
            given = [v.score for v in trace.verdicts if v.verifier == self.verifier]
            if given and trace.finish not in (Finish.FAILED, Finish.CANCELLED):
                self.join(node, model, trace, given[-1])

    def _asked(self, prompt: Prompt, node: Node[A], model: str) -> Request:
        asked = changed(self.request, model=model, verifiers=(self.verifier,))
        if node.attempt is None:
            return asked
        revision = next_turn(prompt, visible_text(node.attempt), REVISE.format(score=node.score))
        return changed(asked, prompt=revision, subjects=(node.attempt.ordinal,))


class Ucb1:
    """Chooses among models by UCB1 with c = sqrt(2) (Auer et al., 2002), as the released code
    offers it.

    An attempt counts from when it is asked for, with nothing gained until it is scored: so what
    flies, or failed, is not forgotten.
    """

    def __init__(self, models: Sequence[str]) -> None:
        """Begin without knowledge: each model is asked once, in the order given."""
        self._gained = dict.fromkeys(models, 0.0)
        self._n_asked = dict.fromkeys(models, 0)

    def choose(self, rng: random.Random) -> str:
        """Return the model with the highest bound, of equal ones the first named; draws nothing."""
        n_all = sum(self._n_asked.values())

        def bound(model: str) -> float:
            n = self._n_asked[model]
            return self._gained[model] / n + math.sqrt(2 * math.log(n_all) / n) if n else math.inf

        chosen = max(self._gained, key=bound)
        self._n_asked[chosen] += 1
        return chosen

    def learn(self, model: str, score: float) -> None:
        """Take the score of an attempt of this model."""
        self._gained[model] += score


def check_tree(n: int, parallel: int) -> None:
    """Raise ValueError unless both are at least 1."""
    if n < 1 or parallel < 1:
        raise ValueError(f"n = {n}, parallel = {parallel}: both must be at least 1")
