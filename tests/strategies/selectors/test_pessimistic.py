"""Pessimistic verification: its formula by hand, its two limits, and what it is for.

It is for a right answer that few traces state.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.values import Cluster, Finish, Purpose, Trace
from orchestrator.testing import pool, trace
from strategies.selectors.majority import Majority
from strategies.selectors.pessimistic import Pessimistic


def verified(words: str, verdicts: list[list[int]]) -> list[Trace]:
    """A pool of candidates, and a judge's trace for each of their verdicts."""
    traces = pool(words)
    for subject, given_ones in enumerate(verdicts):
        for one in given_ones:
            made = trace(len(traces), purpose=Purpose.VERIFY)
            traces.append(
                replace(
                    made, text=f"Verdict: {'correct' if one else 'incorrect'}", subjects=(subject,)
                )
            )
    return traces


def weights(clusters: list[Cluster]) -> dict[str, float]:
    return {c.answer.key: c.weight for c in clusters}


def test_the_formula_by_hand() -> None:
    """N = 3, M = 2: A has verdicts 1 1 1 0 (r = .75, N_a M = 4), B 1 1 (r = 1, 2). alpha = .5, ln 6
    = 1.7918:

    A .75 - .8959/5 = .5708, B 1 - .8959/3 = .7014; plus alpha ln 6 = .8959: 1.4667 and 1.5973. At
    alpha = 3: A -.3251, B -.7918: A wins.
    """
    traces = verified("A A B", [[1, 1], [1, 0], [1, 1]])
    width = 0.5 * math.log(6)
    assert weights(Pessimistic(alpha=0.5)(traces)) == pytest.approx(
        {"B": 1 - width / 3 + width, "A": 0.75 - width / 5 + width}
    )
    assert Pessimistic(alpha=0.5)(traces)[0].answer.key == "B"
    assert Pessimistic(alpha=3.0)(traces)[0].answer.key == "A"


verdict_rows = st.lists(
    st.tuples(st.sampled_from("ABC"), st.lists(st.integers(0, 1), min_size=2, max_size=2)),
    min_size=1,
    max_size=12,
)


@given(verdict_rows)
def test_without_a_penalty_it_is_the_best_mean(rows: list[tuple[str, list[int]]]) -> None:
    """First limit, alpha = 0: reward-model best-of-n by answer."""
    traces = verified(" ".join(a for a, _ in rows), [v for _, v in rows])
    mean = {
        a: sum(sum(v) for b, v in rows if a == b) / sum(2 for b, _ in rows if a == b)
        for a, _ in rows
    }
    assert weights(Pessimistic(alpha=0.0)(traces)) == pytest.approx(mean)


@given(verdict_rows)
def test_with_a_large_penalty_it_is_the_majority_vote(rows: list[tuple[str, list[int]]]) -> None:
    """Second limit, alpha to infinity, M verdicts on each candidate.

    The largest N_a wins whatever the verdicts; they break its ties.
    """
    traces = verified(" ".join(a for a, _ in rows), [v for _, v in rows])
    ranked = Pessimistic(alpha=1e6)(traces)
    assert ranked[0].count == Majority()(traces)[0].count


def test_a_verifier_on_the_request_serves_as_well() -> None:
    """`by` names whose verdicts: one score a trace is the case M = 1."""
    traces = pool("A A B", verdicts={"v": (0.4, 0.5, 0.9)})
    assert weights(Pessimistic("verdict:v", 0.0)(traces)) == pytest.approx({"B": 0.9, "A": 0.45})


def test_what_nobody_judged_ranks_below_and_a_pool_without_verdicts_is_a_tie() -> None:
    """A budget may end before the judging.

    Then weights are equal, the count decides, and the result says that it was a tie.
    """
    assert weights(Pessimistic()(verified("A A B", [[], [], [0]]))) == {"B": 0.0, "A": 0.0}
    assert [(c.answer.key, c.weight) for c in Pessimistic()(pool("B A A"))] == [
        ("A", 0.0),
        ("B", 0.0),
    ]


def test_cancelled_and_unreadable_judges_do_not_count() -> None:
    """They are no verdicts, so they neither lower the mean nor the penalty."""
    traces = verified("A B", [[1], [1]])
    traces += [
        replace(traces[-1], ordinal=9, finish=Finish.CANCELLED),
        replace(traces[-1], ordinal=10, text="I am not sure."),
    ]
    assert weights(Pessimistic(alpha=1.0)(traces)) == pytest.approx(
        {a: 1 + math.log(2) / 2 for a in "AB"}
    )


def test_it_finds_what_is_right_though_rare_as_often_as_the_closed_form_says() -> None:
    """Truth R at .25, one wrong answer W at .75; a judge errs with .2 each way.

    N = 8, M = 4, alpha = .1.

    Given k right candidates, the sums of verdicts are Binomial(4k, .8) and Binomial(4(8 - k), .2):
    summing over k and both sums gives the exact accuracy. 800 simulated pools must lie within 4.9
    standard deviations of it (P(false alarm) < 1e-6), and majority far below.
    """
    n, m, alpha, p, err = 8, 4, 0.1, 0.25, 0.2
    exact = sum(_binomial(n, k, p) * _right_given(k, n, m, alpha, err) for k in range(n + 1))
    rng = random.Random(7)
    hits = majority = 0
    for _ in range(800):
        words = ["R" if rng.random() < p else "W" for _ in range(n)]
        traces = verified(
            " ".join(words),
            [[int((w == "R") != (rng.random() < err)) for _ in range(m)] for w in words],
        )
        hits += Pessimistic(alpha=alpha)(traces)[0].answer.key == "R"
        majority += Majority()(traces)[0].answer.key == "R"
    assert hits / 800 == pytest.approx(exact, abs=4.9 * math.sqrt(exact * (1 - exact) / 800))
    assert (exact > 0.85, majority / 800 < 0.2) == (True, True)


def _binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def _right_given(k: int, n: int, m: int, alpha: float, err: float) -> float:
    """P[R leads], given k right candidates.

    A tie in weight goes to the larger count (at equal counts R and W tie with the same sums).
    """
    if k in (0, n):
        return float(k == n)
    n_r, n_w = k * m, (n - k) * m
    total = 0.0
    for i in range(n_r + 1):
        for j in range(n_w + 1):
            width = alpha * math.log(n * m)
            lead = i / n_r - width / (n_r + 1) - (j / n_w - width / (n_w + 1))
            share = (
                1.0
                if lead > 1e-12
                else 0.0
                if lead < -1e-12
                else 0.5
                if n_r == n_w
                else float(n_r > n_w)
            )
            total += _binomial(n_r, i, 1 - err) * _binomial(n_w, j, err) * share
    return total
