"""Tiny random Ouros, Huginns and Llamas in vLLM: what they generate beside the references.

Runs in a program of its own (`latent_program`), for the reasons that `schedule_cases` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import loop_references as references
import slot_references
import tiny_loops as tiny
from noise_reference import Noisy
from offline_engine import end, new_engine
from warm_reference import Warm

from orchestrator.core.layers import parse_cascade, parse_exit
from orchestrator.core.plan import Model
from orchestrator.engines.vllm.depth import IterationCounts
from orchestrator.engines.vllm.latent import loop
from orchestrator.engines.vllm.start.drafts import speculative_config
from orchestrator.plan.looped import DEPTH_ARGUMENT, Draft, cache_salt, latent_of, usual_names

N_TOKENS = 12
PROMPTS = [[5, 17, 33, 60, 8], [44, 2, 9], [7] * 11]
THINK = "0 (1-2)*r 3"
KINDS = {
    "ouro": (tiny.ouro_config(), tiny.ouro_weights, references.Ouro),
    "huginn": (tiny.huginn_config(), tiny.huginn_weights, references.Huginn),
    "llama": (
        tiny.llama_config(),
        tiny.llama_weights,
        lambda c, w: references.Llama(c, w, [0], [1, 2], [3]),
    ),
}
CASCADES = (
    ("ouro", "chow 0.9 at 2"),
    ("huginn", "opt 0.3 at 2"),
    ("llama", "diff 0.05 at 2"),
    ("llama", "token 0.5 at 1"),
)


class TinyModel:
    """One model: its folder, how the plan has it, and its reference."""

    def __init__(self, folder: Path, kind: str, draft: Draft | None = None, **fields: Any) -> None:
        config, weights, reference = KINDS[kind]
        self.path = tiny.write_folder(folder / kind, config, weights(config))
        self.reference = reference(config, weights(config))
        self.model = Model("tiny", layers=THINK if kind == "llama" else "", **fields)
        latent = latent_of(usual_names(config), self.model, "main")
        assert latent is not None
        self.latent = replace(latent, draft=draft)

    def opened(self, **options: Any) -> Any:
        """Return vLLM's offline engine, started as ours starts it."""
        arguments = {
            "max_model_len": 192,
            "kv_cache_memory_bytes": 64 << 20,
            "block_size": 32,
            "dtype": "float32",
            "max_num_seqs": 9,
        }
        if self.model.exit:
            arguments["worker_extension_cls"] = (
                "orchestrator.engines.vllm.latent.runner.DepthCounts"
            )
        if self.latent.draft is not None:
            arguments["speculative_config"] = speculative_config(self.latent.draft)
        arguments |= {"skip_tokenizer_init": True, "enforce_eager": True, "disable_log_stats": True}
        return new_engine(self.path, self.latent.overrides(), **{**arguments, **options})

    def expected(
        self,
        prompt: Sequence[int],
        n_new: int,
        depth: int,
        noise: tuple[float, int] | None = None,
        is_warm: bool = False,
    ) -> tuple[list[int], list[Any]]:
        """Return the reference's continuation and the iterations of every token that it fed; in a
        cascade instead of these, whether each token is that of the early iteration.

        `noise` is the size of that on its first states, and its seed.
        """
        reference = self.reference
        if is_warm:
            reference = Warm(reference, self.model.warm_start, len(prompt))
        if noise is not None:
            reference = Noisy(reference, *noise, len(prompt))
        if self.model.cascade:
            cascade = parse_cascade(self.model.cascade)
            cascaded = (cascade.rule, cascade.threshold, cascade.depth)
            return references.generate_cascaded(reference, prompt, n_new, cascaded, depth)
        if self.model.kv_iterations:
            later_write = self.latent.kv_writes == "last"
            sharing = slot_references.Sharing(self.model.kv_iterations, later_write)
            keep = self.model.residual
            return slot_references.generate(reference, prompt, n_new, depth, sharing, keep), [
                depth
            ] * (len(prompt) + n_new - 1)
        if not self.model.exit:
            return references.generate(reference, prompt, n_new, depth, self.model.residual), [
                depth
            ] * (len(prompt) + n_new - 1)
        rule = parse_exit(self.model.exit)
        parts = (rule.measure, rule.threshold, rule.least)
        return references.generate_under(reference, prompt, n_new, parts, depth)


def ran(
    model: TinyModel,
    depths: Sequence[int],
    prompts: Sequence[list[int]] = PROMPTS,
    n_new: int = N_TOKENS,
    **options: Any,
) -> dict[str, Any]:
    """Return what vLLM and the reference make of every prompt at every depth, all in one batch, and
    the iterations that both counted.
    """
    from vllm import SamplingParams

    engines = [model.opened(**options)]
    jobs = [(prompt, depth) for prompt in prompts for depth in depths]
    inputs = [
        {"prompt_token_ids": prompt, "cache_salt": cache_salt(depth)} for prompt, depth in jobs
    ]
    outputs = engines[0].generate(
        inputs,
        [
            SamplingParams(
                temperature=0,
                max_tokens=n_new,
                detokenize=False,
                ignore_eos=True,
                extra_args={DEPTH_ARGUMENT: d},
            )
            for _, d in jobs
        ],
        use_tqdm=False,
    )
    wanted = [model.expected(prompt, n_new, depth) for prompt, depth in jobs]
    found = {
        "got": [list(output.outputs[0].token_ids) for output in outputs],
        "want": [ids for ids, _ in wanted],
        "cached": [output.num_cached_tokens for output in outputs],
    }
    if model.model.cascade:
        found["early"] = [sum(is_early) for _, is_early in wanted]
    if model.model.exit:
        found["counted"] = [counted(engines[0], output.request_id) for output in outputs]
        found["taken"] = [
            [sum(taken[: len(p) - 1]), taken[len(p) - 1 :]]
            for (p, _), (_, taken) in zip(jobs, wanted, strict=True)
        ]
        found["depths"] = sorted(
            {
                depth
                for (prompt, _), (_, taken) in zip(jobs, wanted, strict=True)
                for depth in taken[len(prompt) :]
            }
        )
    end(engines)
    return found


