"""Selectors by hand-computed cases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.protocols import Selector
from orchestrator.core.values import Cluster, Finish, Trace, Verdict
from orchestrator.testing import pool, trace
from strategies.selectors.by_score import Best, BestWeighted, Filtered, Weighted, score
from strategies.selectors.majority import Majority
from strategies.selectors.pessimistic import Pessimistic


def shape(clusters: list[Cluster]) -> list[tuple[str, float, tuple[int, ...]]]:
    return [(c.answer.key, c.weight, c.ordinals) for c in clusters]


def scored(words: str, *values: float) -> list[Trace]:
    return pool(words, metrics={"mean_confidence": values})


def test_majority_counts_and_breaks_ties_by_the_lowest_ordinal() -> None:
    """B and A have two each, B was first; abstaining and failed traces have no vote."""
    assert shape(Majority()(pool("B A - A ! B C"))) == [
        ("B", 2.0, (0, 5)),
        ("A", 2.0, (1, 3)),
        ("C", 1.0, (6,)),
    ]


def test_weighted_lets_few_confident_traces_outweigh_many() -> None:
    """A: 1 + 1 + 1 = 3 against B: 4.

    Plain majority would say A: no later line may overwrite the weights with counts.
    """
    assert shape(Weighted()(scored("A A A B", 1, 1, 1, 4))) == [
        ("B", 4.0, (3,)),
        ("A", 3.0, (0, 1, 2)),
    ]


def test_best_takes_the_highest_single_score() -> None:
    """A's best is 3, B's is 5, though A's sum is 9; the cluster's weight is the score that won."""
    assert shape(Best()(scored("A A A B C", 3, 3, 3, 5, 1))) == [
        ("B", 5.0, (3,)),
        ("A", 3.0, (0, 1, 2)),
        ("C", 1.0, (4,)),
    ]


def test_best_weighted_sums_and_shows_the_best_traces_wording() -> None:
    """Li et al.: sum of rewards per class, A 2 + 5 against B 6.

    The wording is that of the member with 5.
    """

    from orchestrator.core.values import Answer

    traces = scored("A B A", 2, 6, 5)
    traces[0] = replace(traces[0], answer=Answer("1/2", "A"))
    traces[2] = replace(traces[2], answer=Answer("0.5", "A"))
    clusters = BestWeighted()(traces)
    assert shape(clusters) == [("A", 7.0, (0, 2)), ("B", 6.0, (1,))]
    assert clusters[0].answer.text == "0.5"
    assert Weighted()(traces)[0].answer.text == "1/2", (
        "the plain weighted vote shows the lowest ordinal's"
    )


def test_filtered_keeps_the_top_share_then_votes_by_confidence() -> None:
    """Scores 1 to 10, keep .3.

    The 70th percentile is 1 + .7 x 9 = 7.3, so 8, 9 and 10 vote: B 9 + 10 against A 8.
    """
    traces = pool("A A A A A A A A B B", metrics={"m": range(1, 11)})
    traces = [_with(t, "bottom10_confidence", t.metrics["m"]) for t in traces]
    assert shape(Filtered(keep=0.3)(traces)) == [("B", 19.0, (8, 9)), ("A", 8.0, (7,))]
    assert shape(Filtered(keep=1.0)(traces))[0] == ("A", 36.0, tuple(range(8))), (
        "all of them: 1 + ... + 8 = 36 against 19"
    )


def _with(trace: Trace, name: str, value: float) -> Trace:

    return replace(trace, metrics={name: value})


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_trace_at_the_percentile_is_kept(percent: int) -> None:
    """101 scores 0 to 100: the (100 - p)th percentile is the score 100 - p itself, so p + 1 are
    kept, as `>=` in the released code.

    NumPy's 56th percentile of these is 56.00000000000001: rounding must not drop the trace at the
    threshold.
    """
    traces = [trace(i, "A", metrics={"bottom10_confidence": float(i)}) for i in range(101)]
    (cluster,) = Filtered(keep=percent / 100)(traces)
    assert cluster.count == percent + 1


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=40), st.sampled_from([0.1, 0.25, 0.5, 0.9])
)
def test_filtered_is_deepconfs_percentile_rule(values: list[int], keep: float) -> None:
    """conf >= percentile(conf, 100 - eta), linear interpolation; at least one trace stays."""
    traces = [
        trace(i, "A", metrics={"bottom10_confidence": float(v)}) for i, v in enumerate(values)
    ]
    (cluster,) = Filtered(keep=keep)(traces)
    threshold = np.percentile(values, 100 - 100 * keep)
    assert cluster.ordinals == tuple(i for i, v in enumerate(values) if v >= threshold - 1e-9)


def test_only_voters_set_the_percentile() -> None:
    """Traces without an answer are dropped first, as in the released code.

    Else they would shift the threshold.
    """
    traces = [
        trace(0, "A", metrics={"bottom10_confidence": 1.0}),
        trace(1, "B", metrics={"bottom10_confidence": 2.0}),
    ]
    silent = [trace(i, None, metrics={"bottom10_confidence": 9.0}) for i in range(2, 9)]
    assert Filtered(keep=0.5)([*traces, *silent]) == Filtered(keep=0.5)(traces)


def test_a_verdict_ranks_by_its_name() -> None:
    """`verdict:prm` reads that verifier's score alone, and asks the engine for no metric."""
    traces = pool("A B", verdicts={"prm": (0.2, 0.9), "other": (1.0, 0.0)})
    assert Weighted("verdict:prm")(traces)[0].answer.key == "B"
    assert Weighted("verdict:prm").metrics == ()
    assert Weighted("tail_confidence@512").metrics == ("tail_confidence@512",)


