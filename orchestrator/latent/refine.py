"""Refinement of latent states after training (arXiv 2506.08552, section 3): the residual and the contrastive step, on tensors or arrays.

Pure: nothing is kept, nothing is imported; torch tensors and NumPy arrays both serve, states along the last axis.

**The sign.** The paper prints the contrastive step as h + eta * grad_h[MSE(h_good, h) - MSE(h_bad, h)]. Over a state of n elements
the gradient of that bracket is (2/n) (h_bad - h_good), whatever h is: the two squares of h cancel. Going *along* it therefore leads
from good to bad, against the text, which wants states drawn to the good checkpoint's. We descend: h - eta * gradient
= h + (2 eta / n) (h_good - h_bad). The bracket is linear in h, so every step lowers it by exactly eta * ||gradient||^2, and nothing
bounds it: too many steps, or too long ones, pass h_good and leave it behind. With d = h_good - h_bad, a step c d ends nearer to h_good
when c ||d||^2 < 2 (h_good - h) . d, which every h on the near side of h_good allows for a small enough c.

The residual step runs inside the think loop of the vLLM plugin. The contrastive one needs the states of two checkpoints at every step,
which one engine does not hold: it is here for work on recorded states.
"""

from __future__ import annotations

from typing import Any


def residual(before: Any, proposed: Any, keep: float) -> Any:
    """Return keep * before + (1 - keep) * proposed: the next state, when one iteration made `proposed` of `before`.

    `keep` in [0, 1) is the paper's alpha; 0 is the plain loop, and 1 - 1/K damps a frozen model's loop to K small steps.
    """
    return keep * before + (1 - keep) * proposed


def contrastive(state: Any, good: Any, bad: Any, rate: float) -> Any:
    """Return the state after one step away from what the worse checkpoint thinks and towards what the better one does.

    `rate` above 0 is the paper's eta; all three have shape (..., n). See the module on the sign, and on how far one may go.
    """
    return state + (2 * rate / state.shape[-1]) * (good - bad)
