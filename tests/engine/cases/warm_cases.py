"""Tiny looped models whose own tokens start from the last state of the token before, in vLLM.

Beside the references; runs in a program of its own (`latent_program`), for the reasons that
`schedule_cases` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loop_cases import TinyModel
from noise_cases import START
from offline_engine import end
from slot_cases import LENGTHS, PROMPTS, ran, ran_with_preemptions

from orchestrator.engines.vllm.latent import loop
from orchestrator.plan.looped import DEPTH_ARGUMENT, WARM_ARGUMENT, cache_salt

SHARES = {"ouro": 0.3, "huginn": 1.0, "llama": 0.3}
DEPTHS = (3, 3, 5, None, 1, 2, 4, 5, 2)
WARM = (True, False, True, True, True, False, True, True, True)
ALL = (True,) * 9


def warmed(model: TinyModel, **options: Any) -> dict[str, Any]:
    """Return what `ran` gives: one prompt warm and cold, and others, most of them warm."""
    prompts = [PROMPTS[3]] * 2 + PROMPTS[2:]
    jobs = {"prompts": prompts, "lengths": (12, 12, *LENGTHS[2:]), "warm": WARM}
    return ran(model, DEPTHS, **jobs, **options)


def tiny(folder: Path, name: str, **fields: Any) -> TinyModel:
    return TinyModel(folder, name, **{"max_depth": 5, "warm_start": SHARES[name], **fields})


def kind(folder: Path, name: str) -> dict[str, Any]:
    """Four seats for nine requests, which come and go while others run."""
    return warmed(tiny(folder, name), max_num_seqs=4)


def shared_slots(folder: Path) -> dict[str, Any]:
    """A residual step, over slots that two iterations share."""
    return warmed(tiny(folder, "llama", residual=0.3, kv_iterations=3))


def overwritten_slots(folder: Path) -> dict[str, Any]:
    """Slots that each iteration writes: a request's tokens run one after another."""
    return warmed(tiny(folder, "huginn", kv_iterations=2, kv_writes="last"))


def noisy(folder: Path) -> dict[str, Any]:
    """Noise on what a token starts from."""
    noise = ((0.4, 1), None, (0.4, 2), (0.2, 3)) * 2 + (None,)
    return warmed(tiny(folder, "llama"), noise=noise)


def masked(folder: Path) -> dict[str, Any]:
    """Where all rows of a step are computed."""
    can, loop.can_reduce = loop.can_reduce, lambda visits: False
    found = warmed(tiny(folder, "llama"))
    loop.can_reduce = can
    return found


def chunked(folder: Path) -> dict[str, Any]:
    """Prompts of up to 35 tokens, 16 tokens of all requests a step, without drawn tokens."""
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": 16}
    return warmed(tiny(folder, "llama"), **options)


def preempted(folder: Path) -> dict[str, Any]:
    """Seven blocks of 32 tokens for nine requests: some are pushed out and computed again."""
    jobs = {"depths": DEPTHS, "lengths": [30] * 9, "warm": WARM}
    return ran_with_preemptions(tiny(folder, "llama"), **jobs)


def preempted_in_chunks(folder: Path) -> dict[str, Any]:
    """The same, computed again 16 tokens a step, or found in the prefix cache.

    `found` are the own tokens that requests which come back find there.
    """
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    found: list[int] = []
    stock = KVCacheManager.get_computed_blocks

    def looking(self: Any, request: Any, *others: Any, **named: Any) -> Any:
        blocks = stock(self, request, *others, **named)
        if request.num_preemptions:
            found.append(max(blocks[1] - request.num_prompt_tokens, 0))
        return blocks

    KVCacheManager.get_computed_blocks = looking
    jobs = {"depths": DEPTHS, "lengths": [40] * 9, "warm": WARM}
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": 16}
    model = tiny(folder, "ouro")
    ended = ran_with_preemptions(model, **jobs, **options, enable_prefix_caching=True)
    KVCacheManager.get_computed_blocks = stock
    return {**ended, "found": found}


def exits(folder: Path, rule: str, name: str) -> dict[str, Any]:
    """Tokens stop where their own states or predictions settle, from either start."""
    return warmed(tiny(folder, name, max_depth=12, exit=rule), max_num_seqs=4)


def preempted_exits(folder: Path) -> dict[str, Any]:
    """What is computed again stops where it did."""
    model = tiny(folder, "huginn", max_depth=12, exit="state<0.06")
    jobs = {"depths": (12, 11, 5) * 3, "lengths": [30] * 9, "warm": WARM}
    return ran_with_preemptions(model, **jobs)


def prefix_hits(folder: Path) -> dict[str, Any]:
    """One prompt, and its continuation as a prompt, warm or cold."""
    model = tiny(folder, "llama")
    first = [*START, 5]
    longer = [*first, *model.expected(first, 40, 3, None, True)[0]]
    return ran(
        model,
        (3,) * 6,
        [first, longer, longer, longer, first, first],
        (40,) * 6,
        warm=(True, True, False, True, True, False),
        max_num_seqs=1,
        enable_prefix_caching=True,
    )


def seeded(folder: Path) -> dict[str, Any]:
    """Drawn tokens of nine requests: one after another, and at once with too small a cache."""
    model = tiny(folder, "llama", max_depth=12, exit="state<0.35 after 2")
    return {
        "want": _drawn(model, max_num_seqs=1),
        "got": _drawn(model, max_model_len=96, num_gpu_blocks_override=8),
        "cold": _drawn(model, (False,) * 9),
    }


def _drawn(model: TinyModel, warm: Sequence[bool] = ALL, **options: Any) -> list[list[int]]:
    from vllm import SamplingParams

    engines = [model.opened(**options)]
    outputs = engines[0].generate(
        [{"prompt_token_ids": p, "cache_salt": cache_salt(12)} for p in PROMPTS],
        [
            SamplingParams(
                temperature=1.0,
                seed=seed,
                max_tokens=30,
                detokenize=False,
                ignore_eos=True,
                extra_args={DEPTH_ARGUMENT: 12} | ({WARM_ARGUMENT: True} if is_warm else {}),
            )
            for seed, is_warm in enumerate(warm)
        ],
        use_tqdm=False,
    )
    end(engines)
    return [list(output.outputs[0].token_ids) for output in outputs]


CASES = (
    *(shared_slots, overwritten_slots, noisy, masked, chunked, preempted, preempted_in_chunks),
    *(preempted_exits, prefix_hits, seeded),
)
RULES = {
    "exits_by_state": ("state<0.06", "huginn"),
    "exits_by_prediction": ("kl<0.5", "llama"),
}


def results(folder: Path) -> dict[str, Any]:
    """Return what each case generated and should have."""
    kinds = {name: kind(folder, name) for name in SHARES}
    under = {name: exits(folder, *rule) for name, rule in RULES.items()}
    return {**kinds, **under, **{case.__name__: case(folder) for case in CASES}}
