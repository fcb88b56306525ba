"""Depth ensembles: what a vote weighs, by the depth of its trace."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.values import Trace
from orchestrator.testing import trace
from strategies.selectors.depth_weighted import DepthWeighted


def at_depths(votes: str) -> list[Trace]:
    """Traces from "A1 B8": an answer and its depth, 0 for none stated."""
    return [
        replace(trace(i, word[0]), depth=int(word[1:]) or None)
        for i, word in enumerate(votes.split())
    ]


def leaders(selector: DepthWeighted, votes: str) -> list[str]:
    return [cluster.answer.key for cluster in selector(at_depths(votes))]


def test_without_weights_shallow_votes_never_outvote_a_deep_one() -> None:
    assert leaders(DepthWeighted(), "A1 A1 A1 A2 A2 B8") == ["B", "A"]
    assert leaders(DepthWeighted(), "A0 A0 B1") == ["B", "A"]


def test_without_weights_shallow_votes_break_ties_of_the_deepest() -> None:
    """Weight first, then count: B and C have one deep vote each, and C two in all.

    A abstaining deep trace is no vote.
    """
    assert leaders(DepthWeighted(), "A1 A1 C1 B8 C8") == ["C", "B", "A"]


def test_weights_add_up_by_depth() -> None:
    """Three votes at 0.5 against one at 2; five at 0.5 against one at 2."""
    selector = DepthWeighted((1, 8), (0.5, 2.0))
    assert leaders(selector, "A1 A1 A1 B8") == ["B", "A"]
    assert leaders(selector, "A1 A1 A1 A1 A1 B8") == ["A", "B"]


@given(
    st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from((1, 8))), min_size=1, max_size=12)
)
def test_log_odds_weights_name_the_most_probable_answer(votes: list[tuple[str, int]]) -> None:
    """Bayes over four answers, three of them wrong: P(votes | x) = prod a_d for votes on x, (1 -
    a_d) / 3 for the others.
    """
    accuracy = {1: 0.4, 8: 0.8}
    weights = tuple(math.log(accuracy[d] * 3 / (1 - accuracy[d])) for d in (1, 8))
    likelihood = {
        x: math.prod(accuracy[d] if word == x else (1 - accuracy[d]) / 3 for word, d in votes)
        for x in "ABCD"
    }
    leader = leaders(DepthWeighted((1, 8), weights), " ".join(f"{word}{d}" for word, d in votes))[0]
    assert likelihood[leader] == pytest.approx(max(likelihood.values()))


def test_a_depth_without_a_weight_is_an_error_that_names_the_trace() -> None:
    with pytest.raises(
        ValueError, match=r"trace 1 has depth 4, and weights are given for \[1, 8\]"
    ):
        leaders(DepthWeighted((1, 8), (1.0, 2.0)), "A1 A4")
