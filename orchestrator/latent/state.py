"""The hidden state between two layers, and how an iteration of the think block changes it. Needs torch, not vllm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from orchestrator.latent.refine import residual


class State:
    """What passes from layer to layer: vLLM's layers keep `hidden` and the `residual` that is still to be added to it apart.

    Both (n_tokens, hidden_size); `residual` None before the first layer and after a change of the whole state.
    """

    __slots__ = ("hidden", "residual")

    def __init__(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> None:
        self.hidden = hidden
        self.residual = residual

    def whole(self) -> torch.Tensor:
        """Return the state as one new tensor: layers write into the ones they were given."""
        return self.hidden.clone() if self.residual is None else self.hidden + self.residual

    def copy(self) -> State:
        """Return a state whose tensors may be written to."""
        return State(self.hidden.clone(), None if self.residual is None else self.residual.clone())

    def rows(self, tokens: torch.Tensor) -> State:
        """Return a copy of the state of the tokens at these places."""
        return State(self.hidden[tokens], None if self.residual is None else self.residual[tokens])

    def merged(self, tokens: torch.Tensor, part: State) -> State:
        """Return the state with `part` as that of the tokens at these places."""
        if (self.residual is None) != (part.residual is None):  # before a first layer: there is no residual yet to merge into
            return State(self.whole().index_copy(0, tokens, part.whole()))
        hidden = self.hidden.index_copy(0, tokens, part.hidden)
        if self.residual is None or part.residual is None:
            return State(hidden)
        return State(hidden, self.residual.index_copy(0, tokens, part.residual))


class Update(Protocol):
    """How the state goes into an iteration of the think block and comes out of it. `share` is the part of the way to go, 1 / depth,
    for all tokens or per token (n_tokens, 1).
    """

    def __call__(self, before: torch.Tensor, after: torch.Tensor, share: float | torch.Tensor) -> torch.Tensor:
        """Return the state after the iteration; neither argument is kept or changed."""
        ...


def damped(before: torch.Tensor, after: torch.Tensor, share: float | torch.Tensor) -> torch.Tensor:
    """Return x + (g(x) - x) / r: r small steps of a frozen model's block g in the place of one (arXiv 2605.23872).

    Exactly `after` where the depth r is 1, so that depth 1 is the model as it is.
    """
    weight = share if isinstance(share, torch.Tensor) else torch.tensor(share, dtype=after.dtype, device=after.device)
    return torch.lerp(before, after, weight.to(after.dtype))


def update_of(latent: Mapping[str, Any]) -> Update | None:
    """Return how `config.latent` wants the state to change in an iteration; None when it is what the layers make of it."""
    keep = float(latent.get("residual", 0.0))
    if keep:
        return lambda before, after, share: residual(before, after, keep)
    return damped if latent["damped"] else None
