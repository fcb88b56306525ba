"""Where a curve goes flat, on curves whose knee is known, and the schedule that two knees give."""

import math

import pytest

from orchestrator.studies.layers.think_block import kneedle, proposed


def test_the_paper_s_figure_has_its_knee_at_0_22() -> None:
    """Figure 2 of the paper: y = 5 - 1 / (x + 0.1) on ten points of [0, 1] has its knee at x =
    0.22, the third; here it is turned over.
    """
    curve = [1 / (i / 9 + 0.1) for i in range(10)]
    assert kneedle(curve) == 2


def test_a_hinge_has_its_knee_at_the_hinge_wherever_it_lies() -> None:
    for hinge in range(1, 19):
        assert kneedle([max(0.0, hinge - i) for i in range(20)]) == hinge


@pytest.mark.parametrize(
    "curve",
    [
        [],
        [1.0, 0.0],
        [2.0] * 9,
        [9.0 - i for i in range(10)],  # a straight line: the difference is 0 throughout
        [math.sqrt(9 - i) for i in range(10)],  # falls ever faster
    ],
)
def test_a_curve_that_never_goes_flat_has_none(curve: list[float]) -> None:
    assert kneedle(curve) is None


def test_a_higher_sensitivity_wants_a_longer_flat_part() -> None:
    """After the hinge at 7 of 10 the difference falls from 0.3 to 0 in steps of 0.1: 0.3 below the
    maximum is never passed.
    """
    curve = [max(0.0, 7.0 - i) for i in range(11)]
    assert kneedle(curve, sensitivity=2) == 7
    assert kneedle(curve, sensitivity=3.5) is None


def test_of_two_knees_the_first_counts_when_the_curve_is_flat_between_them() -> None:
    curve = [10.0, 6.0, 2.0, 2.0, 2.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert kneedle(curve) == 2


def test_a_valley_gives_encode_think_and_decode() -> None:
    distances = [0.5, 0.3, 0.1, 0.1, 0.1, 0.1, 0.09, 0.1, 0.1, 0.2, 0.4]
    assert str(proposed(distances)) == "0-1 (2-8)*r 9-10"


def test_no_knee_no_proposal() -> None:
    assert proposed([0.1] * 12) is None
    assert proposed([0.5, 0.4, 0.3, 0.2]) is None  # never goes flat, and has no end
    assert proposed([0.5]) is None
    assert proposed([]) is None
