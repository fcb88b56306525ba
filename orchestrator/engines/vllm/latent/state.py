"""The hidden state between two decoder layers, and how an iteration of the think block updates it.

The one rule: nothing here is written in place, so whoever holds a state may keep it. Needs torch,
not vllm. Which tokens take an iteration is decided in `batch`, what runs in one in `loop`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch


class HiddenState:
    """What passes from layer to layer, in the two parts that vLLM's layers keep: their sum counts.

    Both are (n_tokens, hidden_size); `residual` is None before the first layer and where the two
    have been added up.
    """

    __slots__ = ("hidden", "residual")

    def __init__(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> None:
        self.hidden = hidden
        self.residual = residual

    def whole(self) -> torch.Tensor:
        """Return the sum as a new tensor, because layers write into the tensors they are given."""
        return self.hidden.clone() if self.residual is None else self.hidden + self.residual

    def copy(self) -> HiddenState:
        """Return a state whose tensors may be written to."""
        return self._each(lambda part: part.clone())

    def rows(self, tokens: torch.Tensor) -> HiddenState:
        """Return a copy of the rows of the tokens at these places."""
        return self._each(lambda part: part[tokens])

    def merged(self, tokens: torch.Tensor, part: HiddenState) -> HiddenState:
        """Return this state with `part` as the rows of the tokens at these places."""
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
        if self.residual is None or other.residual is None:  # one has not passed a layer yet
            return HiddenState(join(self.whole(), other.whole()))
        return HiddenState(join(self.hidden, other.hidden), join(self.residual, other.residual))


class StateUpdate(Protocol):
    """How the state before an iteration and the state its layers propose make the next one."""

    def __call__(
        self, before: torch.Tensor, proposed: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        """Return the next state; `share` is 1 / depth of each token, (n_tokens, 1)."""
        ...


def damped(before: torch.Tensor, proposed: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return x + (g(x) - x) / r: one of r small steps of a frozen block g (arXiv 2605.23872).

    Exactly `proposed` where the depth r is 1, so that depth 1 is the model as it ships.
    """
    return torch.lerp(before, proposed, share.to(proposed.dtype))


def residual(before: Any, proposed: Any, keep: float) -> Any:
    """Return keep * before + (1 - keep) * proposed (arXiv 2506.08552, section 3).

    `keep` in [0, 1) is the paper's alpha: 0 is the plain loop, and 1 - 1/K damps a frozen model's
    loop to K small steps. Serves torch tensors and NumPy arrays.
    """
    return keep * before + (1 - keep) * proposed


def update_of(latent: Mapping[str, Any]) -> StateUpdate | None:
    """Return the update that `config.latent` names; None for the layers' own output."""
    keep = float(latent.get("residual", 0.0))
    if keep:
        return lambda before, proposed, share: residual(before, proposed, keep)
    return damped if latent["damped"] else None
