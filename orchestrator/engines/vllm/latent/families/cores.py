"""The core of a looped model: the computation of its family around the layers of the think block.

The one rule: what a core returns as new tensors, layers may write to. Needs torch, not vllm; `loop`
runs the layers.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from orchestrator.engines.vllm.latent.state import HiddenState


class LoopCore(Protocol):
    """The computation of a model family around the layers of its think block."""

    def first_state(self, embedded: HiddenState, positions: torch.Tensor) -> HiddenState:
        """Return the state before the first iteration, from that after the head."""
        ...

    def inject(self, state: HiddenState, embedded: HiddenState) -> HiddenState:
        """Return the input of an iteration's first layer, as new tensors: layers write to them."""
        ...

    def close(self, after: HiddenState) -> HiddenState:
        """Return the state at the end of an iteration."""
        ...

    def release(self, state: HiddenState) -> HiddenState:
        """Return the input of the layers after the block, as new tensors."""
        ...

    def finish(self, after: HiddenState) -> torch.Tensor:
        """Return the input of the language-model head, (n_tokens, hidden_size)."""
        ...


class DecoderCore:
    """The core of an ordinary decoder: each layer reads the state of the one before."""

    def __init__(self, norm: Any) -> None:
        """Use this final norm."""
        self._norm = norm

    def first_state(self, embedded: HiddenState, positions: torch.Tensor) -> HiddenState:
        """Return the state after the layers before the block."""
        return embedded

    def inject(self, state: HiddenState, embedded: HiddenState) -> HiddenState:
        """Return a copy of the state."""
        return state.copy()

    def close(self, after: HiddenState) -> HiddenState:
        """Return the layers' output unchanged."""
        return after

    def release(self, state: HiddenState) -> HiddenState:
        """Return a copy of the state."""
        return state.copy()

    def finish(self, after: HiddenState) -> torch.Tensor:
        """Return the normed state."""
        if after.residual is None:
            return self._norm(after.hidden)
        normed, _ = self._norm(after.hidden, after.residual)
        return normed
