"""The search over orders of layers, on rewards whose best order is known."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.studies.layers.mcts import (
    Order,
    SearchOptions,
    Trial,
    explore,
    front,
    neighbours,
    ucb,
)

SIX: Order = (0, 1, 2, 3, 4, 5)


def test_ucb_by_hand() -> None:
    """3 of 4 rewarded, 20 visits in all, 24 of 30 layers: 0.75 + 1.2 √(ln 20 / 4) − 0.5 × 0.8 =
    0.75 + 1.0385 − 0.4.
    """
    options = SearchOptions(60, exploration=1.2, length_penalty=0.5)
    assert math.isclose(
        ucb(3.0, 4, 20, 24 / 30, options), 0.75 + 1.2 * math.sqrt(math.log(20) / 4) - 0.4
    )
    assert round(ucb(3.0, 4, 20, 24 / 30, options), 3) == 1.388


def test_the_published_knobs_are_the_defaults() -> None:
    options = SearchOptions(60)
    assert (options.n_simulations, options.length_penalty, options.random_probability) == (
        200,
        5.0,
        0.1,
    )


def test_actions_skip_k_layers_or_repeat_k_layers_r_more_times() -> None:
    """Of three layers within five: skips of 1 and 2 layers; a layer once or twice more, two layers
    once more.
    """
    found = neighbours((0, 1, 2), 5)
    skips = {(1, 2), (0, 2), (0, 1), (2,), (0,)}
    once = {(0, 0, 1, 2), (0, 1, 1, 2), (0, 1, 2, 2)}
    twice = {(0, 0, 0, 1, 2), (0, 1, 1, 1, 2), (0, 1, 2, 2, 2)}
    pairs = {(0, 1, 0, 1, 2), (0, 1, 2, 1, 2)}
    assert set(found) == skips | once | twice | pairs
    assert len(found) == len(set(found))


def test_thirty_layers_have_all_the_actions_of_the_paper() -> None:
    """Places for a block of k: 31 − k.

    Skips: 30 + 29 + 28 + 27 = 114; repeats: 4 × 114, all different.
    """
    assert len(neighbours(tuple(range(30)), 60)) == 114 * 5


@given(st.lists(st.integers(0, 7), min_size=1, max_size=8), st.integers(1, 12))
def test_no_neighbour_is_empty_too_long_or_the_order_itself(layers: list[int], bound: int) -> None:
    order = tuple(layers)
    for other in neighbours(order, bound):
        assert other
        assert other != order
        assert len(other) < len(order) or len(other) <= bound


def likeness(best: Order, order: Order) -> float:
    """1 for the best order, less by a tenth for each place at which the two differ."""
    n = sum(a != b for a, b in zip(best, order, strict=False)) + abs(len(best) - len(order))
    return max(0.0, 1 - n / 10)


def test_it_finds_an_order_that_is_three_actions_away() -> None:
    """One of the 966 orders within three actions, within 300 simulations, whatever the seed."""
    best = (0, 0, 2, 3, 3)
    four = (0, 1, 2, 3)
    one = neighbours(four, 7)
    two = {order for first in one for order in neighbours(first, 7)}
    assert best not in {*one, *two}
    assert len({order for second in two for order in neighbours(second, 7)}) == 966
    for seed in range(5):
        visits = explore(
            four,
            SearchOptions(7, 300, length_penalty=0.0),
            lambda order: likeness(best, order),
            random.Random(seed),
        )
        assert max(visits, key=lambda v: v.reward) == Trial(best, 1.0), seed


def test_the_same_seed_is_the_same_search_and_another_seed_another() -> None:
    runs = [
        list(
            explore(
                SIX, SearchOptions(12, 50), lambda o: likeness((0, 1, 5), o), random.Random(seed)
            )
        )
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_each_order_is_asked_for_once_and_the_root_first() -> None:
    asked: list[Order] = []

    def reward(order: Order) -> float:
        asked.append(order)
        return 0.5

    visits = list(explore(SIX, SearchOptions(12, 100), reward, random.Random(0)))
    assert [v.order for v in visits] == asked
    assert len(set(asked)) == len(asked) == 101
    assert asked[0] == SIX


def test_a_space_that_is_exhausted_ends_the_search() -> None:
    """Two layers within two: (0, 1), (0), (1), and from the single ones (0, 0), (1, 1)."""
    visits = list(explore((0, 1), SearchOptions(2), lambda order: 0.0, random.Random(0)))
    assert {v.order for v in visits} == {(0, 1), (0,), (1,), (0, 0), (1, 1)}


def test_the_length_penalty_leads_to_shorter_orders() -> None:
    """With equal rewards only length separates children: the mean length falls as lambda rises."""
    ten = tuple(range(10))

    def mean_length(penalty: float) -> float:
        visits = list(
            explore(ten, SearchOptions(20, 200, penalty), lambda order: 1.0, random.Random(3))
        )
        return sum(len(v.order) for v in visits) / len(visits)

    assert mean_length(5.0) < mean_length(0.0)


def test_front_keeps_what_nothing_shorter_matches() -> None:
    visits = [
        Trial((0, 1, 2), 0.5),
        Trial((0, 1), 0.5),
        Trial((0,), 0.1),
        Trial((1, 2), 0.5),
        Trial((0, 1, 2, 3), 0.9),
        Trial((2,), 0.0),
    ]
    assert front(visits) == [Trial((0,), 0.1), Trial((0, 1), 0.5), Trial((0, 1, 2, 3), 0.9)]
    assert front([]) == []
