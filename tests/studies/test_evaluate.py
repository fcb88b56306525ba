"""Evaluation: numbers that can be worked out by hand, and brute force where they cannot."""

from __future__ import annotations

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.plan import Plan
from orchestrator.core.values import (
    Answer,
    Cluster,
    Finish,
    Problem,
    Purpose,
    Result,
    Status,
    Trace,
    Usage,
)
from orchestrator.core.votes import reselected, tally
from orchestrator.jobs.finished import JobReader
from orchestrator.plan.execution import Execution
from orchestrator.studies import evaluate, scaling
from orchestrator.studies.estimates import (
    Estimate,
    mean_estimate,
    saved_estimate,
    share_estimate,
)
from orchestrator.studies.evaluate import savings
from orchestrator.studies.scaling import majority_at_k, pass_at_k
from orchestrator.studies.summary import evaluate_job
from strategies.selectors.majority import Majority


def answered(id: str, text: str = "4", **rest: object) -> Result:
    return Result(id, Status.ANSWERED, Answer(text, f"={text}"), **rest)  # type: ignore[arg-type]  # keywords of Result


def trace(ordinal: int, text: str | None = None, **rest: object) -> Trace:
    answer = None if text is None else Answer(text, f"={text}")
    return Trace(ordinal, answer=answer, usage=Usage(output_tokens=10), **rest)  # type: ignore[arg-type]  # keywords of Trace


async def same(domain: str, answer: str, reference: str) -> bool:
    """Compare as numbers do, in the domain `number` alone."""
    return Fraction(answer) == Fraction(reference) if domain == "number" else answer == reference


async def test_abstentions_and_failures_are_wrong_and_invalid_rows_do_not_count() -> None:
    results = [
        answered("right", "1/2"),
        answered("wrong", "5"),
        Result("abstained", Status.ABSTAINED),
        Result("failed", Status.FAILED, Answer("0.5", "=0.5")),
        Result("invalid", Status.INVALID),
        answered("unknown"),
        answered("text", "1/2"),
    ]
    references = dict.fromkeys(
        ("right", "wrong", "abstained", "failed", "invalid", "text", "absent"), ("0.5",)
    )
    domains = {r.problem_id: "number" for r in results} | {"text": "text"}
    correctness = await evaluate.score(results, references, domains, same)
    assert correctness == {
        "right": True,
        "wrong": False,
        "abstained": False,
        "failed": False,
        "text": False,
    }
    report = evaluate.report(results, correctness, 2.0)
    assert (report.n_results, report.n_without_reference, report.n_unreadable) == (7, 1, 0)
    report = evaluate.report(results, correctness, 2.0, ("unknown", "invalid", "absent"))
    assert (report.n_without_reference, report.n_unreadable) == (0, 1)
    assert report.n_by_status == {"answered": 4, "abstained": 1, "failed": 1, "invalid": 1}
    assert report.accuracy is not None
    assert (report.accuracy.value, report.accuracy.n) == (0.2, 5)
    assert report.savings is None


def test_accuracy_has_wilsons_interval() -> None:
    """Wilson 1927, z = 1.959964: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) for 15 of 20 is
    0.5313 to 0.8881.
    """
    found = share_estimate([i < 15 for i in range(20)])
    assert found is not None
    assert (found.value, found.n) == (0.75, 20)
    assert found.low == pytest.approx(0.531299, abs=1e-6)
    assert found.high == pytest.approx(0.888138, abs=1e-6)
    perfect = share_estimate([True])
    assert perfect is not None
    assert perfect.low == pytest.approx(1 / (1 + 1.959964**2), abs=1e-6)
    assert share_estimate([]) is None


@settings(deadline=None)  # the machine is shared
@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_attempt(
    n: int, data: st.DataObject
) -> None:
    n_right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations(range(n), k))
    assert pass_at_k(n, n_right, k) == pytest.approx(
        sum(min(s) < n_right for s in subsets) / len(subsets), abs=1e-12
    )


def test_pass_at_k_of_more_than_there_is_is_refused() -> None:
    for n, n_right, k in ((4, 2, 5), (4, 5, 2), (4, 2, 0)):
        with pytest.raises(ValueError, match="are needed"):
            pass_at_k(n, n_right, k)