def counted(llm: Any, request: str) -> list[Any] | None:
    """Return the iterations of a request's prompt, in all, and of each of its own tokens; in the
    worker its name has a tail of vLLM's.
    """
    ledger = llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model().loop.ledger
    names = [
        name for name in ledger._counts if name.rsplit("-", 1)[0] == request or name == request
    ]
    fields = llm.collective_rpc("take_depth_counts", args=(names[0],))[0] if names else None
    if fields is None:
        return None
    counts = IterationCounts(*fields)
    assert sum(counts.each) == counts.iterations or counts.tokens > len(counts.each)
    return [counts.prompt_iterations, counts.each]


def fixed(folder: Path) -> dict[str, Any]:
    return {
        kind: ran(TinyModel(folder, kind, max_depth=4), (1, 2, 4)) for kind in ("ouro", "huginn")
    }


def residual(folder: Path) -> dict[str, Any]:
    return {
        kind: ran(TinyModel(folder, kind, max_depth=4, residual=0.3), (1, 2, 4))
        for kind in ("huginn", "llama")
    }


def drafted(folder: Path) -> dict[str, Any]:
    """Drafts at depth 1 for requests of depth 2 and 4, beside others of depth 1."""
    draft = Draft(depth=1, tokens=2, step_tokens=64)
    return {
        kind: ran(TinyModel(folder, kind, draft, max_depth=4), (1, 2, 4))
        for kind in ("ouro", "huginn", "llama")
    }


def exits(folder: Path) -> dict[str, Any]:
    rules = {
        "ouro": ("state<0.33 after 2", "acceleration<0.5", "kl<0.3", "entropy<2", "agreement>=3"),
        "huginn": (
            *("state<0.06", "acceleration<0.1", "kl<5e-3 after 2"),
            *("entropy<3.7 after 2", "agreement>=2 after 3"),
        ),
        "llama": (
            *("state<0.35 after 2", "acceleration<0.2 after 4", "kl<0.5"),
            *("entropy<2", "agreement>=4"),
        ),
    }
    return {
        f"{kind} {rule}": ran(TinyModel(folder, kind, max_depth=12, exit=rule), (12, 5))
        for kind, own in rules.items()
        for rule in own
    }


def cascades(folder: Path) -> dict[str, Any]:
    """Requests of depths 1, 2 and 4 in cascades, with and without drafts."""
    return {
        f"{kind} {cascade}{' drafted' if draft else ''}": ran(
            TinyModel(folder, kind, draft, max_depth=4, cascade=cascade), (1, 2, 4)
        )
        for kind, cascade in CASCADES
        for draft in (None, Draft(depth=parse_cascade(cascade).depth, tokens=2, step_tokens=64))
    }


def masked(folder: Path) -> dict[str, Any]:
    """The way of attention backends whose metadata we do not rewrite."""
    can, loop.can_reduce = loop.can_reduce, lambda visits: False
    found = ran(TinyModel(folder, "huginn", max_depth=12, exit="kl<5e-3 after 2"), (12, 5))
    loop.can_reduce = can
    return found


def chunked(folder: Path) -> dict[str, Any]:
    """Prompts of up to 40 tokens, 16 tokens of all requests a step."""
    prompts = [[*range(3 + n, 43)] for n in (0, 9, 25)]
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": 16}
    return ran(
        TinyModel(folder, "huginn", max_depth=12, exit="state<0.06"), (12, 5), prompts, **options
    )


def preempted(folder: Path) -> dict[str, Any]:
    """Seven blocks of 32 tokens for nine requests that want two each: some are pushed out and
    computed anew.
    """
    from vllm.v1.core.sched.scheduler import Scheduler

    pushed_out = []
    stock = Scheduler._preempt_request
    Scheduler._preempt_request = lambda self, request, *a, **k: (
        pushed_out.append(request.request_id),
        stock(self, request, *a, **k),
    )[1]
    prompts = [[*range(3 + n, 23 + n)] for n in (0, 9, 25)]
    options = {"max_model_len": 96, "num_gpu_blocks_override": 8}
    found = ran(
        TinyModel(folder, "huginn", max_depth=12, exit="state<0.06"),
        (12, 11, 5),
        prompts,
        40,
        **options,
    )
    Scheduler._preempt_request = stock
    return {**found, "n_preempted": len(pushed_out)}


def prefix_hits(folder: Path) -> dict[str, Any]:
    """Prompts that begin with the same 64 tokens: the later ones find two blocks of them in the
    cache.
    """
    shared = [3 + i * 7 % 90 for i in range(64)]
    prompts = [[*shared, n] for n in (5, 40, 71)]
    return ran(
        TinyModel(folder, "huginn", max_depth=12, exit="state<0.06"),
        (12,),
        prompts,
        max_num_seqs=1,
        enable_prefix_caching=True,
    )


CASES = (fixed, residual, drafted, exits, cascades, masked, chunked, preempted, prefix_hits)


def results(folder: Path) -> dict[str, Any]:
    """Return what each case generated and should have."""
    return {case.__name__: case(folder) for case in CASES}
