"""AB-MCTS-M: adaptive branching tree search with a mixed model.

Inoue et al., arXiv 2503.04412; github.com/SakanaAI/treequest. As AB-MCTS-A, but at each node one
model explains all scores below it: score j below child c is N(alpha_c, sigma_y), and alpha_c = mu +
sigma_alpha z_c, z_c ~ N(0, 1). A new child is one more group. Each child and the new one get a draw
from their posterior predictive, and the largest wins: the search moves to that child, or generates
a new one here. A child below which the scores hardly differ any more is pruned. Priors and pruning
rule are those of the released code.

Where we differ: the released code samples the posterior by NUTS (numpyro). Given both sigmas,
everything else is normal and in closed form. So here the posterior of the two sigmas is computed on
a grid, and the rest is drawn exactly. Prompts and arrivals are as in AB-MCTS-A.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from orchestrator.core.steps import Steps
from orchestrator.core.values import Problem, Trace
from orchestrator.kit.tree_search import Node, Ucb1
from strategies.search.ab_mcts import AbMctsOptions

# mu ~ N(0.5, 0.2); these and the next two are the released code's priors, as standard deviations
MEAN, SPREAD = (0.5, 0.2)
SCALE_ALPHA, SCALE_Y = 0.2, 0.3  # sigma_alpha ~ HalfNormal(0.2), sigma_y ~ HalfNormal(0.3)
# In units of the prior's scale, in steps of 11 %. It must end above 0: scores that repeat exactly
# have an infinite density at sigma_y = 0.
_GRID = np.geomspace(1 / 200, 4, 64)
# each cell's sigmas
_ALPHA, _Y = (
    axis.ravel() for axis in np.meshgrid(SCALE_ALPHA * _GRID, SCALE_Y * _GRID, indexing="ij")
)
_LOG_Y = np.log(_Y)
# Half-normal priors; on a logarithmic grid a cell is as wide as its sigma.
_LOG_PRIOR = np.log(_ALPHA) + _LOG_Y - _ALPHA**2 / (2 * SCALE_ALPHA**2) - _Y**2 / (2 * SCALE_Y**2)


@dataclass(frozen=True, slots=True)
class AbMctsM(AbMctsOptions):
    """Searches like `ab-mcts`, with one mixed model of all scores below a node.

    Children are compared by all scores below them, where `ab-mcts` has a separate belief for each
    arm. With "thompson" the mixed model also compares the models, with one group for each.
    """

    prune_size: Annotated[
        int,
        Meta(
            ge=1,
            description="Number of scores below a child, its own included, from which on it may be "
            "pruned.",
        ),
    ] = 4
    prune_share: Annotated[
        float,
        Meta(
            gt=0,
            description="Share of these scores that must be equal to two digits for the child to "
            "be pruned; above 1 never prunes.",
        ),
    ] = 0.75

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Descend the tree for each new attempt; beliefs are computed from the scores on demand."""
        root: Node[None] = Node(None)
        models = Ucb1(self.names) if self.choose == "ucb" else MixedChoice(self.names)

        def place() -> tuple[Node[None], str]:
            return self._descend(root, rng), models.choose(rng)

        def join(node: Node[None], model: str, trace: Trace, score: float) -> None:
            models.learn(model, score)
            node.children.append(Node(None, trace, score, node))

        yield from self.grow(problem.prompt, place, join)

    def _descend(self, root: Node[None], rng: random.Random) -> Node[None]:
        node = root
        while node.children:
            chosen = self.chosen(
                [[n.score for n in child.subtree()] for child in node.children], rng
            )
            if chosen is None:
                break
            node = node.children[chosen]
        return node

    def chosen(self, scores: Sequence[Sequence[float]], rng: random.Random) -> int | None:
        """Return the child to descend to, given the scores below each, or None for a new one.

        As in the released code, a draw that selects a pruned child is passed to the best of the
        others, or to a new child if all are pruned.
        """
        *children, new = posterior(scores).draws(rng, n_new=1)
        if new >= max(children):
            return None
        living = [i for i, below in enumerate(scores) if not self._pruned(below)]
        return max(living, key=lambda i: children[i], default=None)

    def _pruned(self, scores: Sequence[float]) -> bool:
        n_equal = max(Counter(round(100 * s) for s in scores).values())
        return len(scores) >= self.prune_size and n_equal >= self.prune_share * len(scores)


