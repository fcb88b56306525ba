"""AB-MCTS-A: posteriors, what each arm learns, where the tree branches, which model is chosen."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.session import Session
from orchestrator.core.values import Answer, Finish, Message, Request, Trace, Verdict
from orchestrator.core.votes import conclude
from orchestrator.kit.tree_search import Node
from orchestrator.testing import PROBLEM, explore, trace
from strategies.search.ab_mcts import (
    AbMcts,
    Arms,
    Beta,
    Gaussian,
    Posterior,
    descend,
    learn,
    thompson,
)
from strategies.selectors.by_score import Best
from strategies.selectors.majority import Majority

rewards = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def after(posterior: Posterior, given_ones: Sequence[float]) -> Posterior:
    for reward in given_ones:
        posterior = posterior.updated(reward)
    return posterior


# --- posteriors


@given(rewards)
def test_the_gaussian_update_is_the_published_one(ys: list[float]) -> None:
    """kappa' = kappa + n, nu' = nu + n, m' = (kappa m + n ybar) / kappa',

    tau'^2 = (nu tau^2 + sum (y - ybar)^2 + n kappa (m - ybar)^2 / (kappa + n)) / nu', from m 0,
    kappa 1, nu 1, tau^2 .1; here one by one.
    """
    n, mean = len(ys), sum(ys) / len(ys)
    spread = sum((y - mean) ** 2 for y in ys)
    got = after(Gaussian(), ys)
    assert isinstance(got, Gaussian)
    assert (got.kappa, got.nu) == (1 + n, 1 + n)
    assert got.m == pytest.approx(n * mean / (1 + n))
    assert got.tau_squared == pytest.approx((0.1 + spread + n * mean**2 / (1 + n)) / (1 + n))


def test_the_gaussian_update_by_hand() -> None:
    """Rewards .4, .8: ybar .6, spread .08; m' = 1.2 / 3 = .4.

    Tau'^2 = (.1 + .08 + 2 x .36 / 3) / 3 = .14.
    """
    got = after(Gaussian(), [0.4, 0.8])
    assert isinstance(got, Gaussian)
    assert (got.m, got.kappa, got.nu, got.tau_squared) == (
        pytest.approx(0.4),
        3,
        3,
        pytest.approx(0.14),
    )


def test_the_beta_update_by_hand() -> None:
    """Jeffreys (.5, .5): rewards 1, 0, .25 add 1.25 to a and 1.75 to b."""
    assert after(Beta(), [1, 0, 0.25]) == Beta(1.75, 2.25)


@pytest.mark.parametrize(
    ("posterior", "law"),
    [
        # The mean of a normal-inverse-chi-squared belief is Student's t with nu degrees of freedom,
        # scale sqrt(tau^2 / kappa).
        (
            after(Gaussian(), [0.4, 0.8, 0.5]),
            lambda g: stats.t(g.nu, g.m, (g.tau_squared / g.kappa) ** 0.5),
        ),
        (after(Beta(), [1, 0, 0.25]), lambda b: stats.beta(b.a, b.b)),
    ],
)
def test_draws_follow_the_posterior(posterior: Posterior, law: object) -> None:
    """Kolmogorov-Smirnov over 5,000 draws of a fixed seed.

    A p-value below 1e-6 would be a wrong law.
    """
    rng = random.Random(1)
    draws = np.array([posterior.draw(rng) for _ in range(5_000)])
    assert stats.kstest(draws, law(posterior).cdf).pvalue > 1e-6  # type: ignore[operator]  # a lambda of the table above


# --- the tree


def node(score: float = 0.0, parent: Node[Arms] | None = None, ordinal: int = 0) -> Node[Arms]:
    return Node(Arms(Beta(), Beta(), Beta()), trace(ordinal, "A"), score, parent)


def test_who_learns_from_a_new_attempt() -> None:
    """root - a - b, and b gets a child c of score .75: b's GEN and c itself.

    Then b and a themselves, and CONT of a and of the root.
    """
    root = node()
    a = node(0.5, root)
    learn(root, a)
    b = node(0.25, a)
    learn(a, b)
    learn(b, node(0.75, b))
    assert (root.arms.gen, root.arms.cont) == (after(Beta(), [0.5]), after(Beta(), [0.25, 0.75]))
    assert (a.arms.gen, a.arms.cont, a.arms.own) == (
        after(Beta(), [0.25]),
        after(Beta(), [0.75]),
        after(Beta(), [0.5, 0.25, 0.75]),
    )
    assert (b.arms.gen, b.arms.cont, b.arms.own) == (
        after(Beta(), [0.75]),
        Beta(),
        after(Beta(), [0.25, 0.75]),
    )
    assert b.children[0].arms.own == after(Beta(), [0.75])


def test_the_walk_goes_where_the_beliefs_are_sure() -> None:
    """GEN sure to be better: a child of the root.

    CONT sure: down to the child with the better arm, where a leaf generates.
    """
    sure, hopeless = Beta(1e6, 1.0), Beta(1.0, 1e6)
    root, good, bad = node(), node(), node()
    root.children, good.arms.own, bad.arms.own = [bad, good], sure, hopeless
    root.arms.gen, root.arms.cont = sure, hopeless
    assert descend(root, random.Random(0)) is root
    root.arms.gen, root.arms.cont = hopeless, sure
    assert descend(root, random.Random(0)) is good


def test_thompson_takes_an_arm_as_often_as_it_is_believed_the_best() -> None:
    """Beta(2, 1) beats Beta(1, 1) with 2/3: of 4,000 draws the standard deviation is .0075.

    Five of those, P(false alarm) < 1e-6.
    """
    rng = random.Random(2)
    n = sum(thompson([("x", Beta(2, 1)), ("y", Beta(1, 1))], rng) == "x" for _ in range(4_000))
    assert n / 4_000 == pytest.approx(2 / 3, abs=0.038)


# --- the strategy


def scored(answer: str, score: float) -> Trace:
    return Trace(
        0, f"It is {answer}.", answer=Answer(answer, answer), verdicts=(Verdict("v", score),)
    )


def depth_of(request: Request) -> int:
    """How many attempts the prompt shows: a revision shows the one it revises."""
    return (
        sum(m.role == "assistant" for m in request.prompt)
        if isinstance(request.prompt, tuple)
        else 0
    )


@pytest.mark.parametrize("posterior", ["gaussian", "beta"])
def test_it_goes_deeper_where_revisions_help_and_wider_where_they_do_not(posterior: str) -> None:
    """Fresh attempts score .2, revisions .9: most of 40 are revisions.

    The other way round: most are fresh. Over ten seeds each.
    """
    shares = {}
    for helps in (True, False):
        n_revised = 0
        for seed in range(10):
            requests: list[Request] = []

            def world(
                request: Request, helps: bool = helps, requests: list[Request] = requests
            ) -> Trace:
                requests.append(request)
                return scored("A", 0.9 if (depth_of(request) > 0) == helps else 0.2)

            explore(AbMcts("v", n=40, posterior=posterior, parallel=1), world, Plan(seed=seed))  # type: ignore[arg-type]  # a literal
            assert len(requests) == 40
            n_revised += sum(depth_of(r) > 0 for r in requests)
        shares[helps] = n_revised / 400
    assert shares[True] > 0.75
    assert shares[False] < 0.4


def test_a_revision_shows_the_attempt_and_its_score() -> None:
    """The conversation so far, then the score; the question keeps the plan's words."""
    requests: list[Request] = []

    def world(request: Request) -> Trace:
        requests.append(request)
        return scored("A", 0.9 if depth_of(request) else 0.25)

    explore(AbMcts("v", n=20, parallel=1), world)
    revision = next(r for r in requests if depth_of(r) == 1)
    assert isinstance(revision.prompt, tuple)
    assert revision.prompt[:2] == (
        Message("user", str(PROBLEM.prompt)),
        Message("assistant", "It is A."),
    )
    assert "0.25" in revision.prompt[2].content or "0.90" in revision.prompt[2].content
    assert all(len(r.subjects) == (depth_of(r) > 0) for r in requests), (
        "a revision names what it revises: it is no fresh attempt"
    )


