"""AB-MCTS-M: the posterior against brute-force integration, and the search.

Where the walk goes, what is pruned, and which model attempts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Answer, Request, Trace, Verdict
from orchestrator.core.votes import conclude
from orchestrator.kit.tree_search import Ucb1
from orchestrator.testing import PROBLEM, explore
from strategies.search.ab_mcts_m import AbMctsM, MixedChoice, posterior
from strategies.selectors.by_score import Best
from strategies.selectors.majority import Majority

GROUPS = [[0.2, 0.35, 0.3], [0.8], [0.55, 0.6]]


def brute_force(
    groups: Sequence[Sequence[float]], n: int = 400_000
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of a new score in each group and in a new one, by weighing draws
    from the priors by the likelihood.

    No conjugacy and no grid: mu, both sigmas and every z are drawn, and each score's density is
    multiplied in.
    """
    rng = np.random.default_rng(3)
    mu, s_alpha, s_y = (
        rng.normal(0.5, 0.2, n),
        np.abs(rng.normal(0, 0.2, n)),
        np.abs(rng.normal(0, 0.3, n)),
    )
    alphas = [mu + s_alpha * rng.normal(size=n) for _ in range(len(groups) + 1)]
    log = sum(
        (stats.norm.logpdf(y, a, s_y) for a, g in zip(alphas[:-1], groups, strict=True) for y in g),
        np.zeros(n),
    )
    w = np.exp(log - log.max())
    w /= w.sum()
    means = [float(w @ a) for a in alphas]
    return means, [
        float(w @ (a**2 + s_y**2) - m**2) ** 0.5 for a, m in zip(alphas, means, strict=True)
    ]


def test_draws_agree_with_brute_force_integration() -> None:
    """20,000 draws of a new score in each of three groups and in a new one.

    A mean of 20,000 with standard deviation s has s / 141, and importance sampling with some
    thousands of effective draws s / 50: together below .022 s. Six of those are .13 s; a wrong
    prior or a swapped sigma is off by more.
    """
    rng = random.Random(0)
    model = posterior(GROUPS)
    draws = np.array([model.draws(rng, n_new=1) for _ in range(20_000)])
    means, spreads = brute_force(GROUPS)
    for i, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        assert draws[:, i].mean() == pytest.approx(mean, abs=0.13 * spread), f"group {i}"
        assert draws[:, i].std() == pytest.approx(spread, rel=0.1), f"group {i}"


def test_without_scores_it_is_the_prior() -> None:
    """A new score has mean .5 and variance .2^2 + .2^2 + .3^2 = .17.

    Mu's, and E[sigma^2] of both half-normals. 20,000 draws, 5 sigma.
    """
    rng = random.Random(1)
    draws = np.array(posterior([]).draws(rng, n_new=20_000))
    assert draws.mean() == pytest.approx(0.5, abs=5 * (0.17 / 20_000) ** 0.5)
    assert draws.var() == pytest.approx(0.17, rel=0.06)


def test_many_equal_scores_are_believed() -> None:
    """Forty scores of .9 in one group and forty of .1 in another.

    Where density is infinite at sigma_y = 0 the draws are those scores.
    """
    draws = posterior([[0.9] * 40, [0.1] * 40]).draws(random.Random(2), n_new=0)
    assert draws == pytest.approx([0.9, 0.1], abs=0.02)


# --- where it goes


def shares(strategy: AbMctsM, scores: list[list[float]], n: int = 120) -> dict[int | None, float]:
    rng = random.Random(4)
    return {
        choice: k / n
        for choice, k in Counter(strategy.chosen(scores, rng) for _ in range(n)).items()
    }


def test_a_child_is_taken_as_often_as_its_draw_is_the_largest() -> None:
    """The same three draws, the largest counted by hand.

    Of 120 the standard deviation is at most .046; five of those.
    """
    model, rng = posterior(GROUPS), random.Random(5)
    expected = Counter(int(np.argmax(model.draws(rng, n_new=1))) for _ in range(2_000))
    found = shares(AbMctsM("v"), GROUPS)
    for i, choice in enumerate((0, 1, 2, None)):
        assert found.get(choice, 0.0) == pytest.approx(expected[i] / 2_000, abs=0.23)


def test_a_child_whose_scores_no_longer_differ_is_pruned() -> None:
    """Three of four equal to two digits: 75 %.

    It was the best, and its turns go to the next best child, not to a new one.
    """
    pruned = [[0.9, 0.901, 0.9, 0.2], [0.5, 0.4]]
    found = shares(AbMctsM("v"), pruned)
    assert 0 not in found
    assert found == shares(AbMctsM("v", prune_size=4, prune_share=0.75), pruned)
    for spared in (AbMctsM("v", prune_size=5), AbMctsM("v", prune_share=0.76)):
        assert shares(spared, pruned)[0] > 0.2
    gained = found[1] - shares(AbMctsM("v", prune_size=5), pruned).get(1, 0.0)
    assert gained > 0.2
    assert shares(AbMctsM("v"), [[0.9] * 4]) == {None: 1.0}, "all pruned: a new one"


# --- models


def test_ucb1_by_hand() -> None:
    """After a = .5 and b = .9: bounds .5 + 1.18 and .9 + 1.18, so b.

    Its second counts 0 yet: .5 + 1.48 against .45 + 1.05, so a.
    """
    rng = random.Random(0)
    ucb = Ucb1(["a", "b"])
    assert [ucb.choose(rng), ucb.choose(rng)] == ["a", "b"]
    ucb.learn("a", 0.5)
    ucb.learn("b", 0.9)
    assert ucb.choose(rng) == "b"
    assert ucb.choose(rng) == "a", "what runs counts as an attempt, with nothing gained yet"


