"""Layer visits: run one decoder layer several times in a pass, and for a part of the batch.

Every visit of a layer has its own KV cache and the same weights. vLLM sizes and binds KV caches by
the names of the Attention modules in its forward context. So each visit of a layer after the first
gets shallow copies of the layer and its Attention under a new name, and an Attention that no visit
uses is removed from the context. Iterations that share a KV slot (`kv_iterations`) call the same
visit, or copies of it that do not write.

vLLM describes a batch to its attention kernels by metadata per layer: the position and the cache
blocks of each request's tokens. It must not include requests that have stopped iterating. Each
attention backend builds its own metadata from one description of the batch that all of them share,
so that description is reduced to some requests (`RequestSubset`) and the backend's builder does the
rest. Not covered: backends whose builder has not been compared (`KNOWN_BUILDERS`).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.core.layers import Schedule
from orchestrator.engines.vllm.latent.batch import LatentBatch, on_device
from orchestrator.engines.vllm.latent.state import HiddenState
from orchestrator.plan.looped import LAST

# vLLM's builders of attention metadata that have been compared (tests/engine/test_latent.py)
KNOWN_BUILDERS = (
    "CPUAttentionMetadataBuilder",
    "FlashAttentionMetadataBuilder",
    "TritonAttentionMetadataBuilder",
    "FlexAttentionMetadataBuilder",
    "RocmAttentionMetadataBuilder",
    "RocmAiterUnifiedAttentionMetadataBuilder",
    "RocmSegmentedAttentionMetadataBuilder",
    "AiterFlashAttentionMetadataBuilder",
)
# fields of CommonAttentionMetadata with an entry per request
PER_REQUEST = (
    *("seq_lens", "block_table_tensor", "is_prefilling", "seq_lens_cpu_upper_bound", "req_idx"),
    *("dcp_local_seq_lens", "dcp_local_seq_lens_cpu_upper_bound", "rswa_prefix_lens"),
    *("encoder_seq_lens", "encoder_seq_lens_cpu", "replayssm_decode_base_cpu"),
)
PER_TOKEN = ("slot_mapping", "positions")
_BOUND = "seq_lens_cpu_upper_bound"
OF_THE_BATCH = (
    *("query_start_loc", "query_start_loc_cpu", "num_reqs", "num_actual_tokens", "causal"),
    *("max_query_len", "max_seq_len", "mm_req_doc_ranges"),
    *("_num_computed_tokens_cache", "_token_to_req_indices_cache"),
)


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
    """The visits of a schedule: head, iterations up to a request's depth, tail.

    `drafting` are those of the head that drafts run: all, unless they leave layers out.
    `overwritten` tells whether an iteration writes the caches of an earlier one, `has_readers`
    whether one reads them and leaves them as they are.
    """

    head: tuple[LayerVisit, ...]
    iterations: tuple[tuple[LayerVisit, ...], ...]
    tail: tuple[LayerVisit, ...]
    drafting: tuple[LayerVisit, ...]
    overwritten: bool = False
    has_readers: bool = False

    @property
    def thinking(self) -> list[LayerVisit]:
        """The visits of all iterations."""
        return [visit for iteration in self.iterations for visit in iteration]


def visits_of(
    layers: Sequence[Any],
    schedule: Schedule,
    max_depth: int,
    context: MutableMapping[str, Any],
    kv_iterations: int = 0,
    kv_writes: str = "",
) -> LayerVisits:
    """Return the visits of these layers.

    Adds each KV cache to vLLM's static forward `context` and removes unused ones. With
    `kv_iterations` = k, iteration i has the caches of iteration i mod k; they are written by the
    first or by all of the iterations that share them (`kv_writes`).
    """
    sources = [_visits_of_layer(layer, context) for layer in layers]

    def visits(indices: Sequence[int]) -> tuple[LayerVisit, ...]:
        return tuple(next(sources[i]) for i in indices)

    head = visits(schedule.head)
    n_iterations = max_depth if schedule.think else 0
    n_slots = min(kv_iterations or n_iterations, n_iterations)
    own = [visits(schedule.think) for _ in range(n_slots)]
    later = [[_reader(v) for v in one] for one in own] if kv_writes != LAST else own
    iterations = (*own, *(tuple(later[i % n_slots]) for i in range(n_slots, n_iterations)))
    tail = visits(schedule.tail)
    for i in set(range(len(layers))) - set(schedule.order(1)):
        del context[layers[i].self_attn.attn.layer_name]
    is_shared, reads = n_slots < len(iterations), kv_writes != LAST
    return LayerVisits(head, iterations, tail, head, is_shared and not reads, is_shared and reads)


def _visits_of_layer(layer: Any, context: MutableMapping[str, Any]) -> Iterator[LayerVisit]:
    """Yield the layer itself, then endless copies of it."""
    yield LayerVisit(layer, layer.self_attn.attn)
    base = layer.self_attn.attn.layer_name
    for n in itertools.count(2):
        twin = twin_of(layer)
        twin.self_attn = twin_of(layer.self_attn)
        attention = twin.self_attn.attn = twin_of(layer.self_attn.attn)
        # vLLM reads the layer's number from the name: it may contain only one integer
        attention.layer_name = f"{base}.visit{n}"
        context[attention.layer_name] = attention
        yield LayerVisit(twin, attention)


def _reader(visit: LayerVisit) -> LayerVisit:
    """Return a visit that reads the cache of this one and leaves it as it is.

    It has this one's name, by which vLLM finds the cache; vLLM writes none of a layer that says
    that it shares another's.
    """
    twin = twin_of(visit.layer)
    twin.self_attn = twin_of(visit.layer.self_attn)
    attention = twin.self_attn.attn = twin_of(visit.attention)
    attention.kv_sharing_target_layer_name = visit.name
    return LayerVisit(twin, attention)


def through(
    visits: Sequence[LayerVisit], positions: torch.Tensor, state: HiddenState
) -> HiddenState:
    """Return the state after these layers."""
    hidden, residual = state.hidden, state.residual
    for visit in visits:
        hidden, residual = visit.layer(positions, hidden, residual)
    return HiddenState(hidden, residual)


def writes_by_itself(visit: LayerVisit) -> bool:
    """Return whether the attention backend of a visit writes the cache while it computes."""
    return bool(visit.attention.attn_backend.forward_includes_kv_cache_update)


def twin_of(module: Any) -> Any:
    """Return a shallow copy that shares all weights and has replaceable children."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


