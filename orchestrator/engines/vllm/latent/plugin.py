"""The vLLM plugin that registers our architectures, the entry point `leadline-latent`.

vLLM calls it in each of its processes, more than once, and in every vLLM of this environment, even
without Leadline. The one rule: it imports nothing heavy, adds architectures under our own names,
and changes no others. Requests whose own tokens start from other latent states than a prompt does
get keys of their own in the prefix cache.
"""

from __future__ import annotations

import functools
from typing import Any

from orchestrator.plan.looped import NOISE_ARGUMENT, WARM_ARGUMENT, targets


def register() -> None:
    """Register our architectures with vLLM, and their configurations with transformers.

    vLLM imports an architecture when a model names it.
    """
    from vllm import ModelRegistry  # vllm is loaded already: it called us

    from orchestrator.engines.vllm.latent.families.configs import (
        register_configs,
    )  # so is transformers

    known = set(ModelRegistry.get_supported_archs())
    for architecture, target in targets().items():
        if architecture not in known:
            ModelRegistry.register_model(architecture, target)
    register_configs()
    separate_own_tokens()


def separate_own_tokens() -> None:
    """Make vLLM's prefix cache tell blocks with other first states apart; may be called again.

    The hash of a block includes those of all before it. So from the first block with a noisy token
    on a request has blocks of its own noise and seed, and shares those before. From the first one
    with a token that starts warm on it has blocks of its prompt's length: with a longer or shorter
    prompt the same tokens start otherwise. vllm 0.32, v1/core/kv_cache_utils.py.
    """
    from vllm.v1.core import kv_cache_utils

    stock = kv_cache_utils.generate_block_hash_extra_keys
    if getattr(stock, "knows_starts", False):
        return

    @functools.wraps(stock)
    def extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> tuple[tuple[Any, ...] | None, int]:
        keys, next_mm_idx = stock(request, start_token_idx, end_token_idx, start_mm_idx)
        params, n_prompt = request.sampling_params, request.num_prompt_tokens
        arguments = getattr(params, "extra_args", None) or {}
        noise = arguments.get(NOISE_ARGUMENT)
        if noise and end_token_idx >= n_prompt:  # its last token is noisy already
            keys = (*(keys or ()), (NOISE_ARGUMENT, (noise, params.seed)))
        if arguments.get(WARM_ARGUMENT) and end_token_idx > n_prompt:
            keys = (*(keys or ()), (WARM_ARGUMENT, n_prompt))
        return keys, next_mm_idx

    extra_keys.knows_starts = True  # type: ignore[attr-defined]  # a mark for the next call
    kv_cache_utils.generate_block_hash_extra_keys = extra_keys
