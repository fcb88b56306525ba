"""Reference generation of a scheduled model, in plain PyTorch on transformers' layers.

Every token is recomputed from the start, without any cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def greedy(
    model: Any,
    prompt: Sequence[int],
    n_tokens: int,
    head: Sequence[int],
    think: Sequence[int] = (),
    tail: Sequence[int] = (),
    depth: int = 1,
) -> list[int]:
    """Return the most likely continuation under head, think x depth, tail."""
    return _greedy(
        model,
        prompt,
        n_tokens,
        lambda run, x: run(tail, _repeated(run, think, run(head, x), depth)),
    )


def greedy_damped(
    model: Any,
    prompt: Sequence[int],
    n_tokens: int,
    head: Sequence[int],
    think: Sequence[int],
    tail: Sequence[int],
    depth: int,
) -> list[int]:
    """Return the most likely continuation if each iteration makes 1 / depth of a full step."""

    def states(run: Any, x: torch.Tensor) -> torch.Tensor:
        x = run(head, x)
        for _ in range(depth):
            x = x + (run(think, x) - x) / depth
        return run(tail, x)

    return _greedy(model, prompt, n_tokens, states)


def _repeated(run: Any, layers: Sequence[int], x: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        x = run(layers, x)
    return x


@torch.no_grad()
def _greedy(model: Any, prompt: Sequence[int], n_tokens: int, states: Any) -> list[int]:
    ids = list(prompt)
    for _ in range(n_tokens):
        places = torch.arange(len(ids))[None]
        x = model.model.embed_tokens(torch.tensor([ids]))
        angles = model.model.rotary_emb(x, places)
        mask = torch.full((len(ids), len(ids)), float("-inf")).triu(1)[None, None]

        def run(
            layers: Sequence[int],
            x: torch.Tensor,
            places: Any = places,
            angles: Any = angles,
            mask: Any = mask,
        ) -> torch.Tensor:
            for i in layers:
                out = model.model.layers[i](
                    x, attention_mask=mask, position_ids=places, position_embeddings=angles
                )
                x = out[0] if isinstance(out, tuple) else out
            return x

        ids.append(int(model.lm_head(model.model.norm(states(run, x)))[0, -1].argmax()))
    return ids[len(prompt) :]
