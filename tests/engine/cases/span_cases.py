"""Steps that end between iterations: what an engine generates beside references and beside itself.

Runs in a program of its own (`latent_program`), for the reasons that `schedule_cases` gives.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import draft_cases
import loop_cases
import reference
from schedule_cases import N_TOKENS, PROMPTS, THINK, expected, ids, opened, random_model

from orchestrator.core.plan import Model
from orchestrator.engines.vllm.depth import SCHEDULER

SEATS = {"max_num_seqs": 4, "scheduler_cls": SCHEDULER}
DEPTHS = [8, 1, 4, 2, 8, None, 2, 8, 1, 4, 8, 2]
_rng = random.Random(3)
QUEUE = [*PROMPTS, *([_rng.randrange(3, 128) for _ in range(n)] for n in (8, 33, 64))]
LENGTHS = [12, 24, 7, 15, 9, 20, 31, 12, 5, 12, 40, 17]


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Yield counts of what the schedulers of this block do."""
    from orchestrator.engines.vllm.latent.spans.passes import SpanLayers
    from orchestrator.engines.vllm.latent.spans.scheduler import SpanScheduler

    counts = {"preempted": 0, "paused": 0, "joint": 0, "left": 0}
    preempt, update = SpanScheduler._preempt_request, SpanScheduler._update_after_schedule
    run: Callable[..., Any] = SpanLayers.run

    def preempting(self: Any, request: Any, *arguments: Any, **named: Any) -> None:
        counts["preempted"] += 1
        preempt(self, request, *arguments, **named)

    def updating(self: Any, output: Any) -> None:
        update(self, output)
        counts["paused"] += len(self._begun)
        counts["left"] = len(self._begun)

    def running(self: Any, hidden: Any, positions: Any, batch: Any) -> Any:
        starts = {start for start, stop in batch.spans}
        counts["joint"] += len(starts) > 1
        found = run(self, hidden, positions, batch)
        counts["left"] = len(self.begun)
        return found

    SpanScheduler._preempt_request = preempting
    SpanScheduler._update_after_schedule = updating
    SpanLayers.run = running  # type: ignore[method-assign]  # to be undone
    yield counts
    SpanScheduler._preempt_request, SpanScheduler._update_after_schedule = preempt, update
    SpanLayers.run = run  # type: ignore[method-assign]


def queued(
    folder: Path,
    llama: Any,
    layers: str = THINK,
    depths: Sequence[int | None] = DEPTHS,
    lengths: Sequence[int] = LENGTHS,
    **options: Any,
) -> dict[str, Any]:
    """Twelve requests for four seats."""
    with (
        watched() as counts,
        opened(folder, model=Model("tiny", layers=layers, max_depth=8), **SEATS | options) as run,
    ):
        got = ids(run(depths, QUEUE, lengths))
    want = expected(llama, layers, depths, prompts=QUEUE, lengths=lengths)
    return {"got": got, "want": want, **counts}


def whole_stack(folder: Path, llama: Any) -> dict[str, Any]:
    """No head and no tail."""
    return queued(folder, llama, "(0-3)*r")


def overlapping(folder: Path, llama: Any) -> dict[str, Any]:
    """A layer of the block is in the head, too: the caches of its layers are not equally far apart
    from one iteration to the next.
    """
    return queued(folder, llama, "0 1 (1-2)*r 3")


def preempted(folder: Path, llama: Any) -> dict[str, Any]:
    """Too few blocks for those that run: what goes is the youngest request, a deep one."""
    depths, lengths = [1, 2, 8, 8] * 3, [40] * 12
    options = {"max_model_len": 128, "num_gpu_blocks_override": 6}
    return queued(folder, llama, depths=depths, lengths=lengths, **options)


def chunked(folder: Path, llama: Any) -> dict[str, Any]:
    """Prompts of up to 64 tokens, prefilled 16 tokens of all requests a step."""
    return queued(
        folder, llama, enable_chunked_prefill=True, max_num_batched_tokens=16, max_num_seqs=4
    )


