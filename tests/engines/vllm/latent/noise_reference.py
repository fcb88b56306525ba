"""A reference model whose first latent states have noise, for a request with this seed and prompt.

The one rule: the noise of a token follows from the request's size and seed and from the token's
position alone, and the prompt has none but on its last token, which predicts the first new one.
"""

from __future__ import annotations

from typing import Any

import torch
from loop_references import Model, truncated_normal
from torch import Tensor


class Noisy:
    """A model of `loop_references` with other first states."""

    def __init__(self, model: Model, size: float, seed: int, n_prompt: int) -> None:
        self._model, self._size, self._seed = model, size, seed
        self._first = n_prompt - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def first_state(self, embedded: Tensor) -> Tensor:
        """Return s_0, with noise of `size` times its root mean square on a request's own tokens."""
        state = self._model.first_state(embedded).clone()
        width = state.shape[1]
        for place in range(self._first, len(state)):
            drawn = [truncated_normal(self._seed, place, column) for column in range(width)]
            scale = self._size * float(state[place].square().mean().sqrt())
            state[place] += scale * torch.tensor(drawn)
        return state