def brute_majority(keys: Sequence[str | None], right: set[str], k: int) -> float:
    """Return the share of ordered draws whose vote, by the project's own tally and tie rule, is
    right.
    """
    draws = list(itertools.permutations(keys, k))
    votes = (tally([trace(i, key) for i, key in enumerate(draw)]) for draw in draws)
    return sum(bool(clusters) and clusters[0].answer.text in right for clusters in votes) / len(
        draws
    )


@settings(deadline=None)  # the machine is shared
@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=5),
    st.sets(st.sampled_from(["a", "b"])),
)
def test_maj_at_k_is_the_share_of_draws_whose_vote_is_right(
    keys: list[str | None], right: set[str]
) -> None:
    """All ordered draws, numbered anew, voted on by core.votes with its tie rule: what running the
    plan with k traces would give.
    """
    counts = Counter(key for key in keys if key is not None)
    ks = range(1, len(keys) + 1)
    expected = [brute_majority(keys, right, k) for k in ks]
    assert majority_at_k(counts, len(keys), right, ks) == pytest.approx(expected, abs=1e-12)


def test_maj_at_k_by_hand() -> None:
    """Of a, a, b two are drawn: {a, a} once, {a, b} twice with an even tie; so 1/3 + 2/3 · 1/2 =
    2/3. All three: a wins.
    """
    assert majority_at_k({"a": 2, "b": 1}, 3, {"a"}, [1, 2, 3]) == pytest.approx([2 / 3, 2 / 3, 1])
    assert majority_at_k({"b": 1}, 3, {"a"}, [1, 3]) == [0, 0]
    assert majority_at_k({}, 3, {"a"}, [2]) == [0]
    with pytest.raises(ValueError, match="1 <= k <= n"):
        majority_at_k({"a": 2}, 3, {"a"}, [4])


def test_maj_at_k_of_a_large_pool_is_drawn_and_says_how_exactly() -> None:
    """At 513 attempts it is drawn; the same shares at 512 are exact, and 5 standard errors are
    passed once in 10^6 times.
    """
    counts = {"a": 200, "b": 190, "c": 100}
    [exact], [drawn] = (majority_at_k(counts, n, {"a"}, [9]) for n in (512, 513))
    error = scaling.majority_error(counts, 513, {"a"}, 9)
    assert 0 < error < 0.5 / math.sqrt(20_000)
    assert scaling.majority_error(counts, 512, {"a"}, 9) == 0
    # one abstention more in 513 moves the share by less than 1/513 of itself
    assert abs(exact - drawn) < 5 * error + 1e-3


def test_every_answer_alike_wins_as_often_as_the_others() -> None:
    """A symmetric pool has one right answer in ten, less the draws that hold abstentions only."""
    counts = {str(i): 30 for i in range(10)}
    ks = [1, 7, 64, 300]
    expected = [(1 - math.comb(100, k) / math.comb(400, k)) / 10 for k in ks]
    assert majority_at_k(counts, 400, {"3"}, ks) == pytest.approx(expected, rel=1e-10)


def test_attempts_are_what_was_tried_independently_and_in_full() -> None:
    pool = [
        trace(3, "1"),
        trace(0, "1"),
        trace(1, None, finish=Finish.CANCELLED),
        trace(2, None, finish=Finish.FAILED),
        trace(4, "1", parent=3),
        trace(5, "1", purpose=Purpose.PROBE, parent=4),
    ]
    assert [t.ordinal for t in scaling.attempts(pool)] == [0, 2, 4]


def test_attempts_cut_on_the_way_were_not_tried_in_full() -> None:
    """0 ended by a rule, 1 was looked at and let go, 3 was asked for its answer: 4 is that attempt.

    5 is merged from others: none.
    """
    pool = [
        trace(0, "1", finish=Finish.RULE),
        trace(1, None, finish=Finish.LENGTH),
        trace(2, "1", parent=1, purpose=Purpose.PROBE),
        trace(3, None, finish=Finish.LENGTH),
        trace(4, "2", parent=3, purpose=Purpose.AGGREGATE),
        trace(5, "2", purpose=Purpose.AGGREGATE),
        trace(6, None, finish=Finish.LENGTH),
    ]
    assert [t.ordinal for t in scaling.attempts(pool)] == [4, 6]


