"""Visits: how one decoder layer runs several times in a pass, each time with a KV cache of its own and always with the same weights.

vLLM sizes and binds KV caches by the Attention modules in its forward context, by name. So each visit of a layer after the first gets
shallow copies of the layer and its Attention under a name of its own, and an Attention that no visit uses leaves the context.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Visit:
    """A layer to be called once in a pass, and the name under which its Attention finds its KV cache."""

    layer: Any
    attention: Any

    @property
    def name(self) -> str:
        """The name of its KV cache in vLLM's forward context."""
        return str(self.attention.layer_name)


@dataclass(frozen=True, slots=True)
class Visits:
    """The visits of a schedule in order: `head`, then `iterations[0]`, `iterations[1]`, ... as far as a request's depth, then `tail`."""

    head: tuple[Visit, ...]
    iterations: tuple[tuple[Visit, ...], ...]
    tail: tuple[Visit, ...]


def visits_of(layers: Sequence[Any], schedule: Schedule, max_depth: int, context: MutableMapping[str, Any]) -> Visits:
    """Return the visits of these layers, entering each KV cache in vLLM's forward `context` and removing those that none uses."""
    makers = [_again(layer, context) for layer in layers]

    def visits(indices: Sequence[int]) -> tuple[Visit, ...]:
        return tuple(next(makers[i]) for i in indices)

    head = visits(schedule.head)
    iterations = tuple(visits(schedule.think) for _ in range(max_depth if schedule.think else 0))
    tail = visits(schedule.tail)
    for i in set(range(len(layers))) - set(schedule.order(1)):
        del context[layers[i].self_attn.attn.layer_name]
    return Visits(head, iterations, tail)


def _again(layer: Any, context: MutableMapping[str, Any]) -> Iterator[Visit]:
    """Yield the layer itself, then its twins, for ever."""
    yield Visit(layer, layer.self_attn.attn)
    base = layer.self_attn.attn.layer_name
    n = 1
    while True:
        n += 1
        twin = _twin(layer)
        twin.self_attn = _twin(layer.self_attn)
        attention = twin.self_attn.attn = _twin(layer.self_attn.attn)
        attention.layer_name = f"{base}.visit{n}"  # vLLM reads the layer's number from the name: it may hold one bare integer
        context[attention.layer_name] = attention
        yield Visit(twin, attention)


def _twin(module: Any) -> Any:
    """Return a shallow copy that shares all weights and can be given other children."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
