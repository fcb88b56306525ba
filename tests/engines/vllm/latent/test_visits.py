"""Layer visits: the KV caches of a schedule, on stand-ins for vLLM's modules."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from orchestrator.core.layers import parse_schedule
from orchestrator.engines.vllm.latent.visits import LayerVisits, visits_of

pytestmark = pytest.mark.engine  # torch is imported


class _Attention(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer_name = name


class _Layer(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.self_attn = nn.Module()
        self.self_attn.attn = _Attention(f"model.layers.{index}.self_attn.attn")
        self.mlp = nn.Linear(2, 2)


def laid_out(
    text: str, max_depth: int = 1, **slots: Any
) -> tuple[LayerVisits, dict[str, Any], list[Any]]:
    layers = [_Layer(i) for i in range(4)]
    context: dict[str, Any] = {
        layer.self_attn.attn.layer_name: layer.self_attn.attn for layer in layers
    }  # type: ignore[union-attr]
    return visits_of(layers, parse_schedule(text), max_depth, context, **slots), context, layers


@pytest.mark.parametrize(
    ("text", "max_depth", "n_caches"),
    [
        ("0-3", 1, 4),
        ("0 (1-2)*r 3", 1, 4),
        ("0 (1-2)*r 3", 3, 8),
        ("0 2 1 1 3", 1, 5),
        ("3 0", 1, 2),
        ("(0-3)*r", 2, 8),
        ("0 (1 1)*r 0", 2, 6),
    ],
)
def test_every_visit_has_a_cache_of_its_own(text: str, max_depth: int, n_caches: int) -> None:
    """Each visit has one name in vLLM's context, that of the Attention it calls.

    A layer that never runs is removed from the context.
    """
    visits, context, _ = laid_out(text, max_depth)
    every = [*visits.head, *(v for iteration in visits.iterations for v in iteration), *visits.tail]
    assert len(every) == len(context) == n_caches
    assert all(
        context[visit.name] is visit.attention is visit.layer.self_attn.attn for visit in every
    )


def test_visits_share_weights_and_leave_the_layers_alone() -> None:
    """A copy with its own weights would double the model.

    A copy with shared children would rename the layer's own cache.
    """
    visits, _, layers = laid_out("0 (1-2)*r 3", 3)
    first, second = visits.iterations[0][0], visits.iterations[1][0]
    assert first.layer is layers[1]
    assert second.layer is not layers[1]
    assert second.layer.mlp is layers[1].mlp
    assert (first.name, second.name) == (
        "model.layers.1.self_attn.attn",
        "model.layers.1.self_attn.attn.visit2",
    )


@pytest.mark.parametrize(("writes", "overwritten"), [("last", True), ("first", False)])
def test_iterations_beyond_the_slots_use_those_of_earlier_ones(
    writes: str, overwritten: bool
) -> None:
    """Iteration i has the cache of iteration i mod 2; vLLM writes none for a layer that names
    another one as its source.
    """
    visits, context, layers = laid_out("0 (1)*r 2-3", 5, kv_iterations=2, kv_writes=writes)
    names = [one.name for (one,) in visits.iterations]
    assert names == [names[i % 2] for i in range(5)]
    assert len(context) == 5
    assert visits.overwritten is overwritten
    reading = [hasattr(one.attention, "kv_sharing_target_layer_name") for one in visits.thinking]
    assert reading == [False, False, *([not overwritten] * 3)]
    assert all(one.layer.mlp is layers[1].mlp for one in visits.thinking)
    assert all(one.attention is one.layer.self_attn.attn for one in visits.thinking)


def test_layers_run_in_the_order_of_the_schedule() -> None:
    """The order of a schedule at a depth is head, iterations up to the depth, tail."""
    visits, _, layers = laid_out("0 (2 1)*r 3", 2)
    every = [*visits.head, *visits.iterations[0], *visits.iterations[1], *visits.tail]
    weights = [layer.mlp for layer in layers]
    assert [weights.index(visit.layer.mlp) for visit in every] == [0, 2, 1, 2, 1, 3]
