"""A reference model whose generated tokens start from the last state of the token before.

The one rule: a token behind the prompt starts from `share` of the final state of the token before,
and the rest of its own first state; the prompt starts cold. Huginn, arXiv 2502.05171, section 6.3.
"""

from __future__ import annotations

from typing import Any

from loop_references import Model
from torch import Tensor


class Warm:
    """A model of `loop_references` with other first states.

    Its logits are computed last for the final states of a sequence, of which it keeps that of the
    last token; sequences grow by one token.
    """

    def __init__(self, model: Model, share: float, n_prompt: int) -> None:
        self._model, self._share, self._n_prompt = model, share, n_prompt
        self._final: dict[int, Tensor] = {}  # by the length of the sequence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def first_state(self, embedded: Tensor) -> Tensor:
        """Return s_0: that of the tokens behind the prompt is mixed with the state before."""
        state = self._model.first_state(embedded).clone()
        for place in range(self._n_prompt, len(state)):
            before = self._final[place]
            state[place] = (1 - self._share) * state[place] + self._share * before
        return state

    def logits(self, state: Tensor) -> Tensor:
        """Return the model's logits."""
        self._final[len(state)] = state[-1].clone()
        return self._model.logits(state)
