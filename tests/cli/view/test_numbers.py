"""How numbers are written for people: the same in tables, pictures and messages."""

import pytest

from orchestrator.cli.view.numbers import (
    counted,
    duration,
    estimate_text,
    interval,
    percent,
    points,
    share,
    short_count,
)
from orchestrator.studies.estimates import Estimate

KNOWN = Estimate(0.4167, 0.193, 0.6804, 12)
UNKNOWN = Estimate(1.0, None, None, 3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (11520, "3 h 12 min"),
    ],
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    """Round first, then choose the unit: else 59.6 s would be "60 s"."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0.5, "0.5"), (950, "950"), (999.6, "1k"), (12_345, "12.3k"), (4_500_000, "4.5M")],
)
def test_large_counts_are_short(count: float, text: str) -> None:
    assert short_count(count) == text


def test_an_interval_is_written_in_any_unit_or_as_missing() -> None:
    """The data may not give one: then a dash, or what the caller says."""
    assert interval(KNOWN) == "19.3% to 68.0%"
    assert interval(points(KNOWN), ".1f") == "19.3 to 68.0"
    assert interval(Estimate(-0.1, -0.25, 0.0, 2), "+.2f") == "-0.25 to +0.00"
    assert interval(UNKNOWN) == interval(None) == "–"
    assert interval(UNKNOWN, missing="no interval") == "no interval"


def test_an_estimate_has_its_interval_and_its_n() -> None:
    assert estimate_text(KNOWN) == "41.7% (19.3% to 68.0%, n = 12)"
    assert estimate_text(UNKNOWN) == "100.0% (n = 3)"
    assert estimate_text(None) == share(None) == "–"


def test_a_count_agrees_with_its_noun() -> None:
    assert (counted(1, "problem"), counted(1200, "problem")) == ("1 problem", "1,200 problems")


def test_a_share_that_rounds_to_zero_has_no_sign() -> None:
    """ "-0%" saved would look like a loss."""
    assert percent(-0.001) == "0%"
