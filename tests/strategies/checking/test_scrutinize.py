"""Sample, Scrutinize and Scale: tie band, conversation, contest and accuracy.

Accuracy is compared with a brute-force simulation.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.session import Session
from orchestrator.core.values import Finish, Message, Purpose, Request, Trace
from orchestrator.core.votes import conclude
from orchestrator.kit.verdicts import Comparison
from orchestrator.testing import PROBLEM, explore, trace
from strategies.checking.scrutinize import Candidate, Scrutinize, Scrutinized, matchups_won, tied
from strategies.selectors.majority import Majority


class World:
    """Candidates and judges with known error rates.

    Each reply is a function of its request, so any order of arrival gives the same.
    """

    def __init__(
        self,
        shares: dict[str, float],
        verdict_error: float = 0.0,
        comparison_error: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.shares, self.verdict_error, self.comparison_error, self.seed = (
            shares,
            verdict_error,
            comparison_error,
            seed,
        )
        self.answers: dict[int, str] = {}
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Trace | str:
        self.requests.append(request)
        rng = random.Random(f"{self.seed} {request.ordinal}")
        if request.purpose is Purpose.SOLVE:
            answer = rng.choices(list(self.shares), list(self.shares.values()))[0]
            self.answers[request.ordinal] = answer
            return answer
        if request.purpose is Purpose.COMPARE:
            first_right = (self.answers[request.subjects[0]] == "R") != (
                rng.random() < self.comparison_error
            )
            return Trace(0, f"Winner: {1 if first_right else 2}")
        if not request.subjects:
            return Trace(0, "Lemma 1 ...")
        right = (self.answers[request.subjects[0]] == "R") != (rng.random() < self.verdict_error)
        return Trace(0, f"Verdict: {'correct' if right else 'incorrect'}")


def candidate(ordinal: int, key: str, mean: float) -> Candidate:
    return Candidate(ordinal, key, mean, 50)


def won_by(session: Session) -> str | None:
    answer = conclude(PROBLEM, list(session.traces.values()), Scrutinized()).answer
    return answer.key if answer else None


# --- the tie band


@pytest.mark.parametrize(
    ("means", "keys", "compared"),
    [
        ((0.96, 0.92, 0.90), "ABC", [0, 1]),  # band down to .91
        (
            (0.95, 0.90, 0.89),
            "ABC",
            [0, 1],
        ),  # .90 is on its edge and in it, though .95 - .05 is not .9 in floating point
        ((0.96, 0.92, 0.91), "AAA", []),  # within the band, but they agree
        ((0.96, 0.94, 0.92), "AAB", [0, 2]),  # the best of each answer
        ((0.96, 0.90), "AB", []),  # outside
        ((0.96, 0.95, 0.94, 0.93), "AAAB", []),  # the three highest scoring agree
        ((0.96,), "A", []),
        ((), "", []),
    ],
)
def test_who_is_compared(means: tuple[float, ...], keys: str, compared: list[int]) -> None:
    """Algorithm 1, line 9, and section 3.1.

    The three best, within 5 % of the best, and only where they disagree.
    """
    assert [
        c.ordinal
        for c in tied(
            [candidate(i, k, m) for i, (k, m) in enumerate(zip(keys, means, strict=True))]
        )
    ] == compared


def test_a_matchup_is_won_by_most_of_its_comparisons_whichever_was_shown_first() -> None:
    """1 beats 2 in 2 of 3, in both orders; 1 against 3 is even, half a point each; 3 beats 2."""
    seen = [
        Comparison(1, 2, 1.0),
        Comparison(2, 1, 0.0),
        Comparison(1, 2, 0.0),
        Comparison(1, 3, 1.0),
        Comparison(3, 1, 1.0),
        Comparison(2, 3, 0.0),
    ]
    assert matchups_won(seen) == {1: 1.5, 2: 0.0, 3: 1.5}


# --- the requests


def test_a_verdict_is_one_conversation_of_rewrite_scan_and_conclusion() -> None:
    """B.3: three turns; the second and third repeat the conversation.

    Only the conclusion has a subject.
    """
    world = World({"R": 1.0})
    explore(Scrutinize(n=1, verdicts=1, preliminary=0), world)
    rewrite, scan, conclude_ = world.requests[1:]
    assert isinstance(rewrite.prompt, str)
    assert "The answer is R." in rewrite.prompt
    assert str(PROBLEM.prompt) in rewrite.prompt
    assert isinstance(scan.prompt, tuple)
    assert isinstance(conclude_.prompt, tuple)
    assert scan.prompt[:2] == (Message("user", rewrite.prompt), Message("assistant", "Lemma 1 ..."))
    assert conclude_.prompt[: len(scan.prompt)] == scan.prompt
    assert len(conclude_.prompt) == 5
    assert [r.subjects for r in (rewrite, scan, conclude_)] == [(), (), (0,)]


def test_full_sizes_cost_what_the_page_says() -> None:
    """n + 3 n k calls without preliminary scoring and without a tie.

    With it 3 p n for all and 3 (k - p) for those that stay.
    """
    full = explore(Scrutinize(n=6, verdicts=4, preliminary=0), World({"R": 1.0}))
    assert len(full.traces) == 6 + 3 * 6 * 4
    world = World({"R": 0.5, "W": 0.5}, seed=2)
    some = explore(Scrutinize(n=6, verdicts=8, preliminary=2), world)
    n_right = sum(a == "R" for a in world.answers.values())
    assert 0 < n_right < 6
    assert len(some.traces) == 6 + 3 * 2 * 6 + 3 * 6 * n_right


def test_of_each_answer_the_best_go_on_up_to_their_limit() -> None:
    """per_answer 2: eight right candidates, all with perfect preliminary verdicts, two are verified
    in full: those of lowest ordinal.
    """
    session = explore(Scrutinize(n=8, verdicts=4, preliminary=2, per_answer=2), World({"R": 1.0}))
    n_requests = Counter(t.subjects[0] for t in session.traces.values() if t.subjects)
    assert n_requests == {0: 4, 1: 4, **dict.fromkeys(range(2, 8), 2)}


def test_a_tie_of_answers_is_compared_in_both_orders_and_the_winner_leads() -> None:
    """The verifier calls everything correct; only comparisons tell.

    W leads by count and by ordinal, R must win by them.
    """

    def world(request: Request) -> Trace | str:
        if request.purpose is Purpose.SOLVE:
            return "WWR"[request.ordinal]
        if request.purpose is Purpose.COMPARE:
            return Trace(0, f"Winner: {1 + request.subjects.index(2)}")
        return Trace(0, "Verdict: correct")

    session = explore(Scrutinize(n=3, verdicts=2, preliminary=0, comparisons=4), world, seed=1)
    orders = Counter(t.subjects for t in session.traces.values() if t.purpose is Purpose.COMPARE)
    assert orders == {(0, 2): 2, (2, 0): 2}
    assert won_by(session) == "R"
    assert Majority()(list(session.traces.values()))[0].answer.key == "W"


def test_the_verifier_may_be_another_model_and_another_depth() -> None:
    """The judges' options leave the candidates alone; without them judges are as the candidates."""
    plan = Plan(models={"main": Model("a"), "judge": Model("b")})
    world = World({"R": 0.5, "W": 0.5})
    explore(
        Scrutinize(n=2, verdicts=1, preliminary=0, depth=2, judge="judge", judge_depth=8),
        world,
        plan,
    )
    assert {(r.purpose, r.model, r.depth) for r in world.requests} == {
        (Purpose.SOLVE, "main", 2),
        (Purpose.VERIFY, "judge", 8),
    }
    explore(Scrutinize(n=1, verdicts=1, preliminary=0, depth=2), world := World({"R": 1.0}), plan)
    assert {(r.model, r.depth) for r in world.requests} == {("main", 2)}


