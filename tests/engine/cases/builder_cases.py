"""The metadata that attention backends build for some requests of a step, beside those alone.

The steps are real ones: the descriptions of their batches are kept while an engine runs mixed
depths. The builders are vLLM's own, for GPUs too, on tensors of the CPU; no kernel runs.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import schedule_cases
import torch

from orchestrator.core.plan import Model
from orchestrator.engines.vllm.latent import visits
from orchestrator.engines.vllm.latent.visits import MetadataSource, RequestSubset

BUILDERS = {
    "CPUAttentionMetadataBuilder": "cpu_attn",
    "FlashAttentionMetadataBuilder": "flash_attn",
    "TritonAttentionMetadataBuilder": "triton_attn",
    "FlexAttentionMetadataBuilder": "flex_attention",
    "RocmAttentionMetadataBuilder": "rocm_attn",
    "RocmAiterUnifiedAttentionMetadataBuilder": "rocm_aiter_unified_attn",
    "RocmSegmentedAttentionMetadataBuilder": "rocm_segmented_attn",
    "AiterFlashAttentionMetadataBuilder": "rocm_aiter_fa",
}
Step = tuple[Any, Any, RequestSubset]  # attention group, CommonAttentionMetadata, requests


def steps(folder: Path) -> list[Step]:
    """Return the steps of a run with depths 1, 2 and 3 in which requests were left out."""
    kept: list[Step] = []
    stock = MetadataSource.built_for

    def keeping(source: MetadataSource, subset: RequestSubset) -> Any:
        if not kept or kept[-1][2] is not subset:
            group, common = source._group, source._common
            kept.append((group, copy.deepcopy(common), subset))  # buffers are written again
        return stock(source, subset)

    visits.MetadataSource.built_for = keeping  # type: ignore[method-assign]
    model = Model("tiny", layers=schedule_cases.THINK, max_depth=3)
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": 64, "max_num_seqs": 9}
    with schedule_cases.opened(folder, model=model, **options) as generate:
        generate(schedule_cases.MIXED)
    visits.MetadataSource.built_for = stock  # type: ignore[method-assign]
    return kept


def alone(common: Any, members: tuple[int, ...]) -> Any:
    """Return the description of a batch with only these requests, written out from lists."""
    starts = common.query_start_loc_cpu.tolist()
    rows = [range(starts[i], starts[i + 1]) for i in members]
    lengths = [len(row) for row in rows]
    tokens = [token for row in rows for token in row]
    offsets = torch.tensor(
        [sum(lengths[:i]) for i in range(len(lengths) + 1)], dtype=common.query_start_loc.dtype
    )

    def of(values: Any, places: Any) -> Any:
        listed = values.tolist()
        return torch.tensor([listed[place] for place in places], dtype=values.dtype)

    seen = of(common.seq_lens, members)
    return type(common)(
        query_start_loc=offsets,
        query_start_loc_cpu=offsets,
        seq_lens=seen,
        num_reqs=len(members),
        num_actual_tokens=len(tokens),
        max_query_len=max(lengths),
        max_seq_len=max(seen.tolist()),
        block_table_tensor=of(common.block_table_tensor, members),
        slot_mapping=of(common.slot_mapping, tokens),
        causal=True,
        positions=of(common.positions, tokens),
        is_prefilling=of(common.is_prefilling, members),
        seq_lens_cpu_upper_bound=seen,
    )


def plain(value: Any) -> Any:
    """Return metadata as JSON has it.

    Floats are scratch memory, and bytes the CPU kernel's own plan with unwritten parts: of both it
    has the shape, and of a mask function the name.
    """
    if isinstance(value, torch.Tensor):
        kind = [str(value.dtype), list(value.shape)]
        opaque = value.is_floating_point() or value.dtype is torch.int8
        return kind if opaque else [*kind, value.tolist()]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if value is None or isinstance(value, int | float | str):
        return value
    return {"class": type(value).__name__, **plain(vars(value))}


def built(name: str, step: Step) -> dict[str, Any]:
    """Return what a builder makes of a step's remaining requests, and of these alone.

    `whole` is what it had built for all requests before, and `whole_later` the same objects after.
    """
    group, common, subset = step
    module = importlib.import_module(f"vllm.v1.attention.backends.{BUILDERS[name]}")
    config = group.get_metadata_builder().vllm_config

    def builder() -> Any:
        spec = group.get_metadata_builder().kv_cache_spec
        return getattr(module, name)(spec, group.layer_names, config, torch.device("cpu"))

    group = copy.copy(group)
    group.metadata_builders = [builder()]
    vars(group).pop("subset_builder", None)
    vars(group).pop("subset_metadata", None)
    whole = group.get_metadata_builder().build(0, common)
    before = plain(whole)
    got = plain(MetadataSource(group, common).built_for(subset))
    want = plain(builder().build(0, alone(common, subset.members), fast_build=True))
    return {"got": got, "want": want, "whole": before, "whole_later": plain(whole)}


def built_by_v2(step: Step) -> dict[str, Any]:
    """Return what remains of a step that V2's runner describes, and what is built for it alone."""
    from vllm.v1.worker.gpu.attn_utils import build_attn_metadata

    group, common, subset = step
    group = copy.copy(group)
    vars(group).pop("subset_metadata", None)
    whole = build_attn_metadata(
        attn_groups=[[group]],
        num_reqs=common.num_reqs,
        num_tokens=common.num_actual_tokens,
        query_start_loc_gpu=common.query_start_loc,
        query_start_loc_cpu=common.query_start_loc_cpu,
        max_query_len=common.max_query_len,
        seq_lens=common.seq_lens,
        max_seq_len=common.max_seq_len,
        block_tables=[common.block_table_tensor],
        slot_mappings=common.slot_mapping.unsqueeze(0),
        kv_cache_config=SimpleNamespace(kv_cache_groups=[None]),
        seq_lens_cpu_upper_bound=common.seq_lens_cpu_upper_bound,
        positions=common.positions,
        is_prefilling=common.is_prefilling,
        req_idx=common.seq_lens.numpy(),  # any number per request
    )
    got = whole[group.layer_names[-1]].source.built_for(subset)
    want = group.get_metadata_builder().build(0, alone(common, subset.members), fast_build=True)
    return {"got": plain(got), "want": plain(want)}


@contextmanager
def zeroed() -> Iterator[None]:
    """Give builders zeros where they allocate memory, unpinned: parts of buffers stay unwritten."""
    stock, empty = torch.zeros, torch.empty

    def zeros(*shape: Any, pin_memory: bool = False, **named: Any) -> torch.Tensor:
        return stock(*shape, **named)

    torch.zeros = torch.empty = zeros  # type: ignore[assignment]
    yield
    torch.zeros, torch.empty = stock, empty


def results(folder: Path) -> dict[str, Any]:
    """Return what every known builder makes of a prefill, a mixed and a decoding step."""
    from vllm.config import set_current_vllm_config
    from vllm.v1.attention.backend import CommonAttentionMetadata

    schedule_cases.random_model(folder, "llama")
    kept = steps(folder)
    few = [kept[0], kept[len(kept) // 4], kept[-1]]
    config = kept[0][0].get_metadata_builder().vllm_config
    config.cache_config.num_gpu_blocks = 64  # more than the steps use; FlexAttention's asks for it
    with set_current_vllm_config(config), zeroed():
        found = {name: [built(name, step) for step in few] for name in BUILDERS}
        by_v2 = [built_by_v2(step) for step in few]
    fields = [field.name for field in dataclasses.fields(CommonAttentionMetadata)]
    return {"builders": found, "fields": fields, "runner_v2": by_v2}
