"""AB-MCTS-A: adaptive branching tree search by Thompson sampling (Inoue et al., arXiv 2503.04412;
github.com/SakanaAI/treequest).

The tree's nodes are attempts, scored by a verifier; the root is the question. At each node the
search either generates a new child ("wider") or goes on to one of its children ("deeper"), by a
draw from the posteriors of what either has brought so far: GEN against CONT, then child against
child. A child of an attempt is a revision of it. With several models, GEN draws the model too, from
the posterior of all its scores, or takes it by UCB1.

Posteriors and updates are those of the released code (variant A with node aggregation, shared GEN
and CONT arms). Where we differ: up to `parallel` generations are in flight at a time and the tree
is updated as each arrives, where the released code works in batches; the revision prompt is ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from orchestrator.core.steps import Steps, depth_needs
from orchestrator.core.values import Capability, Problem, Request, Trace
from orchestrator.kit.tree_search import Node, TreeSearch, Ucb1, check_tree

T = TypeVar("T")


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
    """Normal-inverse-chi-squared belief over a Gaussian's mean and variance; the released code's
    prior.
    """

    m: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    tau_squared: float = 0.1

    def updated(self, reward: float) -> Gaussian:
        """Return the belief after one more reward: the batch formulas with n = 1, which compose to
        those with n.
        """
        kappa, nu = self.kappa + 1, self.nu + 1
        m = (self.kappa * self.m + reward) / kappa
        return Gaussian(
            m,
            kappa,
            nu,
            (self.nu * self.tau_squared + self.kappa * (self.m - reward) ** 2 / kappa) / nu,
        )

    def draw(self, rng: random.Random) -> float:
        """Return a mean: the variance is drawn from InvGamma(nu / 2, nu tau^2 / 2), the mean from
        N(m, variance / kappa).
        """
        variance = self.nu * self.tau_squared / 2 / max(rng.gammavariate(self.nu / 2, 1.0), 1e-300)
        return rng.gauss(self.m, math.sqrt(variance / self.kappa))


@dataclass(frozen=True, slots=True)
class Beta:
    """Beta belief over a mean in [0, 1], Jeffreys' prior; a reward between 0 and 1 counts as that
    share of a success.
    """

    a: float = 0.5
    b: float = 0.5

    def updated(self, reward: float) -> Beta:
        """Return the belief after one more reward."""
        return Beta(self.a + reward, self.b + 1 - reward)

    def draw(self, rng: random.Random) -> float:
        """Return a mean."""
        return rng.betavariate(self.a, self.b)


@dataclass(slots=True)
class Arms:
    """What is believed of one node: of new children, of going on to a child, and, by its parent, of
    itself and all below.
    """

    gen: Posterior
    cont: Posterior
    own: Posterior


@dataclass(frozen=True, slots=True)
class AbMcts:
    """Generates `n` attempts in a tree. `verifier` names the plan's verifier that scores them,
    `models` the pools (none: the plan's first).

    `posterior` says how beliefs about an arm are held, `choose` how a new attempt's model is chosen
    among several.
    """

    verifier: str
    n: int = 16
    posterior: Literal["gaussian", "beta"] = "gaussian"
    parallel: int = 4
    models: tuple[str, ...] = ()
    choose: Literal["thompson", "ucb"] = "thompson"
    depth: int | None = None

    def __post_init__(self) -> None:
        check_tree(self.n, self.parallel)

    @property
    def n_planned(self) -> int:
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
        return depth_needs(self.depth)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Walk the tree for each new attempt; learn from each that arrives."""
        prior: Posterior = Gaussian() if self.posterior == "gaussian" else Beta()
        root = Node(Arms(prior, prior, prior))
        names = self.models or ("",)
        models: Ucb1 | Thompson = Ucb1(names) if self.choose == "ucb" else Thompson(names, prior)

        def place() -> tuple[Node[Arms], str]:
            return descend(root, rng), models.choose(rng)

        def join(node: Node[Arms], model: str, trace: Trace, score: float) -> None:
            models.learn(model, score)
            learn(node, Node(Arms(prior, prior, prior), trace, score, node))

        yield from TreeSearch(
            Request(depth=self.depth), self.verifier, self.n, self.parallel, place, join
        )(problem.prompt)


class Thompson:
    """Chooses among models by a draw from what is believed of each."""

    def __init__(self, models: Sequence[str], prior: Posterior) -> None:
        """Begin with the same belief about each."""
        self._beliefs = dict.fromkeys(models, prior)

    def choose(self, rng: random.Random) -> str:
        """Return the model with the largest draw."""
        return thompson(list(self._beliefs.items()), rng)

    def learn(self, model: str, score: float) -> None:
        """Take the score of an attempt of this model."""
        self._beliefs[model] = self._beliefs[model].updated(score)


def descend(root: Node[Arms], rng: random.Random) -> Node[Arms]:
    """Return the node that gets a new child: from the root on, GEN or CONT is drawn, then a child;
    a leaf always generates.
    """
    node = root
    while node.children:
        if thompson([(True, node.arms.gen), (False, node.arms.cont)], rng):
            break
        node = thompson([(child, child.arms.own) for child in node.children], rng)
    return node


def learn(parent: Node[Arms], child: Node[Arms]) -> None:
    """Add a scored child: its parent's GEN and its own arm learn its score, and so do the own arm
    and the CONT above of every ancestor.
    """
    score = child.score
    parent.children.append(child)
    parent.arms.gen = parent.arms.gen.updated(score)
    child.arms.own = child.arms.own.updated(score)
    node = parent
    while node.parent is not None:
        node.arms.own = node.arms.own.updated(score)
        node.parent.arms.cont = node.parent.arms.cont.updated(score)
        node = node.parent


def thompson(arms: Sequence[tuple[T, Posterior]], rng: random.Random) -> T:
    """Return the arm with the largest draw; a single arm is taken without one."""
    if len(arms) == 1:
        return arms[0][0]
    draws = [posterior.draw(rng) for _, posterior in arms]
    return arms[draws.index(max(draws))][0]