def test_of_several_models_the_better_one_is_asked_more() -> None:
    """Thompson over all rewards of a model: .9 against .1, no difference between fresh and revised.

    60 attempts, ten seeds.
    """
    plan = Plan(models={"weak": Model("a"), "strong": Model("b")})
    n_attempts: Counter[str] = Counter()
    for seed in range(10):
        session = explore(
            AbMcts("v", n=60, models=("weak", "strong")),
            lambda r: scored("A", 0.9 if r.model == "strong" else 0.1),
            Plan(models=plan.models, seed=seed),
        )
        n_attempts.update(t.model for t in session.traces.values())
    assert n_attempts["strong"] > 0.8 * 600
    assert n_attempts["weak"] >= 10, "each is tried"


def test_attempts_in_flight_are_bounded_and_all_are_taken() -> None:
    """`parallel` at a time, `n` in all, in any order of arrival, failures included."""
    session = Session(PROBLEM, AbMcts("v", n=9, parallel=3), Plan())
    session.start()
    rng = random.Random(0)
    n = 0
    while session.running:
        assert len(session.running) <= 3
        ordinal = rng.choice(list(session.running))
        session.receive(
            trace(ordinal, finish=Finish.FAILED)
            if n % 3 == 0
            else trace(ordinal, "A", verdicts={"v": 0.5})
        )
        n += 1
    assert (n, session.error) == (9, "")


