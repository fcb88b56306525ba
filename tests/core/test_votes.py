"""Votes: who may vote, how weights add up, and how ties are broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.types import Answer, Cluster, Finish, Purpose
from orchestrator.core.votes import rank, tally, tied, voters
from orchestrator.testing import pool, trace

pools = st.lists(st.sampled_from("ABC-!"), max_size=20).map(lambda words: pool(" ".join(words)))


def shape(clusters: list[Cluster]) -> list[tuple[str, float, tuple[int, ...]]]:
    return [(c.answer.key, c.weight, c.ordinals) for c in clusters]


def test_a_plain_tally_counts() -> None:
    """One trace, one vote; abstaining and failed traces have none."""
    assert shape(tally(pool("A B A - ! A B"))) == [("A", 3.0, (0, 2, 5)), ("B", 2.0, (1, 6))]


def test_weight_comes_before_count_before_the_lowest_ordinal() -> None:
    """The tie rule, a step at a time."""
    answer = Answer("x", "x")
    heavy, many, early, late = (
        Cluster(answer, ordinals, weight) for ordinals, weight in (((9,), 3.0), ((4, 5, 6), 2.0), ((1, 8), 2.0), ((2, 3), 2.0))
    )
    assert rank([late, early, many, heavy]) == [heavy, many, early, late]
    assert tied([many, early])
    assert not tied([heavy, many])
    assert not tied([heavy])
    assert not tied([])


@given(pools, st.randoms(use_true_random=False))
def test_the_order_of_a_pool_changes_nothing(traces, shuffler) -> None:  # type: ignore[no-untyped-def]
    """Traces arrive in any order; the vote must not know it."""
    expected = tally(voters(traces), lambda t: 0.1 * (t.ordinal % 3))
    shuffled = list(traces)
    shuffler.shuffle(shuffled)
    assert tally(voters(shuffled), lambda t: 0.1 * (t.ordinal % 3)) == expected


@given(pools)
def test_every_vote_is_in_exactly_one_cluster(traces) -> None:  # type: ignore[no-untyped-def]
    """Clusters partition the voters, and a cluster's weight is the sum of its members'."""
    clusters = tally(traces, lambda t: float(t.ordinal))
    assert sorted(o for c in clusters for o in c.ordinals) == [t.ordinal for t in traces if t.answer]
    assert all(c.weight == sum(c.ordinals) and c.count == len(c.ordinals) for c in clusters)


def test_a_cluster_shows_the_wording_of_its_lowest_ordinal() -> None:
    """Equal keys are one class, whatever the wording; which wording is shown must not depend on arrival."""
    half, decimal = trace(1, "1/2"), trace(0, "0.5")
    half = replace(half, answer=Answer("1/2", "=1/2"))
    decimal = replace(decimal, answer=Answer("0.5", "=1/2"))
    assert [c.answer.text for c in tally([half, decimal])] == ["0.5"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, -1e-300])
def test_a_weight_that_cannot_be_summed_is_an_error(bad: float) -> None:
    """A NaN would silently win or lose every comparison."""
    with pytest.raises(ValueError, match=r"trace 0: a vote's weight must be finite and not negative"):
        tally(pool("A"), lambda t: bad)


@pytest.mark.parametrize("purpose", [Purpose.PROBE, Purpose.VERIFY, Purpose.JUDGE])
def test_only_attempts_vote(purpose: Purpose) -> None:
    """A probe repeats its parent's answer, a judgement is about another's: neither is an attempt."""
    assert voters([trace(0, "A", purpose=purpose)]) == []


def test_a_cut_trace_votes_if_it_stated_an_answer() -> None:
    """What was said counts, even if the trace was cancelled or truncated later; a failed one is not trusted."""
    said = [trace(i, "A", finish=finish) for i, finish in enumerate(Finish)]
    assert [t.finish for t in voters(said)] == [f for f in Finish if f is not Finish.FAILED]
    broken = replace(trace(0, "A"), finish=Finish.FAILED)
    assert voters([broken]) == []


def test_a_continued_trace_does_not_vote_beside_its_continuation() -> None:
    """The continuation's answer is read from the whole: counting both would give one attempt two votes."""
    assert [t.ordinal for t in voters([trace(0, "A"), trace(1, "B", parent=0), trace(2, "A")])] == [1, 2]
    assert [t.ordinal for t in voters([trace(0, "A"), trace(1, None, parent=0)])] == [], "it took its answer back"
    assert [t.ordinal for t in voters([trace(0, "A"), trace(1, "A", parent=0, purpose=Purpose.PROBE)])] == [0]


@pytest.mark.parametrize("finish", [Finish.FAILED, Finish.CANCELLED])
def test_a_continuation_that_was_cut_before_it_said_anything_takes_no_vote_away(finish: Finish) -> None:
    """Whether a continuation had begun when its problem was decided depends on the window: the vote must not."""
    assert [t.ordinal for t in voters([trace(0, "A"), trace(1, None, parent=0, finish=finish)])] == [0]
    assert [t.ordinal for t in voters([trace(0, "A"), trace(1, "A", parent=0, finish=Finish.CANCELLED)])] == [1]
