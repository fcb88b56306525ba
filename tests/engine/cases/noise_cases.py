"""Tiny looped models with noise on their first latent states, in vLLM, beside the references.

Runs in a program of its own (`latent_program`), for the reasons that `schedule_cases` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loop_cases import TinyModel
from slot_cases import LENGTHS, PROMPTS, ran, ran_with_preemptions

from orchestrator.plan.looped import Draft

Size = tuple[float, int] | None  # and the seed

SIZES: Sequence[Size] = (
    *((0.4, 1), (0.4, 2), None, (0.2, 3), (0.4, 2**52), None),
    *((1.0, 0), (0.4, 7), (0.1, 8)),
)
DEPTHS = (3, 3, 3, 5, None, 1, 2, 4, 5)
START = [3 + i * 7 % 90 for i in range(64)]


def noisy(model: TinyModel, **options: Any) -> dict[str, Any]:
    """Return what `ran` gives: one prompt three times, and others; noise of most of them."""
    prompts = [PROMPTS[3]] * 3 + PROMPTS[3:]
    return ran(model, DEPTHS, prompts, (12, 12, 12, *LENGTHS[3:]), SIZES, **options)


def kind(folder: Path, name: str) -> dict[str, Any]:
    """Four seats for nine requests, which come and go while others run."""
    return noisy(TinyModel(folder, name, max_depth=5), max_num_seqs=4)


def shared_slots(folder: Path) -> dict[str, Any]:
    """A residual step, over slots that two iterations share."""
    fields = {"max_depth": 5, "residual": 0.3, "kv_iterations": 3}
    return noisy(TinyModel(folder, "llama", **fields))


def chunked(folder: Path) -> dict[str, Any]:
    """Prompts of up to 35 tokens, 16 tokens of all requests a step, without drawn tokens."""
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": 16}
    return noisy(TinyModel(folder, "llama", max_depth=5), **options)


def preempted(folder: Path) -> dict[str, Any]:
    """Seven blocks of 32 tokens for nine requests: some are pushed out and computed again."""
    model = TinyModel(folder, "llama", max_depth=5)
    return ran_with_preemptions(model, depths=DEPTHS, lengths=[30] * 9, noise=SIZES)


def drafted(folder: Path) -> dict[str, Any]:
    """Drafts are found without noise; what is kept has it."""
    draft = Draft(depth=1, tokens=2, step_tokens=64)
    return noisy(TinyModel(folder, "llama", draft, max_depth=5))


def exits(folder: Path) -> dict[str, Any]:
    """A token with noise leaves where its own state settles."""
    return noisy(TinyModel(folder, "huginn", max_depth=12, exit="state<0.06"))


def prefix_hits(folder: Path) -> dict[str, Any]:
    """One prompt, and its continuation as a prompt, under noise of one seed or another or none."""
    model = TinyModel(folder, "llama", max_depth=5)
    first = [*START, 5]
    own = model.expected(first, 40, 3, (0.4, 1))[0]
    longer = [*first, *own]
    return ran(
        model,
        (3,) * 6,
        [first, first, longer, longer, longer, first],
        (40,) * 6,
        ((0.4, 1), (0.4, 2), (0.4, 1), (0.4, 2), None, None),
        max_num_seqs=1,
        enable_prefix_caching=True,
    )


CASES = (shared_slots, chunked, preempted, drafted, exits, prefix_hits)


def results(folder: Path) -> dict[str, Any]:
    """Return what each case generated and should have."""
    kinds = {name: kind(folder, name) for name in ("ouro", "huginn", "llama")}
    return {**kinds, **{case.__name__: case(folder) for case in CASES}}
