"""AB-MCTS-A: adaptive branching tree search by Thompson sampling.

Inoue et al., arXiv 2503.04412; github.com/SakanaAI/treequest. The tree's nodes are attempts, scored
by a verifier; the root is the question. At each node the search either generates a new child
("wider") or moves to one of its children ("deeper"). It draws from the posteriors of the scores
that each option has produced so far: GEN against CONT, then child against child. A child of an
attempt is its revision. With several models, GEN also chooses the model, by a draw from the
posterior of all its scores or by UCB1.

Posteriors and updates are those of the released code (variant A with node aggregation, shared GEN
and CONT arms). Where we differ: up to `parallel` generations are in flight at a time and the tree
is updated as each arrives, where the released code works in batches; the revision prompt is ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, TypeAlias, TypeVar

from msgspec import Meta

from orchestrator.core.steps import Steps
from orchestrator.core.values import Problem, Prompt, Request, Trace
from orchestrator.kit.options import ModelPoolsOptions, PlannedAttempts, VerifierName
from orchestrator.kit.tree_search import Node, TreeSearch, Ucb1

A = TypeVar("A")
T = TypeVar("T")
Place: TypeAlias = Callable[[], tuple[Node[A], str]]
Join: TypeAlias = Callable[[Node[A], str, Trace, float], None]


class Posterior(Protocol):
    """A belief about the rewards of an arm."""

    def updated(self, reward: float) -> Posterior:
        """Return the belief after one more reward in [0, 1]."""

    def draw(self, rng: random.Random) -> float:
        """Return a draw of its mean reward."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Normal-inverse-chi-squared belief over a Gaussian's mean and variance.

    Its defaults are the released code's prior.
    """

    m: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    tau_squared: float = 0.1

    def updated(self, reward: float) -> Gaussian:
        """Return the belief after one more reward.

        Uses the batch formulas with n = 1; n such updates equal one with n.
        """
        kappa, nu = self.kappa + 1, self.nu + 1
        m = (self.kappa * self.m + reward) / kappa
        squares = self.nu * self.tau_squared + self.kappa * (self.m - reward) ** 2 / kappa
        return Gaussian(m, kappa, nu, squares / nu)

    def draw(self, rng: random.Random) -> float:
        """Return a mean from N(m, variance / kappa).

        The variance is drawn from InvGamma(nu / 2, nu tau^2 / 2).
        """
        variance = self.nu * self.tau_squared / 2 / max(rng.gammavariate(self.nu / 2, 1.0), 1e-300)
        return rng.gauss(self.m, math.sqrt(variance / self.kappa))


@dataclass(frozen=True, slots=True)
class Beta:
    """Beta belief over a mean in [0, 1], with Jeffreys' prior.

    A reward between 0 and 1 counts as that share of a success.
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
    """The beliefs about a node: new children, moving to a child, and its whole subtree."""

    gen: Posterior
    cont: Posterior
    own: Posterior


@dataclass(frozen=True, slots=True)
class AbMctsOptions(PlannedAttempts, ModelPoolsOptions):
    """How a tree grows, and how each new attempt's model is chosen, in both forms of AB-MCTS."""

    verifier: VerifierName
    n: Annotated[int, Meta(ge=1, description="Number of attempts in the tree.")] = 16
    parallel: Annotated[
        int, Meta(ge=1, description="Largest number of attempts that run at once.")
    ] = 4
    models: Annotated[
        tuple[str, ...],
        Meta(
            description="Model pools of the plan from which the search chooses for each attempt; "
            "empty for only the plan's first."
        ),
    ] = field(default=(), kw_only=True)
    choose: Annotated[
        Literal["thompson", "ucb"],
        Meta(
            description='How a model is chosen: "thompson" draws from the beliefs about each, '
            '"ucb" uses the highest upper confidence bound (UCB1).'
        ),
    ] = "thompson"

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The verifier that provides the scores."""
        return (self.verifier,)

    @property
    def names(self) -> tuple[str, ...]:
        """The model pools among which it chooses; "" is the plan's first."""
        return self.models or ("",)

    def grow(self, prompt: Prompt, place: Place[A], join: Join[A]) -> Steps:
        """Grow a tree: `place` chooses the node of a new attempt, `join` adds it when scored."""
        request = Request(depth=self.depth)
        yield from TreeSearch(request, self.verifier, self.n, self.parallel, place, join)(prompt)


@dataclass(frozen=True, slots=True)
class AbMcts(AbMctsOptions):
    """Searches a tree of attempts and revisions; needs a verifier.

    At each node it decides by a draw from its beliefs whether to sample a new attempt or to revise
    one.
    """

    posterior: Annotated[
        Literal["gaussian", "beta"],
        Meta(description="Distribution of the beliefs about the scores of an arm."),
    ] = "gaussian"

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Descend the tree for each new attempt; update beliefs when an attempt arrives."""
        prior: Posterior = Gaussian() if self.posterior == "gaussian" else Beta()
        root = Node(Arms(prior, prior, prior))
        models = Ucb1(self.names) if self.choose == "ucb" else Thompson(self.names, prior)

        def place() -> tuple[Node[Arms], str]:
            return descend(root, rng), models.choose(rng)

        def join(node: Node[Arms], model: str, trace: Trace, score: float) -> None:
            models.learn(model, score)
            learn(node, Node(Arms(prior, prior, prior), trace, score, node))

        yield from self.grow(problem.prompt, place, join)


class Thompson:
    """Chooses among models by a draw from the belief about each."""

    def __init__(self, models: Sequence[str], prior: Posterior) -> None:
        """Start with the same belief about each model."""
        self._beliefs = dict.fromkeys(models, prior)

    def choose(self, rng: random.Random) -> str:
        """Return the model with the largest draw."""
        return thompson(list(self._beliefs.items()), rng)

    def learn(self, model: str, score: float) -> None:
        """Update the belief with the score of an attempt by this model."""
        self._beliefs[model] = self._beliefs[model].updated(score)


def descend(root: Node[Arms], rng: random.Random) -> Node[Arms]:
    """Return the node that gets a new child.

    From the root on, GEN or CONT is drawn, then a child; a leaf always generates.
    """
    node = root
    while node.children:
        if thompson([(True, node.arms.gen), (False, node.arms.cont)], rng):
            break
        node = thompson([(child, child.arms.own) for child in node.children], rng)
    return node


def learn(parent: Node[Arms], child: Node[Arms]) -> None:
    """Add a scored child and update the beliefs along its path.

    Its parent's GEN and its own arm learn its score, and so do the own arm of every ancestor and
    the CONT above it.
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
    """Return the arm with the largest draw; a single arm is returned without a draw."""
    if len(arms) == 1:
        return arms[0][0]
    draws = [posterior.draw(rng) for _, posterior in arms]
    return arms[draws.index(max(draws))][0]
