"""Routing: a pool that serves the depth, then the replica with the prefix or the lowest load."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.plan import Model
from orchestrator.core.values import Request
from orchestrator.engines.ray.pools import PoolSpec
from orchestrator.engines.ray.routing import SLACK, at_its_depth, route

LOOPED = Model("m", layers="0 (1-2)*r 3", max_depth=2)


def pool(name: str, depths: tuple[int, ...] | None, model: Model = LOOPED) -> PoolSpec:
    return PoolSpec(name, model, 1, "a:B", {}, {}, depths)


POOLS = [
    *(
        pool("main", (1, 2)),
        pool("deep", (8,), Model("m", layers=LOOPED.layers, max_depth=8, max_context_tokens=512)),
    ),
    *(pool("other", None, Model("other")), pool("wide", None)),
]


def test_an_adapter_keeps_its_name_in_the_pool_that_serves_it() -> None:
    """The replica applies the adapter by it."""
    shared = PoolSpec("a", Model("m"), 1, "a:B", {}, {}, None, {"b": Model("m", lora="b")})
    assert [*shared.models] == ["a", "b"]
    assert at_its_depth(Request(model="b"), [*POOLS, shared]).model == "b"


@pytest.mark.parametrize(
    ("model", "depth", "pools", "led_to"),
    [
        ("main", None, POOLS, "main"),  # every pool serves the model's own depth
        ("main", 2, POOLS, "main"),
        ("main", 8, POOLS, "deep"),  # the same model with more reserved memory
        ("", 8, POOLS, "deep"),  # "" is the first pool
        ("", 1, POOLS, ""),
        ("deep", 2, POOLS, "main"),
        ("main", 4, POOLS, "wide"),  # any depth that its engine supports
        (
            "main",
            4,
            POOLS[:3],
            "main",
        ),  # another model is no substitute: the fleet refuses it and names the depths
        ("other", 8, POOLS, "other"),
        ("gone", 8, POOLS, "gone"),
    ],
)
def test_a_depth_leads_to_a_pool_of_the_same_model_that_has_it(
    model: str, depth: int | None, pools: list[PoolSpec], led_to: str
) -> None:
    """Pools with fixed depths of one model, and requests that name any of them."""
    request = Request(model=model, depth=depth)
    assert at_its_depth(request, pools).model == led_to


def test_a_pool_without_depths_serves_only_the_models_own() -> None:
    """`()` means only the model's own depth; None means any depth."""
    pools = [pool("plain", ()), pool("deep", (8,)), pool("any", None)]
    served = {depth: [p.name for p in pools if p.serves(depth)] for depth in (None, 8, 9)}
    assert served == {None: ["plain", "deep", "any"], 8: ["deep", "any"], 9: ["any"]}


replicas = st.dictionaries(st.integers(0, 6), st.integers(0, 12))


@given(replicas, st.none() | st.integers(0, 6))
def test_the_chosen_one_is_at_most_slack_busier_than_the_idlest(
    n_running: dict[int, int], preferred: int | None
) -> None:
    """Affinity only breaks near-ties; without replicas the result is None."""
    chosen = route(n_running, preferred)
    if not n_running:
        assert chosen is None
        return
    least = min(n_running.values())
    assert n_running[chosen] <= least + (SLACK if chosen == preferred else 0)
    if preferred in n_running and n_running[preferred] <= least + SLACK:
        assert chosen == preferred


@given(replicas, st.randoms(use_true_random=False))
def test_the_order_of_the_replicas_changes_nothing(
    n_running: dict[int, int], shuffler: random.Random
) -> None:
    """Ties go to the lowest number, so routing does not depend on the order of the replicas."""
    pairs = list(n_running.items())
    shuffler.shuffle(pairs)
    assert route(dict(pairs)) == route(n_running)
