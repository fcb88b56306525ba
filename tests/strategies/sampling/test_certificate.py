"""The certified stop rule: what it promises is held, however often one looks."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from scipy.stats import binom

from orchestrator.core.votes import beta_confidence
from strategies.sampling.adaptive import has_certificate
from strategies.sampling.certificate import _capital, certified


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.34, 0.33, 0.33), (0.2,) * 5, (0.3,) + (0.1,) * 7]
)
def test_a_wrong_answer_is_certified_no_more_often_than_promised(shares: tuple[float, ...]) -> None:
    """500 votes are looked at after each of 32 attempts; no leader but the first is right.

    Equal shares are the hardest case. A rate of exactly `error` exceeds the limit with probability
    1e-6 (binomial tail).
    """
    error, n = 0.1, 500
    rng = random.Random(7)
    answers = [str(i) for i in range(len(shares))]
    n_wrong = 0
    for _ in range(n):
        keys = rng.choices(answers, shares, k=32)
        first = next((c for t in range(1, 33) if (c := certified(keys[:t], error))), "0")
        n_wrong += first != "0"
    assert n_wrong <= binom.isf(1e-6, n, error)


def test_the_beta_rule_makes_no_such_promise() -> None:
    """With confidence 0.9 and as many looks, it is wrong far more often than in one case of ten."""
    rng = random.Random(7)
    n_wrong = 0
    for _ in range(500):
        n_first = n_second = 0
        while n_first + n_second < 32:
            n_first, n_second = (
                (n_first + 1, n_second) if rng.random() < 0.5 else (n_first, n_second + 1)
            )
            if beta_confidence(n_second, n_first) >= 0.9:
                n_wrong += 1
                break
    assert n_wrong > binom.isf(1e-6, 500, 0.1)


def test_unanimous_votes_are_certified_at_the_length_of_the_wager() -> None:
    """The capital after n votes for the leader is (2^(n+1) - 1) / (n + 1) exactly.

    The first vote makes the leader and is no evidence: 20 is reached after 7 more.
    """
    for n in range(20):
        assert _capital(n, 0) == pytest.approx((2 ** (n + 1) - 1) / (n + 1))
    lengths = [t for t in range(1, 20) if certified(["a"] * t, 0.05)]
    assert lengths[0] == 8


def test_a_wager_is_fair_on_a_coin() -> None:
    """The mean of the next capital is the present one: a martingale under equal shares."""
    for won, lost in ((0, 0), (3, 1), (1, 5), (10, 2)):
        after = (_capital(won + 1, lost) + _capital(won, lost + 1)) / 2
        assert after == pytest.approx(_capital(won, lost))


def test_only_attempts_without_a_gap_before_them_count() -> None:
    """Short attempts arrive first, so an order of arrival is no sequence of independent draws."""
    keys: dict[int, str | None] = dict.fromkeys(range(8), "a")
    assert has_certificate(keys, 0.05)
    assert not has_certificate({o: k for o, k in keys.items() if o != 3}, 0.05)
    assert not has_certificate({**keys, **dict.fromkeys(range(9, 17), "b")}, 0.05)  # a tie
    assert all(b - a == 1 for a, b in pairwise(keys))