@contextmanager
def reading(visits: Sequence[LayerVisit]) -> Iterator[None]:
    """Let these visits attend to their KV caches without writing to them.

    vLLM does not write the cache of a layer that shares another one's (vllm 0.32,
    model_executor/layers/attention/attention.py).
    """
    owners = [(owner, v.name) for v in visits for owner in (v.attention, v.attention.impl)]
    for owner, name in owners:
        owner.kv_sharing_target_layer_name = name
    try:
        yield
    finally:
        for owner, _ in owners:
            owner.kv_sharing_target_layer_name = None


def can_reduce(visits: Sequence[LayerVisit]) -> bool:
    """Return whether the metadata builder of the visits' attention backend is a known one."""
    return all(_is_known(visit.attention.attn_backend) for visit in visits)


def _is_known(backend: Any) -> bool:
    return backend.get_builder_cls().__name__ in KNOWN_BUILDERS


def record_sources() -> None:
    """Make both of vLLM's runners keep what a step's metadata is built from; may be called again.

    vllm 0.32, v1/worker/utils.py.
    """
    from vllm.v1.worker.utils import AttentionGroup

    stock = AttentionGroup.build_metadata
    if getattr(stock, "records", False):
        return

    @functools.wraps(stock)
    def recording(
        group: Any, common_attn_metadata: Any, ubatch_idx: int = 0, *others: Any, **named: Any
    ) -> Any:
        metadata = stock(group, common_attn_metadata, ubatch_idx, *others, **named)
        if _is_known(group.backend):
            common = group._with_kernel_block_table(common_attn_metadata, ubatch_idx)
            metadata.source = MetadataSource(group, common)
            # otherwise V1 copies this metadata, and its source, for another group's blocks
            group.get_metadata_builder(ubatch_idx).supports_update_block_table = False
        return metadata

    recording.records = True  # type: ignore[attr-defined]  # a mark for the next call
    AttentionGroup.build_metadata = recording


class MetadataSource:
    """What a group's attention metadata of one step were built from.

    The group keeps a second builder: some builders write to buffers of their own, which the
    metadata of the whole step still refer to. That builder's metadata hold for one subset at a
    time.
    """

    def __init__(self, group: Any, common: Any) -> None:
        """Keep `common`, vLLM's CommonAttentionMetadata of the whole step."""
        self._group, self._common = group, common

    def built_for(self, subset: RequestSubset) -> Any:
        """Return the metadata that vLLM would build for a step of only these requests."""
        owner, metadata = getattr(self._group, "subset_metadata", (None, None))
        if owner is not subset:
            metadata = self._builder().build(0, subset.reduced(self._common), fast_build=True)
            self._group.subset_metadata = subset, metadata
        return metadata

    def _builder(self) -> Any:
        if not hasattr(self._group, "subset_builder"):
            stock = self._group.get_metadata_builder()
            width = {"block_table_width": self._common.block_table_tensor.shape[1]}
            self._group.subset_builder = type(stock)(
                stock.kv_cache_spec,
                self._group.layer_names,
                stock.vllm_config,
                stock.device,
                **(width if stock.requires_block_table_width else {}),
            )
        return self._group.subset_builder


