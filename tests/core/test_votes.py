"""Votes: which traces vote, how weights add up, and how ties are broken.

Results: status, accounts and the price of full sampling, from a finished pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.values import Answer, Cluster, Finish, Problem, Purpose, Status, Trace
from orchestrator.core.votes import (
    conclude,
    intermediate,
    mean_tokens,
    n_sampled,
    pruned,
    rank,
    tally,
    tied,
    usage_by_account,
    voters,
)
from orchestrator.testing import PROBLEM, pool, trace

pools = st.lists(st.sampled_from("ABC-!"), max_size=20).map(lambda words: pool(" ".join(words)))


def shape(clusters: list[Cluster]) -> list[tuple[str, float, tuple[int, ...]]]:
    return [(c.answer.key, c.weight, c.ordinals) for c in clusters]


def test_a_plain_tally_counts() -> None:
    """Each trace has one vote; abstaining and failed traces have none."""
    assert shape(tally(pool("A B A - ! A B"))) == [("A", 3.0, (0, 2, 5)), ("B", 2.0, (1, 6))]


def test_weight_comes_before_count_before_the_lowest_ordinal() -> None:
    """Tests the tie rule one step at a time."""
    answer = Answer("x", "x")
    heavy, many, early, late = (
        Cluster(answer, ordinals, weight)
        for ordinals, weight in (((9,), 3.0), ((4, 5, 6), 2.0), ((1, 8), 2.0), ((2, 3), 2.0))
    )
    assert rank([late, early, many, heavy]) == [heavy, many, early, late]
    assert tied([many, early])
    assert not tied([heavy, many])
    assert not tied([heavy])
    assert not tied([])


@given(pools, st.randoms(use_true_random=False))
def test_the_order_of_a_pool_changes_nothing(traces, shuffler) -> None:  # type: ignore[no-untyped-def]
    """Traces arrive in any order, and the vote must not depend on it."""
    expected = tally(voters(traces), lambda t: 0.1 * (t.ordinal % 3))
    shuffled = list(traces)
    shuffler.shuffle(shuffled)
    assert tally(voters(shuffled), lambda t: 0.1 * (t.ordinal % 3)) == expected


@given(pools)
def test_every_vote_is_in_exactly_one_cluster(traces) -> None:  # type: ignore[no-untyped-def]
    """Clusters partition the voters, and a cluster's weight is the sum of its members'."""
    clusters = tally(traces, lambda t: float(t.ordinal))
    assert sorted(o for c in clusters for o in c.ordinals) == [
        t.ordinal for t in traces if t.answer
    ]
    assert all(c.weight == sum(c.ordinals) and c.count == len(c.ordinals) for c in clusters)


def test_a_cluster_shows_the_wording_of_its_lowest_ordinal() -> None:
    """Equal keys are one class, and the wording shown must not depend on the order of arrival."""
    half, decimal = trace(1, "1/2"), trace(0, "0.5")
    half = replace(half, answer=Answer("1/2", "=1/2"))
    decimal = replace(decimal, answer=Answer("0.5", "=1/2"))
    assert [c.answer.text for c in tally([half, decimal])] == ["0.5"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, -1e-300])
def test_a_weight_that_cannot_be_summed_is_an_error(bad: float) -> None:
    """A NaN would silently win or lose every comparison."""
    with pytest.raises(
        ValueError, match=r"trace 0: a vote's weight must be finite and not negative"
    ):
        tally(pool("A"), lambda t: bad)


@pytest.mark.parametrize("purpose", [Purpose.PROBE, Purpose.VERIFY, Purpose.COMPARE])
def test_only_attempts_vote(purpose: Purpose) -> None:
    """A probe repeats its parent's answer and a verdict judges another's: neither is an attempt."""
    assert voters([trace(0, "A", purpose=purpose)]) == []


def test_a_cut_trace_votes_if_it_stated_an_answer() -> None:
    """An answer counts even if its trace was later cancelled or truncated, but not if it failed."""
    said = [trace(i, "A", finish=finish) for i, finish in enumerate(Finish)]
    assert [t.finish for t in voters(said)] == [f for f in Finish if f is not Finish.FAILED]
    broken = replace(trace(0, "A"), finish=Finish.FAILED)
    assert voters([broken]) == []


def test_a_continued_trace_does_not_vote_beside_its_continuation() -> None:
    """The continuation's answer is read from the whole attempt, which must not have two votes."""
    assert [t.ordinal for t in voters([trace(0, "A"), trace(1, "B", parent=0), trace(2, "A")])] == [
        1,
        2,
    ]
    assert [t.ordinal for t in voters([trace(0, "A"), trace(1, None, parent=0)])] == [], (
        "it took its answer back"
    )
    assert [
        t.ordinal for t in voters([trace(0, "A"), trace(1, "A", parent=0, purpose=Purpose.PROBE)])
    ] == [0]