def test_a_budget_lets_what_flies_arrive() -> None:
    """Five of nine are granted; the five are waited for, and the result names the budget."""
    session = explore(
        AbMcts("v", n=9, parallel=3),
        lambda r: scored("A", 0.5),
        Plan(budget=Budget(traces=5)),
        seed=1,
    )
    assert (len(session.traces), session.stopped_by, session.error) == (5, "traces", "")


def brute_force(n: int, rng: np.random.Generator) -> bool:
    """One search written down straight.

    Lists of rewards, the batch formulas, one attempt at a time.

    Whether a right attempt came.
    """

    def draw(ys: list[float]) -> float:
        k, mean = len(ys), float(np.mean(ys)) if ys else 0.0
        tau2 = (0.1 + sum((y - mean) ** 2 for y in ys) + k * mean**2 / (1 + k)) / (1 + k)
        variance = 1 / rng.gamma((1 + k) / 2, 2 / ((1 + k) * tau2))
        return float(rng.normal(k * mean / (1 + k), (variance / (1 + k)) ** 0.5))

    def fresh(right: bool | None, up: int | None) -> dict[str, Any]:
        return {"right": right, "up": up, "below": [], "gen": [], "cont": [], "own": []}

    tree = [fresh(None, None)]
    for _ in range(n):
        at = 0
        while tree[at]["below"] and draw(tree[at]["gen"]) <= draw(tree[at]["cont"]):
            at = max(tree[at]["below"], key=lambda child: draw(tree[child]["own"]))
        right = bool(rng.random() < CHANCE[tree[at]["right"]])
        tree.append(fresh(right, at))
        tree[at]["below"].append(len(tree) - 1)
        score = 0.9 if right else 0.2
        tree[at]["gen"].append(score)
        tree[-1]["own"].append(score)
        while tree[at]["up"] is not None:
            tree[at]["own"].append(score)
            at = tree[at]["up"]
            tree[at]["cont"].append(score)
    return any(node["right"] for node in tree)


# that an attempt is right: a fresh one, a revision of a wrong one, of a right one
CHANCE = {None: 0.06, False: 0.15, True: 1.0}


def test_it_is_as_right_as_the_plain_search_and_no_majority_vote() -> None:
    """n = 8, one at a time; the score says .9 or .2, so the best is right when any is.

    250 runs against 1,500 by brute force.

    The standard deviation of the difference is below .5 sqrt(1/250 + 1/1500) = .0342; five of
    those, P(false alarm) < 1e-6. Fresh attempts alone would give 1 - .94^8 = .39 and revisions
    alone 1 - .94 x .85^7 = .70, so it is seen whether the tree is walked at all.
    """
    n_best = n_majority = 0
    for seed in range(250):

        def world(request: Request, seed: int = seed) -> Trace:
            shown = request.prompt[-2].content if isinstance(request.prompt, tuple) else ""
            right = (
                random.Random(f"{seed} {request.ordinal}").random()
                < CHANCE["It is R" in shown if shown else None]
            )
            return scored("R" if right else "W", 0.9 if right else 0.2)

        pool = list(explore(AbMcts("v", n=8, parallel=1), world, Plan(seed=seed)).traces.values())
        result = conclude(PROBLEM, pool, Best("verdict:v"))
        n_best += result.answer is not None and result.answer.key == "R"
        n_majority += Majority()(pool)[0].answer.key == "R"
    rng = np.random.default_rng(1)
    expected = sum(brute_force(8, rng) for _ in range(1_500)) / 1_500
    assert n_best / 250 == pytest.approx(expected, abs=5 * 0.0342)
    assert 0.39 < expected < 0.70
    assert n_majority / 250 < expected - 0.15