def test_log_probabilities_vote_as_probabilities() -> None:
    """exp(mean log-probability) is in (0, 1]: negative weights would turn the vote round."""
    traces = pool("A A B", metrics={"mean_logprob": (math.log(0.2), math.log(0.3), math.log(0.6))})
    assert [(c.answer.key, round(c.weight, 12)) for c in Weighted("mean_logprob")(traces)] == [
        ("B", 0.6),
        ("A", 0.5),
    ]


@pytest.mark.parametrize(
    "selector", [Weighted(), Best(), BestWeighted(), Filtered("mean_confidence")]
)
def test_a_voter_without_its_score_is_an_error(selector: Selector) -> None:
    """A default of 0 or 0.5 would decide votes without anybody knowing."""
    with pytest.raises(ValueError, match="trace 1 carries no 'mean_confidence'"):
        selector([trace(0, "A", metrics={"mean_confidence": 1.0}), trace(1, "B")])


@pytest.mark.parametrize("cls", [Weighted, Best, BestWeighted, Filtered, Pessimistic])
def test_a_voter_whose_judge_failed_is_left_out_unless_all_did(cls: type) -> None:
    """One hung judge of sixteen must not cost the problem, nor decide it: B leads although C's
    attempt was never verified.
    """
    verified = [
        replace(trace(i, key), verdicts=(Verdict("v", score),))
        for i, (key, score) in enumerate((("A", 0.2), ("B", 0.9)))
    ]
    unverified = [trace(2, "C"), trace(3, "C")]
    selector = cls(by="verdict:v")
    assert selector([*verified, *unverified])[0].answer.key == "B"
    with pytest.raises(ValueError, match="trace 2 carries no 'verdict:v'"):
        selector(unverified)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    "selector", [Weighted(), Best(), BestWeighted(), Filtered("mean_confidence")]
)
def test_a_score_that_cannot_be_ranked_is_an_error(selector: Selector, value: float) -> None:
    """NaN makes `max` and percentiles depend on order.

    A negative reward must be scaled by whoever made it.
    """
    with pytest.raises(ValueError, match="trace 0 carries mean_confidence"):
        selector(scored("A B", value, 1.0))


def test_who_does_not_vote_needs_no_score() -> None:
    """A failed or abstaining trace without metrics is no error."""
    silent = [trace(1), trace(2, finish=Finish.FAILED)]
    assert [
        c.count for c in Weighted()([trace(0, "A", metrics={"mean_confidence": 1.0}), *silent])
    ] == [1]


def test_the_last_verdict_of_a_verifier_counts() -> None:
    """A trace verified twice carries both; the later one knew more."""

    assert (
        score(replace(trace(0), verdicts=(Verdict("v", 0.1), Verdict("v", 0.7))), "verdict:v")
        == 0.7
    )
