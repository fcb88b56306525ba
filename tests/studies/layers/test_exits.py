"""The statistics of calibrated exits: p-values, losses, and how often the bound is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import ExitRule, parse_exit
from orchestrator.core.values import Trace, Usage
from orchestrator.studies.layers import exits


@pytest.mark.parametrize(
    ("full", "early", "loss"),
    [
        ((), (), 0.0),
        ((1, 2, 3, 4), (1, 2, 3, 4), 0.0),
        ((1, 2, 3, 4), (1, 2, 9, 4), 0.5),  # what follows a difference is not compared
        ((1, 2), (1, 2, 3, 4), 0.5),
        ((1, 2), (), 1.0),
    ],
)
def test_the_loss_of_tokens_begins_at_the_first_difference(
    full: tuple[int, ...], early: tuple[int, ...], loss: float
) -> None:
    assert exits.token_loss(full, early) == loss


def test_the_p_value_of_answers_is_the_binomial_tail() -> None:
    """None of 45 differs: 0.95^45 = 0.0994, so that 45 problems just show 5% at 90%.

    One of 3 at a limit of 1/2: (1 + 3) / 8.
    """
    assert exits.p_value([0.0] * 45, "answers", 0.05) == pytest.approx(0.95**45)
    assert exits.p_value([0.0, 1.0, 0.0], "answers", 0.5) == pytest.approx(0.5)


def test_the_p_value_of_tokens_is_hoeffdings_or_bentkus() -> None:
    """For a mean of 0 Hoeffding's is (1 - limit)^n; for one above the limit there is no evidence.

    By hand for n = 100, mean 0.02, limit 0.1: exp(-100 KL(0.02 || 0.1)) = 0.0106 is below
    e P(Bin(100, 0.1) <= 2) = 0.0053 only without the factor e, 0.00194.
    """
    assert exits.p_value([0.0] * 30, "tokens", 0.1) == pytest.approx(0.9**30)
    assert exits.p_value([0.3] * 30, "tokens", 0.1) == 1.0
    hoeffding = math.exp(-100 * (0.02 * math.log(0.2) + 0.98 * math.log(0.98 / 0.9)))
    tail = sum(math.comb(100, k) * 0.1**k * 0.9 ** (100 - k) for k in range(3))
    found = exits.p_value([0.02] * 100, "tokens", 0.1)
    assert found == pytest.approx(min(hoeffding, math.e * tail))


def test_the_bound_is_wrong_no_more_often_than_it_says() -> None:
    """3,000 calibrations on 100 problems, whose true loss is 4, 9, 11 and 30% at four thresholds.

    At a limit of 10% and a confidence of 90% the last two are wrong choices. P(more than 360 wrong
    of 3,000 if the chance is 0.1) < 2e-4; more than none, or the bound would be empty.
    """
    rng = np.random.default_rng(0)
    true = {"state<0.1": 0.04, "state<0.2": 0.09, "state<0.3": 0.11, "state<0.4": 0.3}
    trace = Trace(0, depths=(2, 4), usage=Usage(layer_tokens=10))
    n_wrong, n_found = 0, 0
    for _ in range(3000):
        u = rng.random(100)
        levels = [
            exits.level_of(
                parse_exit(rule), (u < loss).astype(float).tolist(), [trace], "answers", 0.1, 0.9
            )
            for rule, loss in true.items()
        ]
        rule = exits.chosen(levels)
        n_wrong += rule != "" and true[rule] > 0.1
        n_found += rule != ""
    assert 0 < n_wrong <= 360
    assert n_found > 1500, "a bound that nothing meets is no use"


def test_the_search_ends_at_the_first_threshold_that_is_not_shown() -> None:
    """A later one that is shown by chance does not count."""
    trace = Trace(0, depths=(2, 4, 6), usage=Usage(layer_tokens=30))
    levels = [
        exits.level_of(ExitRule("state", x), [0.0] * 90 + [1.0] * n, [trace], "answers", 0.1, 0.9)
        for x, n in ((0.1, 0), (0.2, 1), (0.3, 20), (0.4, 0))
    ]
    assert [level.is_shown for level in levels] == [True, True, False, True]
    assert exits.chosen(levels) == "state<0.2"
    assert exits.chosen(levels[2:]) == ""
    assert (levels[0].mean_depth, levels[0].layer_tokens) == (4.0, 30.0)
    assert levels[0].loss.high is not None
    assert 0 < levels[0].loss.high < 0.05


def test_too_few_problems_are_refused_with_their_number() -> None:
    exits.require_problems(45, 0.05, 0.9)
    with pytest.raises(PlanError, match="take 45 problems or more, or a larger --loss"):
        exits.require_problems(44, 0.05, 0.9)
    with pytest.raises(PlanError, match="take 230 problems"):
        exits.require_problems(0, 0.01, 0.9)


def test_thresholds_are_tested_from_the_strictest_on() -> None:
    """For agreement the larger number is the stricter one; none outlasts the depth by default."""
    assert [str(r) for r in exits.rules_of("agreement", (), 1, 4)] == [
        "agreement>=3",
        "agreement>=2",
    ]
    assert [str(r) for r in exits.rules_of("kl", (1e-3, 0.1), 2, 8)] == [
        "kl<0.001 after 2",
        "kl<0.1 after 2",
    ]
    for measure in exits.GRIDS:
        assert exits.rules_of(measure, (), 1, 100)[0].measure == measure
    with pytest.raises(PlanError, match=r"strictest first, as in 0\.1,0\.2"):
        exits.rules_of("state", (0.2, 0.1), 1, 8)
    with pytest.raises(PlanError, match="as in 3,2"):
        exits.rules_of("agreement", (2, 3), 1, 8)


def test_attempts_without_depths_are_an_error() -> None:
    with pytest.raises(PlanError, match="every one failed"):
        exits.level_of(ExitRule("state", 0.1), [1.0], [Trace(0)], "answers", 0.5, 0.9)
