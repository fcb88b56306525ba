"""Which pool of a fleet a request's depth leads to."""

from __future__ import annotations

import pytest

from orchestrator.core.plan import Model
from orchestrator.core.values import Request
from orchestrator.engines.ray.pools import PoolSpec, at_its_depth

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


@pytest.mark.parametrize(
    ("model", "depth", "pools", "led_to"),
    [
        ("main", None, POOLS, "main"),  # the model's own depth is every pool's
        ("main", 2, POOLS, "main"),
        ("main", 8, POOLS, "deep"),  # the same model with more memory set aside
        ("", 8, POOLS, "deep"),  # "" is the first pool
        ("", 1, POOLS, ""),
        ("deep", 2, POOLS, "main"),
        ("main", 4, POOLS, "wide"),  # whatever its engine is able to
        (
            "main",
            4,
            POOLS[:3],
            "main",
        ),  # another model is no substitute: the fleet refuses it, naming what there is
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