# --- accuracy

SHARES = {"W": 0.5, "R": 0.3, "V": 0.2}


def test_a_perfect_verifier_finds_a_right_candidate_whenever_there_is_one() -> None:
    """Closed form: 1 - .7^8 = .9424.

    200 runs have a standard deviation of .0165; five of those, P(false alarm) < 1e-6. Majority:
    .22.
    """
    strategy = Scrutinize(n=8, verdicts=2, preliminary=1)
    sessions = [explore(strategy, World(SHARES, seed=s)) for s in range(200)]
    assert sum(won_by(s) == "R" for s in sessions) / 200 == pytest.approx(1 - 0.7**8, abs=0.083)
    majority = sum(Majority()(list(s.traces.values()))[0].answer.key == "R" for s in sessions) / 200
    assert majority < 0.35


def brute_force(
    n: int,
    k: int,
    n_compared: int,
    verdict_error: float,
    comparison_error: float,
    rng: random.Random,
) -> bool:
    """One run of Algorithm 1 with the refinements of section 3.1, written down straight, without
    the project's code.
    """
    answers = rng.choices(list(SHARES), list(SHARES.values()), k=n)
    means = [
        sum((a == "R") != (rng.random() < verdict_error) for _ in range(k)) / k for a in answers
    ]
    order = sorted(range(n), key=lambda i: (-means[i], i))
    band = [i for i in order[:3] if means[i] > means[order[0]] - 0.0501]
    first_of = {answers[i]: i for i in reversed(band)}
    if len(first_of) == 1:
        return answers[order[0]] == "R"
    points: Counter[str] = Counter()
    for a, b in combinations(first_of, 2):
        p = 0.5 if "R" not in (a, b) else 1 - comparison_error if a == "R" else comparison_error
        # With neither of the two right the world calls both wrong: whichever is shown second wins,
        # unless the judge errs.
        won = 0
        for i in range(n_compared):
            share = (
                p
                if "R" in (a, b)
                else comparison_error
                if (first_of[a] < first_of[b]) == (i % 2 == 0)
                else 1 - comparison_error
            )
            won += rng.random() < share
        points[a] += (won > n_compared / 2) + 0.5 * (won == n_compared / 2)  # type: ignore[assignment]  # half points
        points[b] += (won < n_compared / 2) + 0.5 * (won == n_compared / 2)  # type: ignore[assignment]  # half points
    counts = Counter(answers)
    return max(first_of, key=lambda a: (points[a], counts[a], -answers.index(a))) == "R"