@pytest.mark.parametrize("finish", [Finish.FAILED, Finish.CANCELLED])
def test_a_continuation_that_was_cut_before_it_said_anything_takes_no_vote_away(
    finish: Finish,
) -> None:
    """The vote must not depend on whether a continuation had begun when its problem was decided.

    That depends on the window.
    """
    assert [
        t.ordinal for t in voters([trace(0, "A"), trace(1, None, parent=0, finish=finish)])
    ] == [0]
    assert [
        t.ordinal for t in voters([trace(0, "A"), trace(1, "A", parent=0, finish=Finish.CANCELLED)])
    ] == [1]


def majority(traces: Sequence[Trace]) -> list[Cluster]:
    return tally(voters(traces))


def test_a_vote_is_an_answer() -> None:
    """The leading cluster is the answer; counts are taken from the pool."""
    traces = [*pool("A B A !"), trace(4, None, finish=Finish.CANCELLED)]
    result = conclude(
        replace(PROBLEM, tags='{"k": 1}'),
        traces,
        majority,
        n_planned=8,
        stopped_by="tokens",
        seconds=2.5,
        fingerprint="f",
    )
    assert (result.status, result.answer and result.answer.key) == (Status.ANSWERED, "A")
    assert (result.n_traces, result.n_failed, result.n_cancelled) == (5, 1, 1)
    assert (result.stopped_by, result.seconds, result.fingerprint, result.tags) == (
        "tokens",
        2.5,
        "f",
        '{"k": 1}',
    )
    assert result.full_tokens == 70.0, "7 attempts at the mean of 10 tokens: one failed"
    assert result.attempts == {"voted": 3, "failed": 1, "cancelled": 1}
    assert not result.tied


def test_nobody_said_anything() -> None:
    """Abstaining is an outcome, not an error, and so is an empty pool."""
    for traces in ([], pool("- -"), pool("- !")):
        result = conclude(PROBLEM, traces, majority)
        assert (result.status, result.answer, result.error) == (Status.ABSTAINED, None, "")


def test_every_trace_failed() -> None:
    """Then the problem failed, and the result reports the error."""
    result = conclude(PROBLEM, pool("! !"), majority)
    assert result.status is Status.FAILED
    assert "every trace failed" in result.error
    assert "failed on purpose" in result.error


def test_a_strategys_error_outweighs_its_votes() -> None:
    """An incomplete exploration has no answer, though its clusters are kept."""
    result = conclude(PROBLEM, pool("A A"), majority, error="boom")
    assert (result.status, result.answer, result.error) == (Status.FAILED, None, "boom")
    assert result.clusters


def test_a_tie_is_reported() -> None:
    """A leader that won only by the tie rule is reported."""
    assert conclude(PROBLEM, pool("A B"), majority).tied


def _raise(traces: Sequence[Trace]) -> list[Cluster]:
    raise RuntimeError("two\nlines")


@pytest.mark.parametrize(
    "nonsense", [_raise, lambda traces: None, lambda traces: ["A"], lambda traces: 5]
)
def test_a_selector_that_breaks_fails_its_problem_alone(nonsense: Any) -> None:
    """A plugin may raise or return anything: one row reports it in one line; the job continues."""
    result = conclude(PROBLEM, pool("A"), nonsense)
    assert result.status is Status.FAILED
    assert result.error
    assert "\n" not in result.error


def test_tokens_are_charged_to_purposes() -> None:
    """A cancelled attempt is charged to pruning; a cancelled probe stays a probe."""
    traces = [
        trace(0, "A", tokens=5),
        trace(1, None, tokens=7, finish=Finish.CANCELLED),
        trace(2, None, tokens=2, purpose=Purpose.PROBE, finish=Finish.CANCELLED),
        trace(3, "A", tokens=11),
    ]
    usage = usage_by_account(traces)
    assert {account: u.output_tokens for account, u in usage.items()} == {
        "solve": 16,
        "pruned": 7,
        "probe": 2,
    }
    assert sum(u.output_tokens for u in usage.values()) == sum(
        t.usage.output_tokens for t in traces
    ), "every token once"


