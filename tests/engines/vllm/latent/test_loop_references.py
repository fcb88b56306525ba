"""Tests of the references, and of the seeded state that they share with the plugin."""

from __future__ import annotations

import functools

import pytest
import torch
from loop_references import (
    Huginn,
    Ouro,
    at_depths,
    generate_under,
    iterate,
    truncated_normal,
    until_settled,
)
from tiny_loops import huginn_config, huginn_weights, ouro_config, ouro_weights

from orchestrator.engines.vllm.latent.families import huginn as first_state

pytestmark = pytest.mark.engine  # torch is imported

IDS = [5, 17, 33, 60, 8, 21, 44]


@functools.cache
def model(name: str) -> Ouro | Huginn:
    torch.set_num_threads(1)
    if name == "ouro":
        return Ouro(ouro_config(), ouro_weights(ouro_config()))
    return Huginn(huginn_config(), huginn_weights(huginn_config()), state_seed=7)


def test_the_seeded_state_is_what_its_definition_says() -> None:
    """The plugin's tensors match plain integers and the standard library's normal distribution.

    The variance is 1 except for the truncation.
    """
    places = torch.tensor([0, 3, 4095])
    drawn = first_state.truncated_normal(places, 16, seed=7)
    expected = [
        [truncated_normal(7, place, column) for column in range(16)] for place in places.tolist()
    ]
    torch.testing.assert_close(drawn, torch.tensor(expected))
    many = first_state.truncated_normal(torch.arange(256), 512, seed=0)
    assert abs(many.mean()) < 0.01  # 131,072 draws: five standard errors are 0.014
    assert abs(many.std() - 0.9866) < 0.01  # of a unit normal truncated at three sigma
    assert many.abs().max() < 3
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(many[:1], first_state.truncated_normal(torch.arange(1), 512, seed=1))


@pytest.mark.parametrize("name", ["ouro", "huginn"])
def test_a_token_does_not_feel_what_comes_after_it(name: str) -> None:
    """State and exit of a prefix are the same as if it ran alone.

    So exits stay correct in chunks, after a preemption, and in a shared prefix.
    """
    rule = until_settled(0.3 if name == "ouro" else 0.05, least=2, most=12)
    state, taken = iterate(model(name), IDS, rule)
    assert len(set(taken.tolist())) > 2, "the tokens must differ in depth, or this shows nothing"
    for n in (1, 4):
        prefix_state, prefix_taken = iterate(model(name), IDS[:n], rule)
        assert prefix_taken.tolist() == taken[:n].tolist()
        torch.testing.assert_close(prefix_state, state[:n])


@pytest.mark.parametrize("name", ["ouro", "huginn"])
def test_an_exit_is_the_first_settled_step(name: str) -> None:
    """The depths chosen by the rule, set as fixed depths, lead to the same states.

    No token exits early or late.
    """
    threshold = 0.3 if name == "ouro" else 0.05
    state, taken = iterate(model(name), IDS, until_settled(threshold, least=2, most=12))
    fixed, _ = iterate(model(name), IDS, at_depths(taken.tolist()))
    torch.testing.assert_close(fixed, state)
    changes = []
    iterate(
        model(name),
        IDS,
        lambda done, a, b: changes.append((b - a).norm(dim=-1) / b.norm(dim=-1)) or taken > done,
    )
    for token, depth in enumerate(taken.tolist()):
        settled = [float(step[token]) < threshold for step in changes[:depth]]
        assert not any(settled[1:-1])
        assert settled[-1] or depth == 12


def test_a_lower_threshold_takes_more_steps() -> None:
    """Under Huginn's exit by prediction, a stricter rule takes more iterations.

    The prompt runs at full depth, then each token has its own depth.
    """
    _, loose = generate_under(model("huginn"), IDS, 5, ("kl", 0.5, 1), most=16)
    _, strict = generate_under(model("huginn"), IDS, 5, ("kl", 5e-4, 1), most=16)
    assert loose[: len(IDS)] == [16] * len(IDS)
    assert sum(loose) < sum(strict)
