"""The hidden state between two decoder layers, and its update by an iteration of the think block.

The one rule: nothing here is written in place, so a state can be kept safely. Needs torch, not
vllm. `batch` decides which tokens run an iteration, and `loop` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch


class HiddenState:
    """The state between layers, in the two parts that vLLM's layers use; their sum is the state.

    Both are (n_tokens, hidden_size); `residual` is None before the first layer and after the two
    have been added.
    """

    __slots__ = ("hidden", "residual")

    def __init__(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> None:
        self.hidden = hidden
        self.residual = residual

    def whole(self) -> torch.Tensor:
        """Return the sum as a new tensor, because layers write into the tensors they are given."""
        return self.hidden.clone() if self.residual is None else self.hidden + self.residual

    def copy(self) -> HiddenState:
        """Return a copy of the state that may be written to."""
        return self._each(lambda part: part.clone())

    def rows(self, tokens: torch.Tensor) -> HiddenState:
        """Return a copy of the rows of the tokens at these positions."""
        return self._each(lambda part: part[tokens])

    def merged(self, tokens: torch.Tensor, part: HiddenState) -> HiddenState:
        """Return this state with `part` as the rows of the tokens at these positions."""
        return self._with(part, lambda old, new: old.index_copy(0, tokens, new))

    def replaced(self, tokens: torch.Tensor, new: HiddenState) -> HiddenState:
        """Return this state with the rows of `new` where the mask `tokens` (n_tokens,) is true."""
        mask = tokens.unsqueeze(1)
        return self._with(new, lambda old, new: torch.where(mask, new, old))

    def _each(self, change: Any) -> HiddenState:
        return HiddenState(
            change(self.hidden), None if self.residual is None else change(self.residual)
        )

    def _with(self, other: HiddenState, join: Any) -> HiddenState:
        if self.residual is None and other.residual is None:
            return HiddenState(join(self.hidden, other.hidden))
        if self.residual is None or other.residual is None:  # a state before the first layer
            return HiddenState(join(self.whole(), other.whole()))
        return HiddenState(join(self.hidden, other.hidden), join(self.residual, other.residual))


def joined(parts: Sequence[HiddenState]) -> HiddenState:
    """Return the rows of all these states, which have the same parts, one after another."""
    residuals = [part.residual for part in parts if part.residual is not None]
    return HiddenState(
        torch.cat([part.hidden for part in parts]), torch.cat(residuals) if residuals else None
    )


class StateUpdate(Protocol):
    """Combines the state before an iteration with the state its layers propose."""

    def __call__(
        self, before: torch.Tensor, proposed: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        """Return the next state; `share` is 1 / depth of each token, (n_tokens, 1)."""
        ...


def damped(before: torch.Tensor, proposed: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return x + (g(x) - x) / r: one of r small steps of a frozen block g (arXiv 2605.23872).

    Exactly `proposed` if the depth r is 1, so that depth 1 is the original model.
    """
    return torch.lerp(before, proposed, share.to(proposed.dtype))


def residual(before: Any, proposed: Any, keep: float) -> Any:
    """Return keep * before + (1 - keep) * proposed (arXiv 2506.08552, section 3).

    `keep` in [0, 1) is the paper's alpha: 0 is the plain loop, and 1 - 1/K damps a frozen model's
    loop to K small steps. Works on torch tensors and NumPy arrays.
    """
    return keep * before + (1 - keep) * proposed


def update_of(latent: Mapping[str, Any]) -> StateUpdate | None:
    """Return the update that `config.latent` names; None for the layers' own output."""
    keep = float(latent.get("residual", 0.0))
    if keep:
        return lambda before, proposed, share: residual(before, proposed, keep)
    return damped if latent["damped"] else None
