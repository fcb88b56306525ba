"""Latent refinement: the closed forms, and the sign that the paper prints the other way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.engines.vllm.latent.state import contrastive, residual

WIDTH = 8


def states(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(
        torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )  # type: ignore[return-value]


def bracket(state: torch.Tensor, good: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
    """Return MSE(good, state) - MSE(bad, state), as the paper has it."""
    return torch.nn.functional.mse_loss(good, state) - torch.nn.functional.mse_loss(bad, state)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate", [0.01, 2.0])
def test_the_contrastive_step_is_gradient_descent_on_the_bracket(seed: int, rate: float) -> None:
    """Against torch's own derivative, so the closed form is the paper's objective and the sign is
    the descending one.
    """
    state, good, bad = states(seed)
    leaf = state.clone().requires_grad_()
    bracket(leaf, good, bad).backward()
    assert leaf.grad is not None
    moved = contrastive(state, good, bad, rate)
    torch.testing.assert_close(moved, state - rate * leaf.grad)
    fall = bracket(state, good, bad) - bracket(moved, good, bad)
    torch.testing.assert_close(fall, rate * leaf.grad.pow(2).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_between_the_two_a_step_comes_nearer_to_good_and_leaves_bad(
    seed: int, share: float
) -> None:
    """From any point of the way from bad to good, short of good; the printed sign does the opposite
    of both.
    """
    _, good, bad = states(seed)
    state = bad + share * (good - bad)
    rate = 0.05 * WIDTH / 2  # a step of 0.05 of the way
    moved, printed = contrastive(state, good, bad, rate), contrastive(state, good, bad, -rate)

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).norm())

    assert distance(moved, good) < distance(state, good) < distance(printed, good)
    assert distance(moved, bad) > distance(state, bad)
    assert distance(moved, good) == pytest.approx((0.95 - share) * distance(bad, good), abs=1e-9)


def test_nothing_stops_a_step_that_is_too_long() -> None:
    """The bracket has no minimum: the documentation warns of it, so it must be true."""
    state, good, bad = states(0)
    far = contrastive(state, good, bad, rate=100.0)
    assert (far - good).norm() > (state - good).norm()
    assert bracket(far, good, bad) < bracket(state, good, bad)


def test_the_residual_step_mixes() -> None:
    """keep 0 is the plain loop; 1 - 1/K is one damped step of K: x + (g(x) - x) / K.

    Arrays serve as well as tensors.
    """
    before, proposed = np.arange(4.0), np.ones(4)
    np.testing.assert_array_equal(residual(before, proposed, 0.0), proposed)
    np.testing.assert_allclose(
        residual(before, proposed, 1 - 1 / 4), before + (proposed - before) / 4
    )