class RequestSubset:
    """Some requests of a step: creates forward contexts that compute only their tokens.

    Iterations of the same requests share one instance and its metadata, as the layers of an
    iteration do.
    """

    def __init__(
        self,
        members: tuple[int, ...],
        batch: LatentBatch,
        device: torch.device,
        column: int | None = None,
        shifts: tuple[int, ...] = (),
        block_tokens: int = 0,
    ) -> None:
        """Select the requests `members` of the batch: all their tokens of the step, or one each.

        With a `column` n it is the n-th token of each, which sees none of those after it. `shifts`
        are added to the numbers of each one's blocks in the KV cache, of `block_tokens`.
        """
        self.members, self.column, self._batch, self._device = members, column, batch, device
        lengths = [batch.starts[i + 1] - batch.starts[i] for i in members]
        self._unseen: list[int] | None = None  # tokens of the step, behind the one of each request
        if column is None:
            self.tokens = batch.tokens(members, device)
        else:
            own = [batch.starts[i] + column for i in members]
            self.tokens = on_device(own, torch.long, device)
            self._unseen = [length - column - 1 for length in lengths]
            lengths = [1] * len(members)
        self._starts = [*itertools.accumulate(lengths, initial=0)]
        self._longest = max(lengths, default=0)
        self._requests = on_device(members, torch.long, device)
        self._slots: dict[int, torch.Tensor] = {}
        self._block_shifts = self._slot_shifts = None
        if shifts:
            of_tokens = [
                s * block_tokens for s, n in zip(shifts, lengths, strict=True) for _ in range(n)
            ]
            self._block_shifts = on_device(shifts, torch.int32, device).unsqueeze(1)
            self._slot_shifts = on_device(of_tokens, torch.long, device)

    def shifted(self, shifts: tuple[int, ...], block_tokens: int) -> RequestSubset:
        """Return the same requests with these shifts."""
        return RequestSubset(
            self.members, self._batch, self._device, self.column, shifts, block_tokens
        )

    @contextmanager
    def forward_context(self, visits: Sequence[LayerVisit]) -> Iterator[None]:
        """Restrict vLLM's forward context to these requests of the batch, for these visits."""
        with reduced_context({visit.name: (visit.name, self) for visit in visits}):
            yield

    def own_slots(self, slots: torch.Tensor) -> torch.Tensor:
        """Return the slots of these requests' tokens, of those of the whole step."""
        if id(slots) not in self._slots:  # one tensor per cache group, alive beyond the step
            own = slots[self.tokens]
            self._slots[id(slots)] = own if self._slot_shifts is None else own + self._slot_shifts
        return self._slots[id(slots)]

    def reduced(self, common: Any) -> Any:
        """Return vLLM's CommonAttentionMetadata of a step with only these requests.

        As of vllm 0.32. Nothing here waits for the device.
        """
        starts = common.query_start_loc
        ranges = common.mm_req_doc_ranges
        own = {name: self._own(getattr(common, name)) for name in PER_REQUEST}
        if self._unseen is not None:
            own |= {
                name: self._seen(own[name])
                for name in ("seq_lens", _BOUND)
                if own[name] is not None
            }
        longest = common.max_seq_len  # an upper bound there too
        if own[_BOUND] is not None:
            longest = int(own[_BOUND].max())
        reduced = dataclasses.replace(
            common,
            query_start_loc=on_device(self._starts, starts.dtype, starts.device),
            query_start_loc_cpu=torch.tensor(self._starts, dtype=starts.dtype),
            num_reqs=len(self.members),
            num_actual_tokens=self._starts[-1],
            max_query_len=self._longest,
            max_seq_len=longest,
            causal=self._own(common.causal),
            mm_req_doc_ranges=ranges and {n: ranges[i] for n, i in enumerate(self.members)},
            _num_computed_tokens_cache=None,
            _token_to_req_indices_cache=None,
            **own,
            **{name: _at(getattr(common, name), self.tokens) for name in PER_TOKEN},
        )
        if self._block_shifts is not None:
            reduced.block_table_tensor = reduced.block_table_tensor + self._block_shifts
            reduced.slot_mapping = reduced.slot_mapping + self._slot_shifts
        return reduced

    def _seen(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return the lengths without the tokens that are not seen."""
        return lengths - on_device(self._unseen or [], lengths.dtype, lengths.device)

    def _own(self, values: Any) -> Any:
        """Return the entries of these requests, if there is one for each."""
        on_host = not isinstance(values, torch.Tensor) or values.device.type == "cpu"
        return _at(values, list(self.members) if on_host else self._requests)


def _at(values: Any, places: Any) -> Any:
    return values if values is None or isinstance(values, bool) else values[places]


@contextmanager
def reduced_context(layers: Mapping[str, tuple[str, RequestSubset]]) -> Iterator[None]:
    """Set vLLM's forward context for these KV caches.

    Each has the metadata of a cache of the whole step, for some of its requests.
    """
    from vllm.forward_context import get_forward_context, override_forward_context

    whole = get_forward_context()
    reduced = dataclasses.replace(
        whole,
        attn_metadata={
            name: whole.attn_metadata[of].source.built_for(subset)
            for name, (of, subset) in layers.items()
        },
        slot_mapping={
            name: subset.own_slots(whole.slot_mapping[of]) for name, (of, subset) in layers.items()
        },
    )
    with override_forward_context(reduced):
        yield
