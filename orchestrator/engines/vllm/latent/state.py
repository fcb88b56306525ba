"""The hidden state between two layers, and how an iteration of the think block changes it. Needs
torch, not vllm.

Refinement of latent states after training (arXiv 2506.08552, section 3): the residual and the
contrastive step, on tensors or arrays.

Pure: nothing is kept, nothing is imported; torch tensors and NumPy arrays both serve, states along
the last axis.

**The sign.** The paper prints the contrastive step as h + eta * grad_h[MSE(h_good, h) -
  MSE(h_bad, h)]. Over a state of n elements
the gradient of that bracket is (2/n) (h_bad - h_good), whatever h is: the two squares of h cancel.
Going *along* it therefore leads from good to bad, against the text, which wants states drawn to the
good checkpoint's. We descend: h - eta * gradient = h + (2 eta / n) (h_good - h_bad). The bracket is
linear in h, so every step lowers it by exactly eta * ||gradient||^2, and nothing bounds it: too
many steps, or too long ones, pass h_good and leave it behind. With d = h_good - h_bad, a step c d
ends nearer to h_good when c ||d||^2 < 2 (h_good - h) . d, which every h on the near side of h_good
allows for a small enough c.

The residual step runs inside the think loop of the vLLM plugin. The contrastive one needs the
states of two checkpoints at every step, which one engine does not hold: it is here for work on
recorded states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch


class State:
    """What passes from layer to layer: vLLM's layers keep `hidden` and the `residual` that is still
    to be added to it apart.

    Both (n_tokens, hidden_size); `residual` None before the first layer and after a change of the
    whole state.
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
        # before a first layer: there is no residual yet to merge into
        if (self.residual is None) != (part.residual is None):
            return State(self.whole().index_copy(0, tokens, part.whole()))
        hidden = self.hidden.index_copy(0, tokens, part.hidden)
        if self.residual is None or part.residual is None:
            return State(hidden)
        return State(hidden, self.residual.index_copy(0, tokens, part.residual))


class Update(Protocol):
    """How the state goes into an iteration of the think block and comes out of it. `share` is the
    part of the way to go, 1 / depth, for all tokens or per token (n_tokens, 1).
    """

    def __call__(
        self, before: torch.Tensor, after: torch.Tensor, share: float | torch.Tensor
    ) -> torch.Tensor:
        """Return the state after the iteration; neither argument is kept or changed."""
        ...


def damped(before: torch.Tensor, after: torch.Tensor, share: float | torch.Tensor) -> torch.Tensor:
    """Return x + (g(x) - x) / r: r small steps of a frozen model's block g in the place of one
    (arXiv 2605.23872).

    Exactly `after` where the depth r is 1, so that depth 1 is the model as it is.
    """
    weight = (
        share
        if isinstance(share, torch.Tensor)
        else torch.tensor(share, dtype=after.dtype, device=after.device)
    )
    return torch.lerp(before, after, weight.to(after.dtype))


def update_of(latent: Mapping[str, Any]) -> Update | None:
    """Return how `config.latent` wants the state to change in an iteration; None when it is what
    the layers make of it.
    """
    keep = float(latent.get("residual", 0.0))
    if keep:
        return lambda before, after, share: residual(before, after, keep)
    return damped if latent["damped"] else None


def residual(before: Any, proposed: Any, keep: float) -> Any:
    """Return keep * before + (1 - keep) * proposed: the next state, when one iteration made
    `proposed` of `before`.

    `keep` in [0, 1) is the paper's alpha; 0 is the plain loop, and 1 - 1/K damps a frozen model's
    loop to K small steps.
    """
    return keep * before + (1 - keep) * proposed


def contrastive(state: Any, good: Any, bad: Any, rate: float) -> Any:
    """Return the state after one step away from what the worse checkpoint thinks and towards what
    the better one does.

    `rate` above 0 is the paper's eta; all three have shape (..., n). See the module on the sign,
    and on how far one may go.
    """
    return state + (2 * rate / state.shape[-1]) * (good - bad)
