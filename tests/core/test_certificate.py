"""The certified stop rule: what it promises is held, however often one looks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from scipy.stats import binom

from orchestrator.core.votes import beta_confidence, certified, certifies
from orchestrator.core.votes.certificate import _capital
from strategies.sampling.adaptive import has_certificate


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


def sounded_votes(rng: random.Random, shares: tuple[float, ...]) -> Iterator[list[str | None]]:
    """Votes so far, after each of 60, where nine of ten dissenters are stopped unheard (None)."""
    answers = [str(i) for i in range(len(shares))]
    votes: list[str | None] = []
    heard: Counter[str] = Counter()
    for key in rng.choices(answers, shares, k=60):
        leads = not heard or key == heard.most_common(1)[0][0]
        votes.append(key if leads or rng.random() < 0.1 else None)
        heard.update(vote for vote in votes[-1:] if vote is not None)
        yield votes


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.34, 0.33, 0.33), (0.2,) * 5])
def test_attempts_that_are_stopped_because_they_dissent_break_no_promise(
    shares: tuple[float, ...],
) -> None:
    """As above; the plain certificate of the votes that were heard is wrong far more often."""
    error, n = 0.1, 500
    rng = random.Random(7)
    n_wrong = n_wrong_of_heard = 0
    for _ in range(n):
        first = of_heard = ""
        for votes in sounded_votes(rng, shares):
            heard = [vote for vote in votes if vote is not None]
            leader = Counter(heard).most_common(1)[0][0]
            if not first and certifies(leader, votes, error):
                first = leader
            of_heard = of_heard or certified(heard, error) or ""
        n_wrong += first not in ("", "0")
        n_wrong_of_heard += of_heard not in ("", "0")
    assert n_wrong <= binom.isf(1e-6, n, error)
    assert n_wrong_of_heard > binom.isf(1e-6, n, error)


def test_what_certifies_an_answer_among_stopped_attempts() -> None:
    """Capital (2^(n+1) - 1) / (n + 1) after n more votes; the first answer has half of it.

    0.05 needs 40 for it: 8 more votes give 56.8, 7 give 31.9. The second answer needs 120, which 10
    more give (186), 9 do not (102.3); so does an answer that came after a stopped attempt, but what
    that would have said also counts against it.
    """
    assert certifies("a", ["a"] * 9, 0.05)
    assert not certifies("a", ["a"] * 8, 0.05)
    assert not certifies("b", ["a"] * 9, 0.05)
    assert not certifies("a", [], 0.05)
    assert _capital(10, 0) >= 120 > _capital(9, 0)
    least = {votes: _least(votes) for votes in ((None,), ("b",), ("b", None), ("b", "b"))}
    assert least[None,] == least["b",]
    assert least["b",] < least["b", "b"] < least["b", None]


def _least(before: tuple[str | None, ...]) -> int:
    """How many votes for a certify it after others."""
    return next(n for n in range(1, 60) if certifies("a", [*before, *["a"] * n], 0.05))