def test_a_model_without_scores_is_a_new_group() -> None:
    """One model known to be bad.

    The other, unknown, is chosen more often than not, though not always.
    """
    n_attempts = Counter()  # type: ignore[var-annotated]  # of names
    for seed in range(200):
        models = MixedChoice(["bad", "unknown"])
        for _ in range(3):
            models.learn("bad", 0.1)
        n_attempts[models.choose(random.Random(seed))] += 1
    assert 0.6 < n_attempts["unknown"] / 200 < 0.95


def scored(answer: str, score: float) -> Trace:
    return Trace(
        0, f"It is {answer}.", answer=Answer(answer, answer), verdicts=(Verdict("v", score),)
    )


@pytest.mark.parametrize("choose", ["thompson", "ucb"])
def test_of_several_models_the_better_one_is_asked_more(choose: str) -> None:
    """.9 against .1, 40 attempts, three seeds.

    By UCB1 the weak one gets n with .1 + 2.72 / sqrt(n) = 1.36, some five.
    """
    n_attempts: Counter[str] = Counter()
    for seed in range(3):
        plan = Plan(models={"weak": Model("a"), "strong": Model("b")}, seed=seed)
        strategy = AbMctsM("v", n=40, models=("weak", "strong"), choose=choose)  # type: ignore[arg-type]  # a literal
        session = explore(
            strategy, lambda r: scored("A", 0.9 if r.model == "strong" else 0.1), plan
        )
        n_attempts.update(t.model for t in session.traces.values())
    assert n_attempts["strong"] > 0.7 * 120
    assert n_attempts["weak"] >= 3


# --- simulated truth

# that an attempt is right: a fresh one, a revision of a wrong one, of a right one
CHANCE = {None: 0.05, False: 0.35, True: 1.0}


def noisy(right: bool, rng: random.Random) -> float:
    """The verifier's score: .8 or .3, give or take .1, so that nothing is pruned and a wrong
    attempt never scores above a right one.
    """
    return (0.8 if right else 0.3) + rng.uniform(-0.1, 0.1)


def by_hand(n: int, rng: random.Random) -> bool:
    """One search written down straight, the arms by importance sampling from the priors.

    Whether a right attempt came.
    """
    tree: list[tuple[bool | None, float, list[int]]] = [(None, 0.0, [])]

    def below(i: int) -> list[float]:
        return [tree[i][1], *(y for child in tree[i][2] for y in below(child))]

    draws = np.random.default_rng(rng.randrange(2**32))
    for _ in range(n):
        at = 0
        while tree[at][2]:
            groups = [below(child) for child in tree[at][2]]
            m = 2_000
            mu, s_alpha, s_y = (
                draws.normal(0.5, 0.2, m),
                np.abs(draws.normal(0, 0.2, m)),
                np.abs(draws.normal(0, 0.3, m)),
            )
            alphas = [mu + s_alpha * draws.normal(size=m) for _ in range(len(groups) + 1)]
            log = np.zeros(m)
            for a, g in zip(alphas, groups, strict=False):
                y = np.array(g)[:, None]
                log += (-np.log(s_y) - (y - a) ** 2 / (2 * s_y**2)).sum(axis=0)
            w = np.exp(log - log.max())
            picks = draws.choice(m, size=len(alphas), p=w / w.sum())
            values = [float(draws.normal(a[p], s_y[p])) for a, p in zip(alphas, picks, strict=True)]
            best = int(np.argmax(values))
            if best == len(groups):
                break
            at = tree[at][2][best]
        right = rng.random() < CHANCE[tree[at][0]]
        tree.append((right, noisy(right, rng), []))
        tree[at][2].append(len(tree) - 1)
    return any(right for right, _, _ in tree[1:])


@pytest.mark.slow
def test_it_is_as_right_as_the_plain_search_and_no_majority_vote() -> None:
    """n = 6, one at a time; the best score is a right attempt's if there is one.

    150 runs against 300 by hand.

    The standard deviation of the difference is below .5 sqrt(1/150 + 1/300) = .05; five of those,
    P(false alarm) < 1e-6. Fresh attempts alone give 1 - .95^6 = .26, revisions alone 1 - .95 x
    .65^5 = .89.
    """
    n_best = n_majority = 0
    for seed in range(150):

        def world(request: Request, seed: int = seed) -> Trace:
            shown = request.prompt[-2].content if isinstance(request.prompt, tuple) else ""
            rng = random.Random(f"{seed} {request.ordinal}")
            right = rng.random() < CHANCE["It is R" in shown if shown else None]
            return scored("R" if right else "W", noisy(right, rng))

        pool = list(explore(AbMctsM("v", n=6, parallel=1), world, Plan(seed=seed)).traces.values())
        result = conclude(PROBLEM, pool, Best("verdict:v"))
        n_best += result.answer is not None and result.answer.key == "R"
        n_majority += Majority()(pool)[0].answer.key == "R"
    rng = random.Random(1)
    expected = sum(by_hand(6, rng) for _ in range(300)) / 300
    assert n_best / 150 == pytest.approx(expected, abs=5 * 0.05)
    assert 0.55 < expected < 0.87
    assert n_majority / 150 < expected - 0.15