async def test_a_scaling_curve_uses_the_problems_with_enough_attempts() -> None:
    pools = {
        "p": [trace(0, "1/2"), trace(1, "2/4"), trace(2, "3"), trace(3)],
        "q": [trace(0, "3"), trace(1, "4")],
        "no reference": [trace(0, "4")],
    }
    references, asked = {"p": ("0.5",), "q": ("7", "4"), "absent": ("1",)}, []

    async def counted(domain: str, answer: str, reference: str) -> bool:
        asked.append((answer, reference))
        return await same(domain, answer, reference)

    right = await evaluate.right_keys(pools, references, dict.fromkeys(pools, "number"), counted)
    assert right == {"p": {"=1/2", "=2/4"}, "q": {"=4"}}
    of_q = [("3", "7"), ("3", "4"), ("4", "7"), ("4", "4")]
    assert sorted(asked) == sorted([("1/2", "0.5"), ("2/4", "0.5"), ("3", "0.5"), *of_q])
    counts = [scaling.vote_counts(pools[id], keys) for id, keys in right.items()]
    points = {point.k: point for point in scaling.scaling(counts, [1, 2, 4, 5])}
    assert points.keys() == {1, 2, 4}
    assert points[1].pass_at_k.value == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert points[1].maj_at_k.value == pytest.approx(points[1].pass_at_k.value)
    assert points[2].pass_at_k.value == pytest.approx(((1 - 1 / 6) + 1) / 2)
    assert (points[1].pass_at_k.n, points[4].pass_at_k.n) == (2, 1)
    assert points[4].pass_at_k.low is None


def test_a_mean_has_an_interval_unless_the_data_cannot_give_one() -> None:
    assert mean_estimate([0.5]) == Estimate(0.5, None, None, 1)
    assert mean_estimate([1.0, 1.0, 1.0]) == Estimate(1.0, None, None, 3)
    found = mean_estimate([0.0, 1.0] * 50)
    assert found.low is not None
    assert found.high is not None
    # The bootstrap's standard error is 0.5 / √100 = 0.05, so 1.96 of them on each side; 0.01 is the
    # grain of a mean of 100 zeros and ones.
    assert found.low == pytest.approx(0.402, abs=0.02)
    assert found.high == pytest.approx(0.598, abs=0.02)
    assert found == mean_estimate([0.0, 1.0] * 50)


def test_savings_are_ratios_of_totals_and_probes_count() -> None:
    """Traces: 1 - (4 + 16) / 32. Tokens: 1 - (40 + 10 + 160) / (160 + 160)."""
    results = [
        answered(
            "a",
            n_traces=4,
            n_planned=16,
            full_tokens=160.0,
            usage={"solve": Usage(0, 0, 40), "probe": Usage(0, 0, 10)},
        ),
        answered(
            "b", n_traces=16, n_planned=16, full_tokens=160.0, usage={"solve": Usage(0, 0, 160)}
        ),
        answered("c", n_traces=4),
    ]
    found = savings(results)
    assert found is not None
    assert (found.traces.value, found.traces.n) == (1 - 20 / 32, 2)
    assert found.tokens.value == pytest.approx(1 - 210 / 320)
    # both problems may be resampled to the one or the other
    assert (found.traces.low, found.traces.high) == (0, 0.75)
    assert savings([answered("c")]) is None
    chains = savings([answered("a", n_traces=62, n_attempts=6, n_planned=8, full_tokens=80.0)])
    assert chains is not None
    assert chains.traces.value == 0.25, "stretches and probes are no attempts"
    overspent = savings(
        [answered("a", n_traces=3, n_planned=2, full_tokens=20.0, usage={"solve": Usage(0, 0, 30)})]
    )
    assert overspent is not None
    assert overspent.tokens == Estimate(-0.5, None, None, 1)


def test_a_report_adds_up() -> None:
    results = [
        answered(
            "a",
            usage={"solve": Usage(1, 0, 10), "pruned": Usage(0, 0, 2)},
            n_traces=3,
            attempts={"voted": 2, "cancelled": 1},
            tied=True,
            stopped_by="tokens",
        ),
        answered("b", usage={"solve": Usage(1, 1, 20)}, n_traces=2, attempts={"voted": 1}),
    ]
    report = evaluate.report(results, {}, 4.0)
    assert report.usage == {"solve": Usage(2, 1, 30), "pruned": Usage(0, 0, 2)}
    assert report.total == Usage(2, 1, 32)
    assert (report.n_traces, report.n_tied, report.n_scattered) == (5, 1, 0)
    assert report.attempts == {"voted": 3, "cancelled": 1}
    assert report.n_stopped_by == {"tokens": 1}
    assert (report.accuracy, report.n_without_reference) == (None, 2)


