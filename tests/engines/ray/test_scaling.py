"""How many replicas a pool should have: pure, with times that the tests give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PluginError
from orchestrator.core.values import PluginSpec
from orchestrator.engines.ray.pools import Replicas
from orchestrator.engines.ray.scaling import Scaling
from orchestrator.plan import registry

BOUNDS = Replicas(min=1, max=4, requests=10, up_seconds=5, idle_seconds=20)


def sizes(loads: list[int], bounds: Replicas = BOUNDS, n: int = 1) -> list[int]:
    """Return the number of replicas after each second with so many requests in flight."""
    scaling, after = Scaling(bounds), []
    for second, load in enumerate(loads):
        n = scaling.wanted(float(second), load, n)
        after.append(n)
    return after


def test_requests_that_wait_for_long_enough_add_replicas() -> None:
    """34 requests need 4 replicas of 10; they are there when that has held for 5 seconds."""
    assert sizes([34] * 8) == [1, 1, 1, 1, 1, 4, 4, 4]


def test_a_burst_adds_none_and_a_lull_ends_none() -> None:
    """A model takes minutes to load, so what passes in seconds must not start or stop one."""
    assert set(sizes(([34] * 4 + [5]) * 10)) == {1}
    assert set(sizes(([34] * 5 + [5] * 19) * 4, n=4)) == {4}


def test_replicas_leave_when_they_were_not_needed_for_long_enough() -> None:
    """As many stay as were needed at any time of the last 20 seconds."""
    after = sizes([34] * 6 + [15] * 40, n=4)
    assert after.index(2) == 26  # the last second with 34 was the sixth, number 5
    assert (set(after[:26]), set(after[26:])) == ({4}, {2})


@given(loads=st.lists(st.integers(0, 200), max_size=60), n=st.integers(1, 4))
def test_the_number_stays_within_the_bounds(loads: list[int], n: int) -> None:
    assert {1, 2, 3, 4}.issuperset(sizes(loads, n=n))


@pytest.mark.parametrize(
    ("replicas", "message"),
    [
        ({"min": 1, "mx": 4}, r"replicas has no option 'mx' \(did you mean 'max'\?\)"),
        ({"min": 5, "max": 2}, "min = 5 is above max = 2"),
        ({"max": 0}, r"Expected `int` >= 1 - at `\$\.replicas\.max`"),
        ({"min": 2}, "missing required field `max`"),
        ("many", r"replicas = 'many': it must be a whole number or a table, at least 1"),
    ],
)
def test_wrong_bounds_are_refused_with_the_option_and_the_near_match(
    replicas: object, message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        registry.load("engines", PluginSpec("ray", {"replicas": replicas}))


def test_bounds_are_written_beside_the_plain_number_and_per_pool() -> None:
    factory = registry.load(
        "engines",
        PluginSpec("ray", {"replicas": 3, "pools": {"judge": {"replicas": {"max": 2}}}}),
    )
    assert (factory.replicas, factory.pools["judge"].replicas) == (3, Replicas(max=2))