class MixedChoice:
    """Chooses among models by the mixed model over all scores of each."""

    def __init__(self, models: Sequence[str]) -> None:
        """Start without scores."""
        self._scores: dict[str, list[float]] = {model: [] for model in models}

    def choose(self, rng: random.Random) -> str:
        """Return the model with the largest draw; a model without scores is a new group."""
        if len(self._scores) == 1:
            return next(iter(self._scores))
        known = [model for model, scores in self._scores.items() if scores]
        new = [model for model, scores in self._scores.items() if not scores]
        draws = posterior([self._scores[m] for m in known]).draws(rng, n_new=len(new))
        return max(zip(draws, known + new, strict=True), key=lambda pair: pair[0])[1]

    def learn(self, model: str, score: float) -> None:
        """Record the score of an attempt by this model."""
        self._scores[model].append(score)


@dataclass(frozen=True, slots=True, eq=False)
class MixedPosterior:
    """The mixed model given the scores of groups.

    The two sigmas are on a grid, mu and the alphas in closed form for each of its cells.
    """

    n: Sequence[int]  # scores per group
    means: Sequence[float]  # of each group
    cumulated: Any  # (n_cells,): cumulative probabilities of the cells
    mu_mean: Any  # (n_cells,): mu is normal, given the sigmas
    mu_sigma: Any  # (n_cells,)

    def draws(self, rng: random.Random, n_new: int) -> list[float]:
        """Return a draw of a new score in each group, and in `n_new` groups without scores.

        The draws are independent, as in the released code.
        """
        return [
            self._draw(rng, n, mean)
            for n, mean in zip((*self.n, *[0] * n_new), (*self.means, *[0.0] * n_new), strict=True)
        ]

    def _draw(self, rng: random.Random, n: int, mean: float) -> float:
        cell = min(
            int(np.searchsorted(self.cumulated, rng.random(), side="right")),
            len(self.cumulated) - 1,
        )
        sigma_alpha, sigma_y = float(_ALPHA[cell]), float(_Y[cell])
        mu = rng.gauss(float(self.mu_mean[cell]), float(self.mu_sigma[cell]))
        precision = 1 / sigma_alpha**2 + n / sigma_y**2
        alpha = rng.gauss(
            (mu / sigma_alpha**2 + n * mean / sigma_y**2) / precision, precision**-0.5
        )
        return rng.gauss(alpha, sigma_y)


def posterior(groups: Sequence[Sequence[float]]) -> MixedPosterior:
    """Return the mixed model's posterior given the scores of each group.

    No group is empty, but there may be none.
    """
    n = np.array([len(g) for g in groups], dtype=float)
    means = np.array([math.fsum(g) / len(g) for g in groups])
    within = math.fsum((y - m) ** 2 for g, m in zip(groups, means, strict=True) for y in g)
    # The mean of group c is N(mu, v_c); deviations from group means depend on sigma_y alone; mu is
    # integrated out.
    v = _ALPHA[:, None] ** 2 + _Y[:, None] ** 2 / n
    precision = SPREAD**-2 + (1 / v).sum(axis=1)
    mu_mean = (MEAN / SPREAD**2 + (means / v).sum(axis=1)) / precision
    squares = MEAN**2 / SPREAD**2 + (means**2 / v).sum(axis=1) - precision * mu_mean**2
    log = (
        _LOG_PRIOR
        - (n.sum() - len(n)) * _LOG_Y
        - within / (2 * _Y**2)
        - 0.5 * (np.log(v).sum(axis=1) + np.log(precision) + squares)
    )
    cumulated = np.cumsum(np.exp(log - log.max()))
    return MixedPosterior(
        [len(g) for g in groups],
        means.tolist(),
        cumulated / cumulated[-1],
        mu_mean,
        precision**-0.5,
    )
