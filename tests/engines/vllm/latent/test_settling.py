"""Exits without an engine: who goes on, what is shown of those that stopped, what is counted."""

from __future__ import annotations

import math

import pytest
import torch

from orchestrator.core.layers import ExitRule
from orchestrator.engines.vllm.depth import Counts, Ledger
from orchestrator.engines.vllm.latent.batch import Rows, Settling, Shown

# two requests: a prompt of two tokens (depth 3), and a generated one after a prompt of four (depth
# 5)
ROWS = Rows((3, 5), (0, 2, 3), ("a", "b"), (2, 4))
PLACES = torch.tensor([0, 1, 4])


def nobody(states: torch.Tensor, requests: tuple[int, ...]) -> torch.Tensor:
    raise AssertionError("no prediction is due")


def test_without_a_rule_every_token_takes_its_depth() -> None:
    """The members are the requests that still run; a token that has stopped keeps its state."""
    settling = Settling(None, ROWS, PLACES)
    state = torch.zeros(3, 1)
    members = []
    for step in range(1, 6):
        members.append(settling.members())
        state = settling.settle(state, torch.full((3, 1), float(step)), nobody)
    assert members == [(0, 1)] * 3 + [(1,)] * 2
    assert settling.members() == ()
    assert settling.taken.tolist() == [3, 3, 5]
    assert state.flatten().tolist() == [3.0, 3.0, 5.0]


def test_a_settled_state_stops_but_not_before_the_least() -> None:
    """||s_i - s_{i-1}|| / ||s_i|| of (10, 10 + d): the first token moves by 1 in 10, the others by
    more.
    """
    for least, taken in ((1, 1), (2, 2)):
        settling = Settling(ExitRule("state", 0.1, least), ROWS, PLACES)
        for _ in range(2):
            settling.settle(torch.tensor([[9.5], [5.0], [2.0]]), torch.full((3, 1), 10.0), nobody)
        assert settling.taken.tolist() == [taken, 2, 2]
        assert settling.members() == (0, 1), (
            "the second token of the first request goes on, and with it the request"
        )


def test_only_generated_tokens_leave_by_their_prediction() -> None:
    """KL from the uniform distribution first, then from the step before: log 2 for a certain choice
    of two, then 0.
    """
    asked = []

    def certain(states: torch.Tensor, requests: tuple[int, ...]) -> torch.Tensor:
        asked.append(requests)
        return torch.tensor([[100.0, 0.0]])

    settling = Settling(ExitRule("kl", 1e-3), ROWS, PLACES)
    settling.settle(torch.zeros(3, 1), torch.ones(3, 1), certain)
    assert settling.runs.tolist() == [True, True, True]
    settling.settle(torch.ones(3, 1), torch.ones(3, 1), certain)
    assert settling.runs.tolist() == [True, True, False]
    settling.settle(torch.ones(3, 1), torch.ones(3, 1), nobody)
    assert asked == [(1,), (1,)]
    assert settling.taken.tolist() == [3, 3, 2]


def test_the_divergence_is_that_of_the_step_before_from_this_one() -> None:
    """KL(p || q) for p = (3/4, 1/4) then q = (1/2, 1/2), by hand: 3/4 log 3/2 + 1/4 log 1/2 =
    0.1308 nats.
    """
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for below, runs in ((expected - 1e-4, True), (expected + 1e-4, False)):
        settling = Settling(ExitRule("kl", below, 2), ROWS, PLACES)
        for logits in ([math.log(3), 0.0], [0.0, 0.0]):
            settling.settle(
                torch.ones(3, 1),
                torch.ones(3, 1),
                lambda states, requests, row=logits: torch.tensor([row]),
            )
        assert bool(settling.runs[2]) is runs


def test_what_has_stopped_shows_its_last_keys() -> None:
    """In a whole batch, and when only some tokens are computed; later readings see the newest of
    each.
    """
    shown = Shown(1)
    first = torch.tensor([[1.0], [2.0], [3.0]])
    assert torch.equal(shown.of(0, first, first)[0], first)
    shown.runs = torch.tensor([True, False, True])
    assert shown.of(0, first * 10, first * 10)[0].flatten().tolist() == [10.0, 2.0, 30.0]
    shown.runs, shown.tokens = torch.tensor([False, False, True]), torch.tensor([1, 2])
    key, value = shown.of(0, torch.tensor([[200.0], [300.0]]), torch.tensor([[-200.0], [-300.0]]))
    assert key.flatten().tolist() == [2.0, 300.0]
    assert value.flatten().tolist() == [2.0, -300.0]
    held, _ = shown.held(0, torch.tensor([0, 1, 2]))
    assert held.flatten().tolist() == [10.0, 2.0, 300.0]


def test_counts_are_taken_once() -> None:
    """The mean a trace reports is of its own tokens; the mean it is charged is of all of them."""
    ledger = Ledger()
    ledger.note("a", [4, 4, 4], [2])
    ledger.note("b", [], [1])
    ledger.note("a", [], [3, 4])
    counts = ledger.take("a")
    assert counts == Counts(3, 12, 3, 9)
    assert counts.mean_depth == 3.0
    assert counts.mean_of_all == pytest.approx(21 / 6)
    assert ledger.take("a") is None
