"""Exits without an engine: which tokens continue, and the keys and values of stopped ones."""

from __future__ import annotations

import math

import pytest
import torch

from orchestrator.core.layers import ExitRule
from orchestrator.engines.vllm.latent.batch import (
    ExitTracker,
    LatentBatch,
    LatestKeyValues,
)
from orchestrator.engines.vllm.latent.state import HiddenState

pytestmark = pytest.mark.engine  # torch is imported

# two requests: a prompt of two tokens (depth 3), and a generated one after a prompt of four (depth
# 5)
BATCH = LatentBatch((3, 5), (0, 2, 3), ("a", "b"), (2, 4))
POSITIONS = torch.tensor([0, 1, 4])
ZEROS, ONES = HiddenState(torch.zeros(3, 1)), HiddenState(torch.ones(3, 1))


def nobody(states: HiddenState, requests: tuple[int, ...]) -> torch.Tensor:
    raise AssertionError("no prediction is due")


def test_a_batch_knows_where_the_tokens_of_its_requests_are() -> None:
    """There are three requests of 2, 3 and 1 tokens at depths 1, 3, 2, and two padding tokens."""
    batch = LatentBatch((1, 3, 2), (0, 2, 5, 6))
    assert batch.tokens((1, 2), torch.device("cpu")).tolist() == [2, 3, 4, 5]
    assert (batch.lengths, batch.longest) == ([2, 3, 1], 3)
    assert batch.token_depths(8, torch.device("cpu")).tolist() == [1, 1, 3, 3, 3, 2, 1, 1]
    tracker, members = ExitTracker(None, batch, torch.arange(8)), []
    state = HiddenState(torch.zeros(8, 1))
    for _ in range(3):
        members.append(tracker.members())
        state = tracker.advance(state, state, nobody)
    assert [*members, tracker.members()] == [(0, 1, 2), (1, 2), (1,), ()]


def test_without_a_rule_every_token_takes_its_depth() -> None:
    """The members are the requests that still run; a stopped token keeps its state."""
    tracker = ExitTracker(None, BATCH, POSITIONS)
    state = HiddenState(torch.zeros(3, 1))
    members = []
    for step in range(1, 6):
        members.append(tracker.members())
        state = tracker.advance(state, HiddenState(torch.full((3, 1), float(step))), nobody)
    assert members == [(0, 1)] * 3 + [(1,)] * 2
    assert tracker.members() == ()
    assert tracker.iterations.tolist() == [3, 3, 5]
    assert state.whole().flatten().tolist() == [3.0, 3.0, 5.0]


def test_a_settled_state_stops_but_not_before_the_least() -> None:
    """The first token moves by 1 in 10, the others by more.

    The change is ||s_i - s_{i-1}|| / ||s_i|| of (10, 10 + d).
    """
    for least, taken in ((1, 1), (2, 2)):
        tracker = ExitTracker(ExitRule("state", 0.1, least), BATCH, POSITIONS)
        for _ in range(2):
            tracker.advance(
                HiddenState(torch.tensor([[9.5], [5.0], [2.0]])),
                HiddenState(torch.full((3, 1), 10.0)),
                nobody,
            )
        assert tracker.iterations.tolist() == [taken, 2, 2]
        assert tracker.members() == (0, 1), (
            "the second token of the first request goes on, and with it the request"
        )


def test_only_generated_tokens_leave_by_their_prediction() -> None:
    """The KL divergence is first from the uniform distribution, then from the previous step.

    It is log 2 for a certain choice of two, then 0.
    """
    predicted = []

    def certain(states: HiddenState, requests: tuple[int, ...]) -> torch.Tensor:
        predicted.append(requests)
        return torch.tensor([[100.0, 0.0]])

    tracker = ExitTracker(ExitRule("kl", 1e-3), BATCH, POSITIONS)
    tracker.advance(ZEROS, ONES, certain)
    assert tracker.running.tolist() == [True, True, True]
    tracker.advance(ONES, ONES, certain)
    assert tracker.running.tolist() == [True, True, False]
    tracker.advance(ONES, ONES, nobody)
    assert predicted == [(1,), (1,)]
    assert tracker.iterations.tolist() == [3, 3, 2]


def test_the_divergence_is_that_of_the_step_before_from_this_one() -> None:
    """KL(p || q) for p = (3/4, 1/4), then q = (1/2, 1/2), is 0.1308 nats.

    By hand: 3/4 log 3/2 + 1/4 log 1/2.
    """
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for below, runs in ((expected - 1e-4, True), (expected + 1e-4, False)):
        tracker = ExitTracker(ExitRule("kl", below, 2), BATCH, POSITIONS)
        for logits in ([math.log(3), 0.0], [0.0, 0.0]):
            tracker.advance(
                ONES,
                ONES,
                lambda states, requests, row=logits: torch.tensor([row]),
            )
        assert bool(tracker.running[2]) is runs


def test_the_last_keys_stand_for_a_token_that_has_stopped() -> None:
    """Applies in a whole batch and if only some tokens are computed.

    Later reads see the newest of each.
    """
    latest = LatestKeyValues(1)
    first = torch.tensor([[1.0], [2.0], [3.0]])
    assert torch.equal(latest.updated(0, first, first)[0], first)
    latest.running = torch.tensor([True, False, True])
    assert latest.updated(0, first * 10, first * 10)[0].flatten().tolist() == [10.0, 2.0, 30.0]
    latest.running, latest.tokens = torch.tensor([False, False, True]), torch.tensor([1, 2])
    key, value = latest.updated(
        0, torch.tensor([[200.0], [300.0]]), torch.tensor([[-200.0], [-300.0]])
    )
    assert key.flatten().tolist() == [2.0, 300.0]
    assert value.flatten().tolist() == [2.0, -300.0]
    kept, _ = latest.of(0, torch.tensor([0, 1, 2]))
    assert kept.flatten().tolist() == [10.0, 2.0, 300.0]
