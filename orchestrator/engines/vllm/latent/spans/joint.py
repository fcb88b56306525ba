"""The layers of a think block, called for requests at different iterations at once.

vLLM places the KV caches of all layers in one allocation, layers outermost: those of an iteration
lie a number of blocks behind those of the first one (`KVCacheTensor.layer_stride`,
v1/kv_cache_interface.py of vllm 0.32). An Attention with a view of the allocation therefore reaches
each request's own iteration by larger block numbers, in one call of the attention kernel.

The one rule: vLLM's cache of a layer at an iteration is the only one; nothing is allocated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from orchestrator.engines.vllm.latent.visits import (
    LayerVisit,
    RequestSubset,
    reduced_context,
    twin_of,
)


class JointVisits:
    """A visit of each layer of the think block, for requests at different iterations."""

    def __init__(self, iterations: Sequence[Sequence[LayerVisit]]) -> None:
        """Make the visits; vLLM must have allocated its caches.

        RuntimeError if they are in another layout.
        """
        from vllm.forward_context import get_forward_context

        of_layers = list(zip(*iterations, strict=True))
        self._block_tokens = iterations[0][0].attention.kv_cache.shape[2]
        self._sources = [visits[0].name for visits in of_layers]
        self._shifts = [_block_shifts([v.attention.kv_cache for v in own]) for own in of_layers]
        self.visits = tuple(
            _joint(own, max(shifts)) for own, shifts in zip(of_layers, self._shifts, strict=True)
        )
        # where vLLM's attention looks a layer up by its name
        get_forward_context().no_compile_layers.update({v.name: v.attention for v in self.visits})

    @contextmanager
    def forward_context(self, subset: RequestSubset, iterations: Sequence[int]) -> Iterator[None]:
        """Set vLLM's forward context for these requests, each at its iteration."""
        shifted: dict[tuple[int, ...], RequestSubset] = {}
        layers = {}
        for visit, source, shifts in zip(self.visits, self._sources, self._shifts, strict=True):
            own = tuple(shifts[i] for i in iterations)
            if own not in shifted:
                shifted[own] = subset.shifted(own, self._block_tokens)
            layers[visit.name] = source, shifted[own]
        with reduced_context(layers):
            yield


def _block_shifts(caches: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Return how many blocks each cache lies behind the one that comes first in the allocation."""
    first = min(cache.storage_offset() for cache in caches)
    found = [divmod(cache.storage_offset() - first, cache.stride(0)) for cache in caches]
    if any(rest for _, rest in found):
        raise RuntimeError("depth batching needs KV caches with layers outermost, as on a CPU")
    return tuple(shift for shift, _ in found)


def _joint(visits: Sequence[LayerVisit], largest_shift: int) -> LayerVisit:
    """Return a visit of the layer whose Attention reaches the caches of all these visits."""
    base = visits[0]
    first = min((v.attention.kv_cache for v in visits), key=lambda cache: cache.storage_offset())
    twin = twin_of(base.layer)
    twin.self_attn = twin_of(base.layer.self_attn)
    attention = twin.self_attn.attn = twin_of(base.attention)
    attention.layer_name = f"{base.name}.joint"
    attention.kv_cache = first.as_strided(
        (largest_shift + first.shape[0], *first.shape[1:]), first.stride(), first.storage_offset()
    )
    return LayerVisit(twin, attention)
