"""Hidden states, and the closed forms of the two updates of an iteration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.engines.vllm.latent.state import HiddenState, concatenated, damped, residual

pytestmark = pytest.mark.engine  # torch is imported


def test_merging_changes_the_given_rows_only() -> None:
    """Applies with and without a residual, and if only the rows that continued have one."""
    old = HiddenState(torch.zeros(3, 2), torch.ones(3, 2))
    part = HiddenState(torch.full((1, 2), 5.0), torch.full((1, 2), 7.0))
    places = torch.tensor([1])
    assert old.merged(places, part).whole().tolist() == [[1, 1], [12, 12], [1, 1]]
    assert HiddenState(torch.zeros(3, 2)).merged(places, part).whole().tolist() == [
        [0, 0],
        [12, 12],
        [0, 0],
    ]
    assert old.whole().tolist() == [[1, 1]] * 3


def test_states_are_concatenated_in_their_order() -> None:
    """Both parts, or the one that there is."""
    one, other = (HiddenState(torch.full((n, 1), float(n)), torch.ones(n, 1)) for n in (1, 2))
    both = concatenated([other, one])
    assert both.whole().tolist() == [[3], [3], [2]]
    assert concatenated([HiddenState(torch.zeros(1, 1))]).residual is None


def test_damping_goes_a_share_of_the_way_and_all_of_it_at_depth_one() -> None:
    """x + (g(x) - x) / r; exactly g(x) at r = 1, though (y - x) + x is not y in floating point."""
    x, y = torch.tensor([[0.1, 1e8]]), torch.tensor([[0.3, 1.0]])
    assert damped(x, y, torch.tensor(1.0)).equal(y)
    assert damped(x, y, torch.tensor([[1.0]])).equal(y)
    half = damped(torch.zeros(2, 1), torch.full((2, 1), 8.0), torch.tensor([[0.5], [0.25]]))
    assert half.tolist() == [[4.0], [2.0]]


def test_the_residual_step_mixes() -> None:
    """keep 0 is the plain loop; 1 - 1/K is one damped step of K: x + (g(x) - x) / K.

    Arrays serve as well as tensors.
    """
    before, proposed = np.arange(4.0), np.ones(4)
    np.testing.assert_array_equal(residual(before, proposed, 0.0), proposed)
    np.testing.assert_allclose(
        residual(before, proposed, 1 - 1 / 4), before + (proposed - before) / 4
    )