def test_a_finished_pool_is_voted_on_again_another_way() -> None:
    def last(traces: Sequence[Trace]) -> list[Cluster]:
        return tally(traces[-1:])

    pool = [trace(0, "1"), trace(1, "1"), trace(2, "2")]
    usage = {"solve": Usage(0, 0, 30)}
    result = answered("a", "1", n_planned=8, usage=usage, fingerprint="f", tags='{"x":1}')
    again = reselected(result, pool, last)
    assert again.answer == Answer("2", "=2")
    assert again.clusters == tuple(tally(pool[-1:]))
    unchanged = {n: getattr(result, n) for n in ("answer", "clusters", "attempts")}
    assert replace(again, **unchanged) == result
    failed = replace(result, status=Status.FAILED, answer=None, error="why")
    assert reselected(failed, pool, last) == again
    assert reselected(result, [trace(0)], last).status is Status.ABSTAINED


def test_intervals_of_many_problems_are_those_of_resampling_each() -> None:
    """Drawing how often each kind of problem occurs, or the normal interval where all differ, is
    the same up to the resampling's own randomness.

    The end of a percentile interval over 9999 resamples has a standard error of about 0.03 of the
    standard error of the mean; the tolerance is 5 of these.
    """
    rng = np.random.default_rng(1)
    few, many = rng.integers(0, 4, 20_000) / 3, rng.exponential(size=20_000)
    for values in (few, many):
        error = values.std() / np.sqrt(len(values))
        estimate = mean_estimate(list(values))
        assert estimate.value == pytest.approx(values.mean())
        assert estimate.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
        assert estimate.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    used = few * 3 + 1
    saved = saved_estimate([(float(u), 8.0) for u in used])
    assert saved.value == pytest.approx(1 - used.mean() / 8)
    error = used.std() / 8 / np.sqrt(len(used))
    assert saved.low == pytest.approx(saved.value - 1.96 * error, abs=0.15 * error)


def test_a_rare_failure_keeps_its_interval_within_bounds() -> None:
    """Where one problem in 20,000 differs, an interval does not reach beyond what can be."""
    estimate = mean_estimate([1.0] * 19_999 + [0.0])
    assert estimate.low is not None
    assert estimate.low < estimate.value < 1.0 == estimate.high


def test_a_problem_holds_no_reference() -> None:
    """The one rule of this module: it alone reads references."""
    assert not {"answer", "reference"} & set(Problem.__dataclass_fields__)


def test_a_job_is_evaluated_without_holding_its_pools() -> None:
    """Its traces may be more than the memory: of those that were added, only numbers are kept."""

    class Pool(list[Trace]):
        __hash__ = object.__hash__

    pools: weakref.WeakSet[Pool] = weakref.WeakSet()

    class Reader:
        plan = Plan(domain="number")

        def contents(self, ids: Iterable[str]) -> Iterator[tuple[str, Result, Pool, Pool]]:
            for id in ids:
                assert len(pools) <= 2 * 64
                pool = Pool([trace(0, "4"), trace(1, id)])
                pools.add(pool)
                yield id, answered(id), pool, pool

    ids = [str(i) for i in range(300)]
    found = evaluate_job(
        cast("JobReader", Reader()),
        {"majority": Majority()},
        dict.fromkeys(ids, ("4",)),
        dict.fromkeys(ids, "number"),
        Execution(),
    )
    assert found.n_traces == 600
    assert found.right(None) == dict.fromkeys(ids, True)
    assert not any(result.clusters or result.answer for result in found.results(None))
    [ranking] = found.rankings(None, ())
    assert (ranking.n_other, ranking.report.n_tied) == (0, 299)
    assert [(p.k, round(p.pass_at_k.value, 3)) for p in found.curve(None, ())] == [
        (1, 0.502),
        (2, 1.0),
    ]
