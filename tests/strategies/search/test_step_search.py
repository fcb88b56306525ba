"""Beam search, DVTS, particle filtering and best-of-n: what continues, and accuracy.

Accuracy is compared with closed forms and brute force.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.protocols import Selector, Strategy
from orchestrator.core.session import Session
from orchestrator.core.values import Answer, Finish, Request, Trace, Verdict
from orchestrator.core.votes import conclude
from orchestrator.kit.partial_solutions import PartialSolution, best, spread
from orchestrator.testing import PROBLEM, explore, pool, trace
from strategies.search.particles import Particles, weights
from strategies.search.step_search import Beam, Dvts
from strategies.selectors.by_score import Best, BestWeighted
from strategies.selectors.majority import Majority

PICK = Best("verdict:v")


class Chain:
    """A question of `n_steps` steps: each is good with `good`; a solution is right when all are.

    The verifier scores a prefix.
    """

    def __init__(
        self, n_steps: int, good: float, score: Callable[[bool, random.Random], float], seed: int
    ) -> None:
        self.n_steps, self.good, self.score, self.seed = n_steps, good, score, seed
        self.state: dict[int, tuple[int, bool]] = {}
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Trace:
        self.requests.append(request)
        rng = random.Random(f"{self.seed} {request.ordinal}")
        depth, fine = self.state[request.parent] if request.parent is not None else (0, True)
        depth, fine = depth + 1, fine and rng.random() < self.good
        self.state[request.ordinal] = depth, fine
        answer = ("R" if fine else "W") if depth == self.n_steps else None
        verdict = Verdict("v", self.score(fine, rng))
        finish = Finish.STOP if answer else Finish.RULE
        return Trace(
            0,
            "step\n\n",
            finish=finish,
            answer=Answer(answer, answer) if answer else None,
            verdicts=(verdict,),
        )


def perfect(fine: bool, rng: random.Random) -> float:
    return 0.9 if fine else 0.1


def right(session: Session, selector: Selector) -> bool:
    answer = conclude(PROBLEM, list(session.traces.values()), selector).answer
    return answer is not None and answer.key == "R"


def accuracy(
    strategy: Strategy,
    n_runs: int,
    n_steps: int,
    good: float,
    score: Callable[[bool, random.Random], float] = perfect,
) -> tuple[float, float]:
    """Return how often the best by the verifier is right, and how often the majority of the same
    pool is.
    """
    sessions = [explore(strategy, Chain(n_steps, good, score, seed)) for seed in range(n_runs)]
    return sum(right(s, PICK) for s in sessions) / n_runs, sum(
        right(s, Majority()) for s in sessions
    ) / n_runs


# --- which solutions continue


def scored(scores: dict[int, float], n_steps: int) -> Callable[[Request], Trace]:
    """A world in which the ordinal decides the score.

    What has no parent chain of `n_steps` ends by the rule.
    """

    def world(request: Request) -> Trace:
        last = not request.rules
        return Trace(
            0,
            "s\n\n",
            finish=Finish.STOP if last else Finish.RULE,
            verdicts=(Verdict("v", scores.get(request.ordinal, 0.5)),),
            answer=Answer("A", "A") if last else None,
        )

    return world


def parents(session: Session, first: int, n: int) -> list[int | None]:
    return [session.traces[o].parent for o in range(first, first + n)]


def test_beam_search_continues_the_best_quarter_four_times_each() -> None:
    """n = 8, width 4: of scores .1 .9 .2 .8 ... the two best, 1 and 3, are continued in turn.

    The last step has no delimiter.
    """
    world = scored({0: 0.1, 1: 0.9, 2: 0.2, 3: 0.8}, 2)
    seen: list[Request] = []
    session = explore(Beam("v", n=8, width=4, steps=2), lambda r: (seen.append(r), world(r))[1])
    assert parents(session, 8, 8) == [1, 3] * 4
    assert len(session.traces) == 16
    assert [bool(r.rules) for r in seen] == [True] * 8 + [False] * 8
    assert {r.verifiers for r in seen} == {("v",)}


def test_dvts_keeps_the_best_of_each_tree_apart() -> None:
    """n = 4, width 2: trees {0, 1} and {2, 3}.

    The best of the second tree continues though both of the first are better.
    """
    session = explore(Dvts("v", n=4, width=2, steps=2), scored({0: 0.9, 1: 0.8, 2: 0.1, 3: 0.2}, 2))
    assert parents(session, 4, 4) == [0, 0, 3, 3]


def test_what_states_its_answer_leaves_the_beam_and_is_not_continued() -> None:
    """Complete solutions are kept, and the others share the width."""

    def world(request: Request) -> Trace:
        done = request.ordinal == 0
        return Trace(
            0,
            "s",
            finish=Finish.RULE,
            answer=Answer("A", "A") if done else None,
            verdicts=(Verdict("v", 1.0 - request.ordinal / 100),),
        )

    session = explore(Beam("v", n=4, width=2, steps=2), world)
    assert parents(session, 4, 4) == [1, 2, 1, 2]


def test_a_step_without_a_verdict_or_failed_is_not_continued() -> None:
    """It cannot be compared, and nothing is made up for it."""

    def world(request: Request) -> Trace:
        if request.ordinal == 0:
            return trace(0, finish=Finish.FAILED)
        return Trace(
            0,
            "s",
            finish=Finish.RULE,
            verdicts=() if request.ordinal == 1 else (Verdict("v", 0.1),),
        )

    assert parents(explore(Beam("v", n=4, width=2, steps=2), world), 4, 4) == [2, 3, 2, 3]
    assert (
        len(
            explore(
                Beam("v", n=4, width=2, steps=9), lambda r: trace(0, finish=Finish.FAILED)
            ).traces
        )
        == 4
    )


@pytest.mark.parametrize(
    ("aggregate", "first"), [("last", 1), ("min", 2), ("product", 2), ("mean", 0)]
)
def test_scores_are_aggregated_as_named(aggregate: Any, first: int) -> None:
    """By hand: last .94 .95 .8; min .3 .1 .7; product .268 .095 .56; mean .7975 .525 .75."""
    stems = [
        PartialSolution(0, (1.0, 0.3, 0.95, 0.94)),
        PartialSolution(1, (0.1, 0.95)),
        PartialSolution(2, (0.7, 0.8)),
    ]
    assert best(stems, 1, aggregate)[0].ordinal == first


def test_stems_are_spread_evenly() -> None:
    """The first ones once more where the number does not divide."""
    a, b = PartialSolution(0), PartialSolution(1)
    assert spread([a, b], 5) == [a, b, a, b, a]


def test_odds_are_the_softmax_of_logits() -> None:
    """Scores .5, .8: odds 1 and 4, so .2 and .8; 0 and 1 are clipped, not infinite."""
    assert weights([0.5, 0.8]) == pytest.approx([0.2, 0.8])
    assert weights([0.0, 1.0]) == pytest.approx([0.0, 1.0], abs=1e-9)


def test_finished_particles_are_not_grown_again() -> None:
    """One ends at its first step with a score of nearly 1.

    In the end every particle is that one, and no further step is requested.
    """

    def world(request: Request) -> Trace:
        done = request.ordinal == 0
        return Trace(
            0,
            "s",
            finish=Finish.STOP if done else Finish.RULE,
            verdicts=(Verdict("v", 1.0 if done else 0.0),),
        )

    session = explore(Particles("v", n=4, steps=10), world)
    assert len(session.traces) == 4


# --- accuracy


def test_dvts_with_a_perfect_verifier_is_right_as_often_as_its_closed_form_says() -> None:
    """A tree is right with q = (1 - (1 - g)^m)^L, n / m of them with 1 - (1 - q)^(n/m).

    G = .4, m = 2, L = 3, n = 8: q = .262, .7035.

    250 runs: standard deviation .0289; five of those, P(false alarm) < 1e-6. One chain alone is
    right with .4^3 = .064, and the majority of the eight that end is not the answer either.
    """
    q = (1 - 0.6**2) ** 3
    best_of, majority = accuracy(Dvts("v", n=8, width=2), 250, 3, 0.4)
    assert best_of == pytest.approx(1 - (1 - q) ** 4, abs=0.145)
    assert best_of - majority > 0.145


def test_beam_with_a_perfect_verifier_is_right_as_often_as_its_markov_chain_says() -> None:
    """From s good stems, Binomial(s m, g) good steps come, of which min(n / m, .) are kept.

    The last step needs one good of s m.

    n = 8, m = 4, g = .3, L = 4: two stems are kept. 250 runs: standard deviation at most .0316;
    five of those, P(false alarm) < 1e-6.
    """
    n, m, g, n_steps = 8, 4, 0.3, 4

    @cache
    def p_right(s: int, left: int, n_asked: int) -> float:
        if left == 0:
            return float(s > 0)
        return sum(
            math.comb(n_asked, k)
            * g**k
            * (1 - g) ** (n_asked - k)
            * p_right(min(n // m, k), left - 1, min(n // m, k) * m)
            for k in range(n_asked + 1)
        )

    best_of, majority = accuracy(Beam("v", n=n, width=m), 250, n_steps, g)
    assert best_of == pytest.approx(p_right(1, n_steps, n), abs=0.158)
    assert best_of - majority > 0.158


def noisy(fine: bool, rng: random.Random) -> float:
    return rng.uniform(0.3, 1.0) if fine else rng.uniform(0.0, 0.7)


def brute_particles(n: int, n_steps: int, good: float, rng: random.Random) -> bool:
    """One particle filter written down straight.

    All particles end at the same step, so none is finished before.
    """
    particles: list[tuple[bool, float]] = [(True, 0.5)] * n
    for step in range(n_steps):
        moved = [fine and rng.random() < good for fine, _ in particles]
        particles = [(fine, noisy(fine, rng)) for fine in moved]
        if step < n_steps - 1:
            particles = rng.choices(
                particles, [s / (1 - s) if 0 < s < 1 else 1e-7 for _, s in particles], k=n
            )
    return max(particles, key=lambda p: p[1])[0]


def test_particles_with_an_erring_verifier_are_as_right_as_the_plain_algorithm() -> None:
    """n = 6, L = 4, g = .5, scores overlap on [.3, .7].

    250 runs against 6,000: standard deviation of the difference below .0323;

    five of those, P(false alarm) < 1e-6. One chain is right with .0625, and so is a majority over
    six, at most.
    """
    rng = random.Random(3)
    expected = sum(brute_particles(6, 4, 0.5, rng) for _ in range(6_000)) / 6_000
    got, majority = accuracy(Particles("v", n=6), 250, 4, 0.5, noisy)
    assert got == pytest.approx(expected, abs=0.162)
    assert got - majority > 0.1, (
        "of one pool, so both err alike: the standard deviation of the difference is below .03"
    )


def test_best_of_n_needs_no_strategy_of_its_own() -> None:
    """n traces and a verifier on each.

    Right ones score as the larger of two uniform numbers, wrong ones as one.

    Given k right of n the best is right with 2k / (n + k): the largest of k + k + (n - k) uniform
    numbers is one of theirs. p = .25, n = 8: .4078. 1,000 runs: standard deviation .0155; five of
    those, P(false alarm) < 1e-6. Majority is right with .02 or so.
    """
    n, p = 8, 0.25
    exact = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * 2 * k / (n + k) for k in range(n + 1))
    rng = random.Random(11)
    hits = weighted = majority = 0
    for _ in range(1_000):
        words = ["R" if rng.random() < p else "W" for _ in range(n)]
        scores = [max(rng.random(), rng.random()) if w == "R" else rng.random() for w in words]
        traces = pool(" ".join(words), verdicts={"v": scores})
        hits += PICK(traces)[0].answer.key == "R"
        weighted += BestWeighted("verdict:v")(traces)[0].answer.key == "R"
        majority += Majority()(traces)[0].answer.key == "R"
    assert hits / 1_000 == pytest.approx(exact, abs=0.078)
    assert hits > weighted > majority


# --- budgets and options


@pytest.mark.parametrize(
    "strategy", [Beam("v", n=4, width=2), Dvts("v", n=4, width=2), Particles("v", n=4)]
)
def test_a_budget_within_a_step_ends_it_after_the_granted(strategy: Strategy) -> None:
    """All that was granted is waited for, and the result names the budget."""
    session = explore(strategy, Chain(9, 0.9, perfect, 0), Plan(budget=Budget(traces=10)))
    assert (len(session.traces), session.stopped_by, session.error) == (10, "traces", "")