@pytest.mark.slow
def test_accuracy_with_erring_judges_is_that_of_the_plain_algorithm() -> None:
    """Judges err with .25, comparisons with .2; n = 6, k = 4, 3 comparisons.

    6,000 brute-force runs against 200 of the strategy.

    The standard deviation of the difference is below .5 sqrt(1/200 + 1/6000) = .0359; five of
    those, P(false alarm) < 1e-6. Majority is further below than that.
    """
    strategy = Scrutinize(n=6, verdicts=4, preliminary=0, comparisons=3)
    sessions = [explore(strategy, World(SHARES, 0.25, 0.2, seed=s)) for s in range(200)]
    rng = random.Random(5)
    expected = sum(brute_force(6, 4, 3, 0.25, 0.2, rng) for _ in range(6_000)) / 6_000
    accuracy = sum(won_by(s) == "R" for s in sessions) / 200
    majority = sum(Majority()(list(s.traces.values()))[0].answer.key == "R" for s in sessions) / 200
    assert accuracy == pytest.approx(expected, abs=5 * 0.5 * math.sqrt(1 / 200 + 1 / 6_000))
    assert accuracy - majority > 5 * 0.0359


# --- failures, budgets, options


def test_a_conversation_that_fails_half_way_gives_no_verdict() -> None:
    """A failed rewrite has no text to scan; the other verdicts count."""

    def world(request: Request) -> Trace | str:
        if request.purpose is Purpose.SOLVE:
            return "A"
        return (
            trace(0, finish=Finish.FAILED) if request.ordinal == 2 else Trace(0, "Verdict: correct")
        )

    session = explore(Scrutinize(n=1, verdicts=3, preliminary=0), world)
    assert sum(len(t.subjects) for t in session.traces.values()) == 2
    assert won_by(session) == "A"


def test_a_budget_in_the_middle_leaves_a_pool_that_can_be_ranked() -> None:
    """At every budget the selector ranks what there is.

    Before the first verdict that is a plain vote, and the result says it was a tie.
    """
    for n in range(1, 40):
        session = explore(
            Scrutinize(n=4, verdicts=2, preliminary=1),
            World(SHARES, 0.2),
            Plan(budget=Budget(traces=n)),
            seed=n,
        )
        result = conclude(PROBLEM, list(session.traces.values()), Scrutinized())
        assert result.error == session.error == ""
        assert result.answer is not None


def test_a_dropped_candidate_does_not_lead_by_a_few_lucky_verdicts() -> None:
    """Two of two against seven of eight.

    It has at most half as many verdicts, so it is not ranked by its mean.
    """
    pool = [trace(0, "A"), trace(1, "B")]
    for subject, texts in ((0, ["correct"] * 7 + ["incorrect"]), (1, ["correct"] * 2)):
        for text in texts:
            made = trace(len(pool), purpose=Purpose.VERIFY)
            pool.append(replace(made, text=f"Verdict: {text}", subjects=(subject,)))
    assert [(c.answer.key, c.weight) for c in Scrutinized()(pool)] == [("A", 0.875), ("B", 0.0)]
