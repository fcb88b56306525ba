"""Tiny looped models whose iterations share KV slots, in vLLM, beside the references.

Runs in a program of its own (`latent_program`), for the reasons that `schedule_cases` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loop_cases import TinyModel, counted
from offline_engine import end

from orchestrator.engines.vllm.latent import loop
from orchestrator.plan.looped import (
    DEPTH_ARGUMENT,
    NOISE_ARGUMENT,
    WARM_ARGUMENT,
    Draft,
    cache_salt,
)

DEPTHS = (5, 1, None, 3, 4, 2, 5, 3, None)  # None: the default of the model
LENGTHS = (12, 3, 20, 7, 15, 9, 4, 18, 11)
PROMPTS = [[3 + (7 * n + i * (n + 2)) % 90 for i in range(3 + 4 * n)] for n in range(9)]
WRITES = ("last", "first")


def ran(
    model: TinyModel,
    depths: Sequence[int | None] = DEPTHS,
    prompts: Sequence[list[int]] = PROMPTS,
    lengths: Sequence[int] = LENGTHS,
    noise: Sequence[tuple[float, int] | None] = (None,) * len(LENGTHS),
    warm: Sequence[bool] = (False,) * len(LENGTHS),
    **options: Any,
) -> dict[str, Any]:
    """Return what vLLM and the reference make of these requests, all at once, and its caches.

    `noise` is the size of that on a request's first states, and its seed; `warm` whether its own
    tokens start warm.
    """
    from vllm import SamplingParams

    engines = [model.opened(**options)]
    jobs = list(zip(prompts, depths, lengths, noise, warm, strict=False))
    outputs = engines[0].generate(
        [
            {"prompt_token_ids": prompt} | ({"cache_salt": cache_salt(depth)} if depth else {})
            for prompt, depth, *_ in jobs
        ],
        [
            SamplingParams(
                temperature=0,
                max_tokens=n,
                detokenize=False,
                ignore_eos=True,
                seed=own[1] if own else None,
                extra_args=({DEPTH_ARGUMENT: depth} if depth else {})
                | ({NOISE_ARGUMENT: own[0]} if own else {})
                | ({WARM_ARGUMENT: True} if is_warm else {}),
            )
            for _, depth, n, own, is_warm in jobs
        ],
        use_tqdm=False,
    )
    runner = engines[0].llm_engine.model_executor.driver_worker.worker.model_runner
    wanted = [
        model.expected(prompt, n, depth or model.latent.depth, own, is_warm)
        for prompt, depth, n, own, is_warm in jobs
    ]
    found = {
        "got": [list(output.outputs[0].token_ids) for output in outputs],
        "want": [ids for ids, _ in wanted],
        "cached": [output.num_cached_tokens for output in outputs],
        "n_caches": sum(len(g.layer_names) for g in runner.kv_cache_config.kv_cache_groups),
    }
    if model.model.exit:
        found["counted"] = [counted(engines[0], output.request_id) for output in outputs]
        found["taken"] = [
            [sum(taken[: len(prompt) - 1]), taken[len(prompt) - 1 :]]
            for (prompt, *_), (_, taken) in zip(jobs, wanted, strict=True)
        ]
    if any(warm):  # vLLM names the ended requests of a step in the next one
        engines[0].generate({"prompt_token_ids": [5]}, SamplingParams(max_tokens=1))
        found["n_kept"] = runner.get_model().loop.starts.n_kept
    end(engines)
    return found


def shared(folder: Path, kind: str, writes: str, **fields: Any) -> TinyModel:
    """Return a model whose five iterations share two slots."""
    return TinyModel(
        folder, kind, max_depth=5, **{"kv_iterations": 2, "kv_writes": writes, **fields}
    )


def staggered(folder: Path, writes: str) -> dict[str, Any]:
    """Four seats for nine requests of 3 to 20 tokens, which come and go while others run."""
    return {
        kind: ran(shared(folder, kind, writes), max_num_seqs=4)
        for kind in ("ouro", "huginn", "llama")
    }


def one_slot(folder: Path, writes: str) -> dict[str, Any]:
    """A single slot, with a residual step, through the plain stack."""
    return ran(shared(folder, "llama", writes, kv_iterations=1, residual=0.3))


def chunked(folder: Path, writes: str) -> dict[str, Any]:
    """Prompts of up to 35 tokens, 16 tokens of all requests a step."""
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": 16}
    return ran(shared(folder, "llama", writes), **options)


def preempted(folder: Path, writes: str) -> dict[str, Any]:
    """Seven blocks of 32 tokens for nine requests: some are pushed out and computed again."""
    return ran_with_preemptions(shared(folder, "llama", writes), lengths=[30] * 9)


def ran_with_preemptions(model: TinyModel, **jobs: Any) -> dict[str, Any]:
    """Return what `ran` does, with a cache that is too small for all requests."""
    from vllm.v1.core.sched.scheduler import Scheduler

    pushed_out = []
    stock = Scheduler._preempt_request
    Scheduler._preempt_request = lambda self, request, *a, **k: (
        pushed_out.append(request.request_id),
        stock(self, request, *a, **k),
    )[1]
    options = {"max_model_len": 96, "num_gpu_blocks_override": 8}
    found = ran(model, **jobs, **options)
    Scheduler._preempt_request = stock
    return {**found, "n_preempted": len(pushed_out)}


def prefix_hits(folder: Path, writes: str) -> dict[str, Any]:
    """Prompts that begin with the same 64 tokens: later ones of a depth find two blocks of them."""
    start = [3 + i * 7 % 90 for i in range(64)]
    return ran(
        shared(folder, "llama", writes),
        (5, 5, 3, 3),
        [[*start, n] for n in (5, 40, 71, 9)],
        max_num_seqs=1,
        enable_prefix_caching=True,
    )


CASES = (staggered, one_slot, chunked, preempted, prefix_hits)


def unshared(folder: Path) -> dict[str, Any]:
    """The same requests where every iteration has a slot of its own."""
    return ran(TinyModel(folder, "llama", max_depth=5), max_num_seqs=4)


def masked(folder: Path) -> dict[str, Any]:
    """Where rows cannot be left out: written once, slots are right; overwritten, it is refused."""
    can, loop.can_reduce = loop.can_reduce, lambda visits: False
    found = ran(shared(folder, "llama", "first"))
    try:
        ran(shared(folder, "llama", "last"))
    except ValueError as error:
        found["error"] = str(error)
    loop.can_reduce = can
    return found


def drafted(folder: Path) -> dict[str, Any]:
    """Drafts at a depth within the slots, and at one beyond them."""
    return {
        str(depth): ran(
            TinyModel(
                folder,
                "llama",
                Draft(depth=depth, tokens=2, step_tokens=64),
                max_depth=5,
                kv_iterations=2,
                kv_writes="first",
            )
        )
        for depth in (1, 3)
    }


def results(folder: Path) -> dict[str, Any]:
    """Return what each case generated and should have."""
    found = {case.__name__: {w: case(folder, w) for w in WRITES} for case in CASES}
    return found | {case.__name__: case(folder) for case in (unshared, masked, drafted)}
