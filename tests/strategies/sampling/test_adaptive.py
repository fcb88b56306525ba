"""Adaptive sample counts against the published rules.

Exact values, stopping points, and expected cost by simulation.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.session import Abort, Session, Start
from orchestrator.core.values import Finish, Request
from orchestrator.core.votes import beta_confidence
from orchestrator.testing import PROBLEM, explore, trace
from strategies.sampling.adaptive import Adaptive, agreeing_window, bayes_factor


def n_taken(strategy: Adaptive, answers: str) -> int:
    """How many traces it takes when their answers come out like this, in order; `-` abstains."""
    it = explore(strategy, lambda r: None if answers[r.ordinal] == "-" else answers[r.ordinal])
    return sum(t.finish is Finish.STOP for t in it.traces.values())


# --- beta: Adaptive-Consistency, arXiv 2305.11860


@given(st.integers(0, 60), st.integers(0, 60))
def test_beta_confidence_is_the_beta_tail(first: int, second: int) -> None:
    """1 - I_{1/2}(v1 + 1, v2 + 1), as the released code integrates it.

    The binomial sum is exact to rounding.
    """
    assert beta_confidence(first, second) == pytest.approx(
        beta.sf(0.5, first + 1, second + 1), abs=1e-12
    )


@pytest.mark.parametrize(
    ("first", "second", "stops"), [(4, 0, True), (3, 0, False), (7, 2, False), (8, 2, True)]
)
def test_the_published_stopping_points_of_beta(first: int, second: int, stops: bool) -> None:
    """At 0.95: 4 unanimous (31/32 = .96875) stop, (7, 2) (.945) does not, (8, 2) (.967) does."""
    assert (beta_confidence(first, second) >= 0.95) == stops


def test_four_unanimous_are_exactly_31_of_32() -> None:
    """1 - 2^-5."""
    assert beta_confidence(4, 0) == 0.96875


@pytest.mark.parametrize(
    ("answers", "n"),
    [("AAAA", 4), ("ABBAAAAAAA", 10), ("A-A-AA", 6), ("AB" * 20, 40), ("-" * 40, 40)],
)
def test_sequential_beta_stops_where_the_paper_does(answers: str, n: int) -> None:
    """One at a time, never before and never after; abstaining traces cost but do not count.

    Default cap 40.
    """
    assert n_taken(Adaptive(wave=1, growth=1), answers) == n


# --- window: ESC, arXiv 2401.10480

ESC = Adaptive(n=40, rule="window", window=5, wave=5, growth=1)


@pytest.mark.parametrize(
    ("answers", "n"),
    [
        ("AAAAA", 5),
        ("AAAABBBBBB", 10),
        ("BAAAAABBBB" + "C" * 30, 15),
        ("AAAA-AAAAA", 10),
        ("AB" * 20, 40),
    ],
)
def test_esc_stops_after_the_first_window_that_agrees(answers: str, n: int) -> None:
    """Windows are 0-4, 5-9, ....

    Five equal answers across a border do not count, and an abstention spoils its window.
    """
    assert n_taken(ESC, answers) == n


def test_a_window_is_one_of_ordinals_not_of_arrivals() -> None:
    """Answers of different windows never make one, however they arrive."""
    assert not agreeing_window({0: "A", 1: "A", 5: "A", 6: "A", 7: "A"}, 5)
    assert agreeing_window({**dict.fromkeys(range(5, 10), "A"), 0: "B"}, 5)
    assert not agreeing_window({}, 5)


def test_esc_takes_as_many_samples_as_its_formula_says() -> None:
    """E = w (sum_{i=0}^{L/w-2} (i+1) Q (1-Q)^i + (1-Q)^{L/w-1} L/w), Q = sum p_a^w.

    p = (.8, .2), w = 5, L = 40: Q = .328, E = 14.61, standard deviation of one run 10.4, of the
    mean of 1500 runs .269. The tolerance of
    1.3 is 4.8 of those: P(false alarm) < 2e-6.
    """
    p, w, limit = (0.8, 0.2), 5, 40
    q = sum(x**w for x in p)
    n_windows = limit // w
    expected = w * (
        sum((i + 1) * q * (1 - q) ** i for i in range(n_windows - 1))
        + (1 - q) ** (n_windows - 1) * n_windows
    )
    rng = random.Random(1)
    taken = [n_taken(ESC, "".join(rng.choices("AB", p, k=limit))) for _ in range(1500)]
    assert sum(taken) / len(taken) == pytest.approx(expected, abs=1.3)


# --- bayes: Best-of-infinity, arXiv 2509.21091


@pytest.mark.parametrize(
    ("n", "factor"),
    [(1, 4.1), (2, 9.2), (3, 19.1), (4, 38.2), (5, 75.0), (6, 146), (7, 285), (8, 555)],
)
def test_the_published_unanimous_bayes_factors(n: int, factor: float) -> None:
    """Law of the released code, Dir(n + 1, 1.3).

    Two classes, so P is a Beta tail, BF = 2 P / (1 - P). To the digits stated.
    """
    assert bayes_factor([n]) == pytest.approx(factor, abs=0.05 if factor < 100 else 0.5)
    closed = beta.sf(0.5, n + 1, 1.3)
    assert bayes_factor([n]) == pytest.approx(2 * closed / beta.cdf(0.5, n + 1, 1.3), rel=1e-9)


@pytest.mark.parametrize(("threshold", "n"), [(10, 3), (30, 4), (100, 6), (300, 8)])
def test_unanimous_traces_stop_where_the_paper_does(threshold: float, n: int) -> None:
    """One at a time."""
    assert (
        n_taken(Adaptive(n=100, rule="bayes", bayes_factor=threshold, wave=1, growth=1), "A" * 100)
        == n
    )


@pytest.mark.parametrize("counts", [(3, 1), (5, 5), (4, 2, 1), (10, 3, 3, 1)])
def test_the_quadrature_agrees_with_the_sampling_of_the_released_code(
    counts: tuple[int, ...],
) -> None:
    """P by 200,000 Dirichlet draws has a standard deviation below .5/sqrt(2e5) = .0011.

    Six of those, P(false alarm) < 1e-8.
    """
    import numpy as np

    draws = np.random.default_rng(0).dirichlet([*(c + 1 for c in counts), 1.3], 200_000)
    drawn = float((draws.argmax(axis=1) == 0).mean())
    odds = bayes_factor(counts) / (len(counts) + 1)
    assert odds / (1 + odds) == pytest.approx(drawn, abs=0.0067)


def test_without_an_answer_there_is_no_evidence() -> None:
    """Zero never reaches a threshold."""
    assert bayes_factor([]) == 0.0


def test_evidence_beyond_floating_point_is_still_evidence() -> None:
    """A thousand against nothing: enormous or infinite, never an error or NaN."""
    assert bayes_factor([1000]) > 1e30


# --- waves, budgets, cancellation


@pytest.mark.parametrize(
    ("options", "waves"),
    [
        ({}, [4, 6, 9, 13, 8]),
        ({"growth": 1, "n": 10}, [4, 4, 2]),
        ({"wave": 1, "growth": 2.0, "n": 12}, [1, 2, 4, 5]),
        ({"growth": math.inf}, [4, 36]),
    ],
)
def test_waves_grow_and_end_at_n(options: dict[str, Any], waves: list[int]) -> None:
    """4, 4 x 1.5, 6 x 1.5, ...: floor of the exact size, and the last takes what is left."""
    it = Session(PROBLEM, Adaptive(**options), Plan())
    effects, seen, ordinal = it.start(), [], 0
    while effects or it.running:
        if started := [e for e in effects if isinstance(e, Start)]:
            seen.append(len(started))
        effects = it.receive(trace(ordinal, "AB"[ordinal % 2]))
        ordinal += 1
    assert seen == waves


def test_at_the_stop_what_still_runs_is_cancelled() -> None:
    """Wave 8, four agree: the other four are aborted at once, not waited for."""
    it = Session(PROBLEM, Adaptive(wave=8), Plan())
    it.start()
    for ordinal in (7, 2, 5):
        assert it.receive(trace(ordinal, "A")) == []
    assert [e.request.ordinal for e in it.receive(trace(0, "A")) if isinstance(e, Abort)] == [
        1,
        3,
        4,
        6,
    ]
    assert (it.exploring, it.stopped_by, it.error) == (False, "", "")


def test_failed_traces_count_as_taken_so_it_always_ends() -> None:
    """Failures spend no tokens: a rule that ignored them would never end on a broken engine."""
    it = explore(Adaptive(), lambda r: trace(r.ordinal, finish=Finish.FAILED), seed=0)
    assert len(it.traces) == 40


def test_a_budget_inside_a_wave_ends_it_after_the_granted() -> None:
    """Six of ten: all six are used, and the result names the budget."""
    it = explore(Adaptive(), lambda r: "AB"[r.ordinal % 2], Plan(budget=Budget(traces=6)), seed=0)
    assert (len(it.traces), it.stopped_by) == (6, "traces")


def test_requests_carry_model_and_depth() -> None:
    """Options of width must not lose those of depth."""

    def answer(request: Request) -> str:
        assert request.depth == 3
        return "A"

    assert len(explore(Adaptive(depth=3), answer).traces) == 4
