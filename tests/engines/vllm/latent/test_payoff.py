"""Drafts are made where steps with them were faster, and tried elsewhere."""

from __future__ import annotations

import pytest

from orchestrator.engines.vllm.latent.speculation.payoff import Payoff


def steps(payoff: Payoff, n: int, *, n_requests: int, faster: float) -> list[bool]:
    """Whether each of n steps drafted, where drafts make tokens `faster` times as fast."""
    made = []
    for _ in range(n):
        drafts = payoff.pays(n_requests)
        made.append(drafts)
        n_tokens = 2 * n_requests if drafts else n_requests
        seconds = 2 / faster if drafts else 1.0
        payoff.count(n_requests, drafted=drafts, n_tokens=n_tokens, seconds=seconds)
    return made


@pytest.mark.parametrize(("faster", "expected"), [(1.3, True), (0.9, False)])
def test_after_some_trials_the_faster_way_is_taken(faster: float, expected: bool) -> None:
    """One step in sixteen is a trial: three without drafts in the first 48."""
    payoff = Payoff()
    assert steps(payoff, 48, n_requests=4, faster=faster).count(False) == 3
    made = steps(payoff, 160, n_requests=4, faster=faster)
    assert made.count(expected) == 150


def test_each_size_of_a_batch_is_measured_by_itself() -> None:
    payoff = Payoff()
    steps(payoff, 100, n_requests=1, faster=1.5)
    steps(payoff, 100, n_requests=64, faster=0.7)
    assert sum(steps(payoff, 16, n_requests=1, faster=1.5)) == 15
    assert sum(steps(payoff, 16, n_requests=64, faster=0.7)) == 1


def test_it_follows_a_change() -> None:
    """As when another prompt is continued whose drafts are kept more often."""
    payoff = Payoff()
    assert sum(steps(payoff, 160, n_requests=2, faster=0.8)) < 70
    steps(payoff, 1600, n_requests=2, faster=1.4)
    assert sum(steps(payoff, 160, n_requests=2, faster=1.4)) == 150