def prefix_hits(folder: Path, llama: Any) -> dict[str, Any]:
    """Prompts of 70 tokens with 64 in common, in the cache while others of them still iterate."""
    prefix = [random.Random(7).randrange(3, 128) for _ in range(64)]
    prompts = [[*prefix, 5 + i, 9, 20 + i, 30, 40 + i, 50] for i in range(12)]
    depths = [8, 4, 8, 1, 4, 8, 8, 4, 1, 8, 4, 8]
    with (
        watched() as counts,
        opened(
            folder,
            model=Model("tiny", layers=THINK, max_depth=8),
            enable_prefix_caching=True,
            **SEATS,
        ) as run,
    ):
        outputs = run(depths, prompts, [N_TOKENS] * 12)
    want = expected(llama, THINK, depths, prompts=prompts, lengths=[N_TOKENS] * 12)
    cached = [output.num_cached_tokens for output in outputs]
    return {"got": ids(outputs), "want": want, "cached": cached, **counts}


def damped(folder: Path, llama: Any) -> dict[str, Any]:
    want = [
        reference.greedy_damped(llama, p, N_TOKENS, [0], [1, 2], [3], d or 1)
        for p, d in zip(QUEUE, DEPTHS, strict=True)
    ]
    with (
        watched() as counts,
        opened(folder, model=Model("tiny", layers=THINK, max_depth=8, damped=True), **SEATS) as run,
    ):
        return {"got": ids(run(DEPTHS, QUEUE, [N_TOKENS] * 12)), "want": want, **counts}


def families(folder: Path, llama: Any) -> dict[str, Any]:
    """Ouro closes each iteration by a norm, and Huginn mixes the state after the head into each."""
    found: dict[str, Any] = {}
    for kind in ("ouro", "huginn"):
        model = loop_cases.TinyModel(folder / "loops", kind, max_depth=8)
        with watched() as counts:
            case = loop_cases.ran(model, [8, 1, 4], **SEATS)
        found[kind] = {**case, **counts}
    return found


def sampled(folder: Path, llama: Any) -> dict[str, Any]:
    """Seeded draws and everything that guides them, by the shipped model; the reference is the same
    engine with vLLM's scheduler, and room for all.
    """
    jobs = draft_cases.jobs(27, (16, 1, 4, None, 2), draft_cases.KINDS)
    with draft_cases.opened(None, max_num_seqs=32) as held:
        plain = draft_cases.ran(held, jobs)
    with watched() as counts, draft_cases.opened(None, **SEATS) as held:
        own = draft_cases.ran(held, jobs)
    logprobs = [plain.logprobs, own.logprobs]
    return {"got": own.tokens, "want": plain.tokens, "logprobs": logprobs, **counts}


def guided(folder: Path, llama: Any) -> dict[str, Any]:
    """Grammars, forbidden words and limits of thinking, against the same engine with vLLM's
    scheduler.
    """
    jobs = draft_cases.jobs(
        15, (16, 1, 4, 8), draft_cases.guided_kinds(), max_tokens=24, ignore_eos=True
    )
    with draft_cases.opened(None, max_num_seqs=32, **draft_cases.GUIDED) as held:
        plain = draft_cases.ran(held, jobs)
    with watched() as counts, draft_cases.opened(None, **SEATS | draft_cases.GUIDED) as held:
        own = draft_cases.ran(held, jobs)
    return {"got": own.tokens, "want": plain.tokens, **counts}


CASES = (
    *(queued, whole_stack, overlapping, preempted, chunked),
    *(prefix_hits, damped, families, sampled, guided),
)


def results(folder: Path) -> dict[str, Any]:
    """Return what each case generated and should have."""
    tiny = random_model(folder, "llama")
    return {case.__name__: case(folder, tiny) for case in CASES}