def test_the_mean_is_over_whole_attempts() -> None:
    """A chain of continuations is one attempt; cancelled and failed traces and probes are not."""
    traces = [
        trace(0, None, tokens=4, finish=Finish.LENGTH),
        trace(1, "A", tokens=6, parent=0),
        trace(2, "A", tokens=20),
        trace(3, None, tokens=1, parent=2, purpose=Purpose.PROBE),
        trace(4, None, tokens=99, finish=Finish.CANCELLED),
        trace(5, tokens=99, finish=Finish.FAILED),
    ]
    assert mean_tokens(traces) == (10 + 20) / 2
    assert mean_tokens(traces[4:]) is None
    assert mean_tokens([]) is None


def cut_on_the_way() -> list[Trace]:
    """Attempts that were cut: by a rule, by length with a probe, and with a last answer.

    Two others ended, one with a probe and one without.
    """
    return [
        trace(0, "A", tokens=3, finish=Finish.RULE),
        trace(1, None, tokens=4, finish=Finish.LENGTH),
        trace(2, "A", tokens=1, parent=1, purpose=Purpose.PROBE),
        trace(3, None, tokens=5, finish=Finish.LENGTH),
        trace(4, "B", tokens=1, parent=3, purpose=Purpose.AGGREGATE),
        trace(5, "A", tokens=20),
        trace(6, "A", tokens=1, parent=5, purpose=Purpose.PROBE),
        trace(7, None, tokens=40, finish=Finish.LENGTH),
    ]


def test_an_attempt_cut_on_the_way_prices_nothing() -> None:
    """An attempt cut at a checkpoint has no full price; a trace at its limit is complete.

    It is complete only if it was not continued.
    """
    traces = cut_on_the_way()
    assert intermediate(traces) == {0, 1, 3}
    assert mean_tokens(traces) == (20 + 40) / 2
    assert mean_tokens(traces[:5]) is None
    assert (
        conclude(PROBLEM, traces, majority, n_planned=2, dropped={7: None}).full_tokens == 40.0
    ), "a dropped one neither"


def test_attempts_are_counted_by_their_beginnings() -> None:
    """Five attempts began; stretches, probes and last answers are not attempts."""
    stretches = [trace(8, None, parent=7, finish=Finish.LENGTH), trace(9, "A", parent=8)]
    result = conclude(PROBLEM, [*cut_on_the_way(), *stretches], majority, n_planned=5)
    assert (result.n_traces, result.n_attempts) == (10, 5)


def test_an_unknown_price_is_none_not_zero() -> None:
    """Savings against an unknown cost are unknown."""
    assert conclude(Problem("p", "?"), pool("A"), majority).full_tokens is None
    assert conclude(Problem("p", "?"), pool("! !"), majority, n_planned=4).full_tokens is None


def test_dropped_traces_are_charged_to_pruning_and_vote_for_their_heir_or_not_at_all() -> None:
    """A dropped trace votes for its heir, or not at all, and is charged to pruning.

    0 (A) is dropped; 1 and 2 leave their votes to 3, which was continued by 4 and so gives the
    answer of 4.
    """
    traces = [*pool("A A - -"), replace(trace(4, "B"), parent=3)]
    result = conclude(PROBLEM, traces, majority, dropped={0: None, 1: 3, 2: 3})
    assert [(c.answer.key, c.ordinals) for c in result.clusters] == [("B", (1, 2, 4))]
    assert result.usage[Purpose.PRUNED].output_tokens == 30
    assert (result.n_cancelled, result.dropped) == (0, {0: None, 1: 3, 2: 3})
    assert result.attempts == {"dropped": 3, "voted": 1}


def test_pruning_a_pool_again_changes_nothing() -> None:
    """A journal's pool is pruned both when it is read and when it is voted on.

    Failed traces keep their finish.
    """
    traces = [*pool("A ! B"), replace(trace(3, "C"), parent=2)]
    once = pruned(traces, {0: 2, 1: None})
    assert pruned(once, {0: 2, 1: None}) == once
    assert [t.finish for t in once] == [Finish.CANCELLED, Finish.FAILED, Finish.STOP, Finish.STOP]
    assert pruned(traces, {}) is traces


def test_a_sampled_attempt_is_a_chain_that_ended() -> None:
    """Stretches and probes are not attempts.

    A cancelled attempt did not end; one that failed or got a last answer did.
    """
    traces = [
        trace(0, None, finish=Finish.LENGTH),
        trace(1, None, finish=Finish.LENGTH, parent=0),
        trace(2, "A", parent=1),
        trace(3, "B", parent=1, purpose=Purpose.PROBE),
        trace(4, None, finish=Finish.CANCELLED),
        trace(5, None, finish=Finish.FAILED),
        trace(6, None),
        trace(7, "C", parent=6, purpose=Purpose.AGGREGATE),
    ]
    assert n_sampled(traces) == 3
    assert n_sampled([]) == 0
