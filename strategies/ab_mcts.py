"""AB-MCTS-A: adaptive branching tree search by Thompson sampling (Inoue et al., arXiv 2503.04412; github.com/SakanaAI/treequest).

The tree's nodes are attempts, scored by a verifier; the root is the question. At each node the search either generates a new child
("wider") or goes on to one of its children ("deeper"), by a draw from the posteriors of what either has brought so far: GEN against CONT,
then child against child. A child of an attempt is a revision of it. With several models, GEN draws the model too, from the posterior of
all its scores.

Posteriors and updates are those of the released code (variant A with node aggregation, shared GEN and CONT arms). Where we differ: up to
`parallel` generations are in flight at a time and the tree is updated as each arrives, where the released code works in batches; the
revision prompt is ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from orchestrator.core.prompts import shown, turn
from orchestrator.core.steps import Steps, next_trace, submit
from orchestrator.core.types import Capability, Finish, Problem, Prompt, Request, Trace

T = TypeVar("T")
REVISE = (
    "A checker gave this attempt a score of {score:.2f}, from 0 (wrong) to 1 (right). Go through it, find what is wrong or missing, and "
    "give a better solution, complete and in the form that was asked for. Keep what is right."
)


class Posterior(Protocol):
    """What an arm is believed to bring."""

    def updated(self, reward: float) -> Posterior:
        """Return the belief after one more reward in [0, 1]."""
        ...

    def draw(self, rng: random.Random) -> float:
        """Return a draw of its mean reward."""
        ...


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Normal-inverse-chi-squared belief over a Gaussian's mean and variance; the released code's prior."""

    m: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    tau_squared: float = 0.1

    def updated(self, reward: float) -> Gaussian:
        """Return the belief after one more reward: the batch formulas with n = 1, which compose to those with n."""
        kappa, nu = self.kappa + 1, self.nu + 1
        m = (self.kappa * self.m + reward) / kappa
        return Gaussian(m, kappa, nu, (self.nu * self.tau_squared + self.kappa * (self.m - reward) ** 2 / kappa) / nu)

    def draw(self, rng: random.Random) -> float:
        """Return a mean: the variance is drawn from InvGamma(nu / 2, nu tau^2 / 2), the mean from N(m, variance / kappa)."""
        variance = self.nu * self.tau_squared / 2 / max(rng.gammavariate(self.nu / 2, 1.0), 1e-300)
        return rng.gauss(self.m, math.sqrt(variance / self.kappa))


@dataclass(frozen=True, slots=True)
class Beta:
    """Beta belief over a mean in [0, 1], Jeffreys' prior; a reward between 0 and 1 counts as that share of a success."""

    a: float = 0.5
    b: float = 0.5

    def updated(self, reward: float) -> Beta:
        """Return the belief after one more reward."""
        return Beta(self.a + reward, self.b + 1 - reward)

    def draw(self, rng: random.Random) -> float:
        """Return a mean."""
        return rng.betavariate(self.a, self.b)


@dataclass(slots=True, eq=False)
class Node:
    """An attempt in the tree, or the question at its root, with the beliefs about what lies below it."""

    gen: Posterior  # of new children
    cont: Posterior  # of going on to a child
    own: Posterior  # of this node and all below it, to its parent
    attempt: Trace | None = None
    score: float = 0.0
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AbMcts:
    """Generates `n` attempts in a tree. `verifier` names the plan's verifier that scores them, `models` the pools (none: the plan's first).

    `posterior` says how beliefs about an arm are held: `gaussian` or `beta`.
    """

    verifier: str
    n: int = 16
    posterior: Literal["gaussian", "beta"] = "gaussian"
    parallel: int = 4
    models: tuple[str, ...] = ()
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or self.parallel < 1:
            raise ValueError(f"n = {self.n}, parallel = {self.parallel}: both must be at least 1")

    @property
    def n_full(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier whose verdicts it reads."""
        return (self.verifier,)

    @property
    def pools(self) -> tuple[str, ...]:
        """The model pools it names."""
        return self.models

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return frozenset() if self.depth is None else frozenset({Capability.DEPTH})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Keep `parallel` attempts in flight until `n` were started; each that arrives with a score joins the tree."""
        root = self._node()
        beliefs: dict[str, Posterior] = {model: self._prior() for model in self.models or ("",)}
        flying: dict[int, tuple[Node, str]] = {}
        for n_started in range(self.n + self.parallel):
            if n_started < self.n:
                node, model = descend(root, rng), thompson(list(beliefs.items()), rng)
                for ordinal in (yield from submit([self._request(problem.prompt, node, model)])):
                    flying[ordinal] = node, model
            if n_started < self.parallel - 1 or not flying:
                continue
            trace = yield from next_trace(flying)
            node, model = flying.pop(trace.ordinal)
            given = [v.score for v in trace.verdicts if v.verifier == self.verifier]
            if given and trace.finish not in (Finish.FAILED, Finish.CANCELLED):
                beliefs[model] = beliefs[model].updated(given[-1])
                learn(node, self._node(trace, given[-1], node))

    def _request(self, prompt: Prompt, node: Node, model: str) -> Request:
        asked = Request(model=model, depth=self.depth, verifiers=(self.verifier,))
        if node.attempt is None:
            return asked
        revision = turn(prompt, shown(node.attempt), REVISE.format(score=node.score))
        return Request(revision, model=model, depth=self.depth, verifiers=(self.verifier,), subjects=(node.attempt.ordinal,))

    def _prior(self) -> Posterior:
        return Gaussian() if self.posterior == "gaussian" else Beta()

    def _node(self, attempt: Trace | None = None, score: float = 0.0, parent: Node | None = None) -> Node:
        prior = self._prior()
        return Node(prior, prior, prior, attempt, score, parent)


def descend(root: Node, rng: random.Random) -> Node:
    """Return the node that gets a new child: from the root on, GEN or CONT is drawn, then a child; a leaf always generates."""
    node = root
    while node.children:
        if thompson([(True, node.gen), (False, node.cont)], rng):
            break
        node = thompson([(child, child.own) for child in node.children], rng)
    return node


def learn(parent: Node, child: Node) -> None:
    """Add a scored child: its parent's GEN and its own arm learn its score, and so do the own arm and the CONT above of every ancestor."""
    score = child.score
    parent.children.append(child)
    parent.gen = parent.gen.updated(score)
    child.own = child.own.updated(score)
    node = parent
    while node.parent is not None:
        node.own = node.own.updated(score)
        node.parent.cont = node.parent.cont.updated(score)
        node = node.parent


def thompson(arms: Sequence[tuple[T, Posterior]], rng: random.Random) -> T:
    """Return the arm with the largest draw; a single arm is taken without one."""
    if len(arms) == 1:
        return arms[0][0]
    draws = [posterior.draw(rng) for _, posterior in arms]
    return arms[draws.index(max(draws))][0]
