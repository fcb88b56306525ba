"""LoRA adapters of one engine: vLLM's arguments for them, and the request that names each.

The one rule: all adapters fit at once, so that no request waits for another's adapter. Imports vllm
only when called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.plan.check import resolve_adapter


def adapter_requests(models: Mapping[str, Model]) -> dict[str, Any]:
    """Return vLLM's request for each pool that is an adapter."""
    from vllm.lora.request import LoRARequest

    adapters = {name: model.lora for name, model in models.items() if model.lora}
    return {
        name: LoRARequest(name, number, resolve_adapter(lora))
        for number, (name, lora) in enumerate(adapters.items(), 1)
    }


def adapter_arguments(
    requests: Mapping[str, Any], given: Mapping[str, object], *, on_cpu: bool
) -> dict[str, Any]:
    """Return vLLM's arguments for these adapters; {} without any.

    PlanError if vLLM does not take one of them, or if `given` arguments do not allow it.
    """
    if not requests:
        for name in (n for n in given if "lora" in n):
            raise PlanError(f"{name} has no effect without an adapter; set models.NAME.lora")
        return {}
    ranks = {name: _rank(name, request.lora_path) for name, request in requests.items()}
    most = given.get("max_lora_rank", _fitting_rank(ranks))
    for name, rank in ranks.items():
        if rank > most:  # type: ignore[operator]  # vLLM's parser has read it
            raise PlanError(
                f"models.{name}.lora has rank {rank}, and args.max_lora_rank is {most}: raise it, "
                "or leave it out"
            )
    # vLLM 0.32's CPU build applies the adapter in the last slot to requests without one (index -1
    # in lora/ops/torch_ops/lora_ops.py): a slot too many stays empty
    n_slots = len(requests) + on_cpu
    return {
        "enable_lora": True,
        "max_loras": n_slots,
        "max_cpu_loras": n_slots,
        "max_lora_rank": most,
    }


def _fitting_rank(ranks: Mapping[str, int]) -> int:
    """Return the least rank of vLLM's that all adapters fit in."""
    return next(step for step in _vllm_ranks() if step >= max(ranks.values()))


def _vllm_ranks() -> tuple[int, ...]:
    from vllm.config.lora import MaxLoRARanks

    return get_args(MaxLoRARanks)


def _rank(pool: str, path: str) -> int:
    """Return the rank of an adapter; PlanError if vLLM does not take it."""
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.lora.utils import get_adapter_absolute_path

    key, most = f"models.{pool}.lora = {path!r}", _vllm_ranks()[-1]
    try:
        helper = PEFTHelper.from_local_dir(get_adapter_absolute_path(path), None)
        rank: int = max([helper.r, *helper.rank_pattern.values()])
        if rank > most:
            raise PlanError(
                f"{key} has rank {rank}, and vLLM takes up to {most}: merge it into its model, and "
                "set path to the result"
            )
        helper.validate_legal(LoRAConfig(max_lora_rank=most))
    except (OSError, ValueError, TypeError) as error:
        raise PlanError(f"{key}: vLLM does not take it: {error}") from error
    return rank
