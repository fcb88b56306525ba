"""Layer visits: run one decoder layer several times in a pass, and for a part of the batch.

Every visit of a layer has its own KV cache and the same weights. vLLM sizes and binds KV caches by
the names of the Attention modules in its forward context. So each visit of a layer after the first
gets shallow copies of the layer and its Attention under a new name, and an Attention that no visit
uses is removed from the context.

vLLM describes a batch to its attention kernels by metadata per layer: the position and the cache
blocks of each request's tokens. It must not include requests that have stopped iterating
(`RequestSubset`). Not covered: attention backends other than the CPU's (`can_reduce`).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.core.layers import Schedule
from orchestrator.engines.vllm.latent.batch import LatentBatch, on_device

_REDUCIBLE = ("CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN")  # vLLM's names


@dataclass(frozen=True, slots=True)
class LayerVisit:
    """A layer to be called once in a pass, and its Attention, which names the KV cache."""

    layer: Any
    attention: Any

    @property
    def name(self) -> str:
        """The name of its KV cache in vLLM's forward context."""
        return str(self.attention.layer_name)


@dataclass(frozen=True, slots=True)
class LayerVisits:
    """The visits of a schedule: head, iterations up to a request's depth, tail."""

    head: tuple[LayerVisit, ...]
    iterations: tuple[tuple[LayerVisit, ...], ...]
    tail: tuple[LayerVisit, ...]

    @property
    def thinking(self) -> list[LayerVisit]:
        """The visits of all iterations."""
        return [visit for iteration in self.iterations for visit in iteration]


def visits_of(
    layers: Sequence[Any], schedule: Schedule, max_depth: int, context: MutableMapping[str, Any]
) -> LayerVisits:
    """Return the visits of these layers.

    Adds each KV cache to vLLM's static forward `context` and removes unused ones.
    """
    sources = [_visits_of_layer(layer, context) for layer in layers]

    def visits(indices: Sequence[int]) -> tuple[LayerVisit, ...]:
        return tuple(next(sources[i]) for i in indices)

    head = visits(schedule.head)
    iterations = tuple(visits(schedule.think) for _ in range(max_depth if schedule.think else 0))
    tail = visits(schedule.tail)
    for i in set(range(len(layers))) - set(schedule.order(1)):
        del context[layers[i].self_attn.attn.layer_name]
    return LayerVisits(head, iterations, tail)


def _visits_of_layer(layer: Any, context: MutableMapping[str, Any]) -> Iterator[LayerVisit]:
    """Yield the layer itself, then endless copies of it."""
    yield LayerVisit(layer, layer.self_attn.attn)
    base = layer.self_attn.attn.layer_name
    for n in itertools.count(2):
        twin = _twin(layer)
        twin.self_attn = _twin(layer.self_attn)
        attention = twin.self_attn.attn = _twin(layer.self_attn.attn)
        # vLLM reads the layer's number from the name: it may contain only one integer
        attention.layer_name = f"{base}.visit{n}"
        context[attention.layer_name] = attention
        yield LayerVisit(twin, attention)


def _twin(module: Any) -> Any:
    """Return a shallow copy that shares all weights and has replaceable children."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def can_reduce(visits: Sequence[LayerVisit]) -> bool:
    """Return whether `RequestSubset` can rewrite the metadata of the visits' attention backend."""
    return all(visit.attention.attn_backend.get_name() in _REDUCIBLE for visit in visits)


