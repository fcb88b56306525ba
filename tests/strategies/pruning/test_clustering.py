"""Clustering: DeepPrune's equations on worked cases, and what holds in any order of arrival."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.pruning.deepprune import cluster_for, largest, mean_similarity

Same = Callable[[str, str], float]


def clusters(
    order: Sequence[str],
    same: Same,
    tau: float = 0.5,
    limit: int = 32,
    when_full: Literal["join", "leave"] = "join",
) -> list[list[str]]:
    """What the algorithm makes of an order of arrival when every member is compared with."""
    found: list[list[str]] = []
    for newcomer in order:
        place = cluster_for(
            [mean_similarity([same(newcomer, m) for m in members]) for members in found],
            tau,
            limit,
            when_full,
        )
        if place == len(found):
            found.append([newcomer])
        elif place is not None:
            found[place].append(newcomer)
    return found


def by_table(**table: float) -> Same:
    return lambda a, b: table["".join(sorted((a, b)))]


def test_a_newcomer_joins_the_cluster_of_the_highest_mean_above_tau() -> None:
    """b is like a (.6 > .5): {a, b}. c is like neither (.5 is not above .5): alone. d.

    Mean of .9 and .3 = .6 beats .55: {a, b, d}.
    """
    same = by_table(ab=0.6, ac=0.5, bc=0.5, ad=0.9, bd=0.3, cd=0.55)
    assert clusters("abcd", same) == [["a", "b", "d"], ["c"]]


def test_the_order_of_arrival_matters_where_likeness_is_not_transitive() -> None:
    """a-b .9, b-c .9, a-c 0: in order a, b, c, the mean of c is .45: alone.

    In order a, c, b, b is as near to both and joins the older.
    """
    same = by_table(ab=0.9, bc=0.9, ac=0.0)
    assert clusters("abc", same) == [["a", "b"], ["c"]]
    assert clusters("acb", same) == [["a", "b"], ["c"]]
    assert clusters("cba", same) == [["c", "b"], ["a"]]


def test_equally_similar_clusters_leave_the_older_one_first() -> None:
    assert clusters("abc", by_table(ab=0.0, ac=0.8, bc=0.8)) == [["a", "c"], ["b"]]


@pytest.mark.parametrize(
    ("when_full", "expected"), [("join", [["a", "c"], ["b"]]), ("leave", [["a"], ["b"]])]
)
def test_when_k_clusters_exist_a_stranger_joins_the_nearest_or_leaves(
    when_full: Literal["join", "leave"], expected: list[list[str]]
) -> None:
    """K = 2. c is nearest to a (.3), below tau."""
    assert (
        clusters("abc", by_table(ab=0.0, ac=0.3, bc=0.2), limit=2, when_full=when_full) == expected
    )


def test_what_a_judge_cannot_tell_is_left_out_of_the_mean() -> None:
    """Of three members it knows two: (1 + .5) / 2. Of none: nothing speaks for the same answer."""
    assert mean_similarity([1.0, None, 0.5]) == 0.75
    assert mean_similarity([None, None]) == 0.0


answers = st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=24)


@given(answers)
def test_a_judge_that_is_always_right_finds_the_answers_in_any_order(order: list[str]) -> None:
    """One cluster an answer, all its traces in it, clusters in order of first arrival.

    So the largest is the majority's.
    """
    found = clusters(order, lambda a, b: float(a == b))
    assert found == [[answer] * order.count(answer) for answer in dict.fromkeys(order)]
    first = largest([len(c) for c in found])
    assert first is not None
    assert len(found[first]) == max(Counter(order).values())


@given(answers, st.integers(1, 5), st.sampled_from(["join", "leave"]), st.randoms())
def test_clusters_never_outnumber_k_and_hold_everyone_or_those_that_came_in_time(
    order: list[str], limit: int, when_full: Literal["join", "leave"], rng: object
) -> None:
    found = clusters(order, lambda a, b: float(a == b), limit=limit, when_full=when_full)
    founders = list(dict.fromkeys(order))[:limit]
    kept = order if when_full == "join" else [a for a in order if a in founders]
    assert len(found) <= limit
    assert sorted(a for c in found for a in c) == sorted(kept)
    # Whoever's answer founded a cluster is in it: strangers may join, members never leave.
    assert all(
        members.count(answer) == order.count(answer)
        for answer, members in zip(founders, found, strict=True)
    )


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 6), st.data())
def test_a_leader_is_named_only_when_no_newcomer_can_change_it(
    sizes: list[int], n_out: int, data: st.DataObject
) -> None:
    """Whatever the newcomers do, the largest (the oldest among equals) is then the one that was
    named.
    """
    named = largest(sizes, n_out)
    grown = list(sizes)
    for _ in range(n_out):
        place = data.draw(st.integers(0, len(grown)))
        if place == len(grown):
            grown.append(0)
        grown[place] += 1
    last = largest(grown)
    assert last == max(range(len(grown)), key=lambda i: (grown[i], -i))
    assert named in (None, last)


def test_a_leader_is_named_as_soon_as_it_is_certain() -> None:
    """4 against 2 with 2 out: the younger one cannot pass.

    The older one would win the tie, so 4 against 2 is not enough there.
    """
    assert largest([4, 2], 2) == 0
    assert largest([2, 4], 2) is None
    assert largest([2, 4], 1) == 1
    assert largest([1], 1) == 0
    assert largest([]) is None
