"""Ensemble weights by mixed-integer program: cases solvable by hand, brute force over a grid, and
the strategy that draws with them.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from orchestrator.core.errors import PluginError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.session import Session
from orchestrator.core.values import PluginSpec, Request
from orchestrator.plan import registry
from orchestrator.studies.ensembles import Shares, ensemble_weights, shares
from orchestrator.testing import explore, trace
from strategies.sampling.ensemble import Ensemble
from strategies.selectors.majority import Majority


def test_two_models_that_need_each_other_by_hand() -> None:
    """Model A alone is right on question 1 only, B on question 2 only.

    Margins: question 1 .6 w - .6 (1 - w) = 1.2 w - .6, question 2 -.4 w + .8 (1 - w) = .8 - 1.2 w.
    Both positive for .5 < w < 2/3; the smaller one is largest where they are equal: 2.4 w = 1.4, w
    = 7/12, margin .1.
    """
    fit = ensemble_weights([Shares((0.8, 0.2), ((0.2, 0.8),)), Shares((0.3, 0.9), ((0.7, 0.1),))])
    assert fit.weights == pytest.approx((7 / 12, 5 / 12), abs=1e-6)
    assert (fit.n_right, fit.margin) == (2, pytest.approx(0.1, abs=1e-6))


def test_every_wrong_answer_is_a_rival_of_its_own() -> None:
    """Right .4, wrong .3 and .3: right leads by .1 though the wrong ones together have more."""
    fit = ensemble_weights([Shares((0.4,), ((0.3,), (0.3,)))])
    assert (fit.weights, fit.n_right, fit.margin) == ((1.0,), 1, pytest.approx(0.1, abs=1e-6))


def test_a_question_that_cannot_be_won_is_given_up_for_others() -> None:
    """Both models are wrong on question 1; the weights serve question 2."""
    fit = ensemble_weights([Shares((0.1, 0.2), ((0.9, 0.8),)), Shares((0.0, 1.0), ((1.0, 0.0),))])
    assert (fit.weights, fit.n_right, fit.margin) == (
        pytest.approx((0.0, 1.0), abs=1e-6),
        1,
        pytest.approx(1.0, abs=1e-6),
    )


def test_without_any_question_won_weights_are_equal() -> None:
    """And the fit says that it won none. Silence everywhere wins nothing either."""
    assert ensemble_weights([Shares((0.0, 0.0), ((1.0, 1.0),)), Shares((0.0, 0.0))]).n_right == 0
    assert ensemble_weights([Shares((0.0, 0.0))]).weights == (0.5, 0.5)


def test_no_weights_of_a_grid_do_better() -> None:
    """Three models, six questions of random shares, ten draws: brute force over weights in steps of
    .05 finds no more right.
    """
    rng = random.Random(4)
    for _ in range(10):
        questions = []
        for _ in range(6):
            rows = [[rng.random() for _ in range(3)] for _ in range(3)]
            totals = [sum(column) for column in zip(*rows, strict=True)]
            right, *wrong = [tuple(x / t for x, t in zip(row, totals, strict=True)) for row in rows]
            questions.append(Shares(right, tuple(wrong)))
        fit = ensemble_weights(questions)
        grid = [(a / 20, b / 20, (20 - a - b) / 20) for a in range(21) for b in range(21 - a)]
        assert (
            n_won(questions, fit.weights)
            == fit.n_right
            >= max(n_won(questions, w, 1e-4) for w in grid)
        )


def n_won(questions: list[Shares], weights: tuple[float, ...], margin: float = 0.0) -> int:
    def mixed(row: tuple[float, ...]) -> float:
        return sum(w * x for w, x in zip(weights, row, strict=True))

    return sum(all(mixed(q.right) - mixed(row) > margin for row in q.wrong) for q in questions)


def test_shares_are_counted_per_model_and_abstentions_count() -> None:
    """a: 2 of 3 right, 1 silent; b: 1 right of 2, 1 wrong. A model without a trace is named."""
    pool = [
        trace(i, answer, model=model)
        for i, (answer, model) in enumerate(
            [("R", "a"), ("R", "a"), (None, "a"), ("R", "b"), ("W", "b")]
        )
    ]

    got = shares(pool, ["a", "b"], {"R"})
    assert got.right == pytest.approx((2 / 3, 0.5))
    assert got.wrong == ((0.0, 0.5),)
    with pytest.raises(ValueError, match="model 'c' has no trace"):
        shares(pool, ["a", "c"], {"R"})


@pytest.mark.parametrize(
    "questions", [[], [Shares((0.5, 0.5)), Shares((0.5,))], [Shares((0.5,), ((0.1, 0.2),))]]
)
def test_questions_that_do_not_fit_together_are_refused(questions: list[Shares]) -> None:
    """Before a solver sees them."""
    with pytest.raises(ValueError, match="as many frequencies"):
        ensemble_weights(questions)


# --- the strategy that draws with them
# ---------------------------------------------------------------------------------

POOLS = {"a": Model("a"), "b": Model("b")}


def test_models_are_drawn_by_weight() -> None:
    """.25 to .75 of 600 draws: standard deviation .0177; five of those, P(false alarm) < 1e-6.

    A weight of 0 is never drawn.
    """
    n = Counter(
        t.model
        for t in explore(
            Ensemble(("a", "b"), (1.0, 3.0), n=600), lambda r: "A", Plan(models=POOLS)
        ).traces.values()
    )
    assert n["a"] / 600 == pytest.approx(0.25, abs=0.089)
    assert {
        t.model
        for t in explore(
            Ensemble(("a", "b"), (0.0, 1.0)), lambda r: "A", Plan(models=POOLS)
        ).traces.values()
    } == {"b"}


def test_the_vote_of_a_mixture_is_right_as_often_as_its_binomial_says() -> None:
    """Each trace is right with .4 w + .9 (1 - w) on one question, with .5 w .5: the vote of 9 is
    right as the binomial of the mixture says.

    w = .5: p = .65, P(at least 5 of 9) = .8283. 300 runs: standard deviation .0218; five of those,
    P(false alarm) < 1e-6.
    """
    exact = sum(math.comb(9, k) * 0.65**k * 0.35 ** (9 - k) for k in range(5, 10))

    def run(seed: int) -> Session:
        def world(request: Request) -> str:
            return (
                "R"
                if random.Random(f"{seed} {request.ordinal}").random()
                < {"a": 0.4, "b": 0.9}[request.model]
                else "W"
            )

        return explore(Ensemble(("a", "b"), (0.5, 0.5), n=9), world, Plan(models=POOLS, seed=seed))

    right = (
        sum(Majority()(list(run(seed).traces.values()))[0].answer.key == "R" for seed in range(300))
        / 300
    )
    assert right == pytest.approx(exact, abs=0.109)


@pytest.mark.parametrize(
    "options",
    [
        {"models": ()},
        {"n": 0},
        {"weights": (1.0,)},
        {"weights": (0.0, 0.0)},
        {"weights": (-1.0, 2.0)},
        {"weights": (math.nan, 1.0)},
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any]) -> None:
    """When the plan is loaded, with its value."""
    with pytest.raises(PluginError, match=next(iter(options))):
        registry.load("strategies", PluginSpec("ensemble", {"models": ("a", "b"), **options}))