class RequestSubset:
    """Some requests of a step: creates forward contexts that compute only their tokens.

    Iterations of the same requests share one instance and its metadata, as the layers of an
    iteration do.
    """

    def __init__(self, members: tuple[int, ...], batch: LatentBatch, device: torch.device) -> None:
        """Select the requests `members` of the batch."""
        self.members = members
        self.tokens = batch.tokens(members, device)
        self._lengths = [batch.starts[i + 1] - batch.starts[i] for i in members]
        self._requests = on_device(members, torch.long, device)
        self._metadata: dict[tuple[int, int, int], Any] = {}
        self._slots: dict[int, torch.Tensor] = {}

    @contextmanager
    def forward_context(self, visits: Sequence[LayerVisit]) -> Iterator[None]:
        """Restrict vLLM's forward context to these requests of the batch, for these visits."""
        from vllm.forward_context import get_forward_context, override_forward_context

        whole = get_forward_context()
        metadata = {
            visit.name: self._reduced(whole.attn_metadata[visit.name], visit.attention)
            for visit in visits
        }
        slots = {visit.name: self._own_slots(whole.slot_mapping[visit.name]) for visit in visits}
        reduced = dataclasses.replace(whole, attn_metadata=metadata, slot_mapping=slots)
        with override_forward_context(reduced):
            yield

    def _own_slots(self, slots: torch.Tensor) -> torch.Tensor:
        if id(slots) not in self._slots:  # one tensor per cache group, alive beyond the step
            self._slots[id(slots)] = slots[self.tokens]
        return self._slots[id(slots)]

    def _reduced(self, metadata: Any, attention: Any) -> Any:
        if attention.attn_backend.get_name() != "CPU_ATTN":
            key = (id(metadata), 0, 0)
            if key not in self._metadata:
                self._metadata[key] = self._reduced_gpu(metadata)
            return self._metadata[key]
        window = int(attention.impl.sliding_window)
        key = (id(metadata), window, int(attention.num_heads))
        if key not in self._metadata:
            self._metadata[key] = self._reduced_cpu(metadata, attention, window)
        return self._metadata[key]

    def _reduced_gpu(self, metadata: Any) -> Any:
        """Return the metadata of FlashAttention's and Triton's builders for these requests.

        As of vllm 0.32. Nothing here waits for the device. `max_seq_len` is unchanged: it is an
        upper bound there too. FlashAttention 3 plans its own schedule if none is given.
        """
        starts = list(itertools.accumulate(self._lengths, initial=0))
        query_start_loc = metadata.query_start_loc
        return dataclasses.replace(
            metadata,
            num_actual_tokens=starts[-1],
            max_query_len=max(self._lengths),
            query_start_loc=on_device(starts, query_start_loc.dtype, query_start_loc.device),
            seq_lens=metadata.seq_lens[self._requests],
            block_table=metadata.block_table[self._requests],
            slot_mapping=self._own_slots(metadata.slot_mapping),
            scheduler_metadata=None,
        )

    def _reduced_cpu(self, metadata: Any, attention: Any, window: int) -> Any:
        """Return the metadata of `CPUAttentionMetadataBuilder.build` for these requests.

        vllm 0.32, v1/attention/backends/cpu_attn.py.
        """
        from vllm import _custom_ops, envs

        starts = metadata.query_start_loc
        lengths = (starts[1:] - starts[:-1])[self._requests]
        query_start_loc = torch.zeros(len(self.members) + 1, dtype=starts.dtype)
        torch.cumsum(lengths, 0, out=query_start_loc[1:])
        seq_lens = metadata.seq_lens[self._requests]
        schedule = _custom_ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(self.members),
            num_heads=attention.num_heads,
            num_kv_heads=attention.num_kv_heads,
            head_dim=attention.head_size,
            seq_lens=seq_lens,
            dtype=attention.dtype,
            query_start_loc=query_start_loc,
            causal=metadata.causal,
            sliding_window_size=window,
            isa=attention.isa,
            enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,
            dynamic_causal=metadata.dynamic_causal,
            kv_cache_dtype=attention.kv_cache_dtype,
        )
        return dataclasses.replace(
            metadata,
            num_actual_tokens=int(query_start_loc[-1]),
            max_query_len=int(lengths.max()),
            query_start_loc=query_start_loc,
            max_seq_len=int(seq_lens.max()),
            seq_lens=seq_lens,
            block_table=metadata.block_table[self._requests],
            slot_mapping=self._own_slots(metadata.slot_mapping),
            scheduler_metadata=schedule,
        )
