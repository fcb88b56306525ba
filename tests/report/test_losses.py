"""Causes of lost accuracy: which are named, and with which remedy."""

from __future__ import annotations

import pytest

from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Cluster, Sampling
from orchestrator.core.votes import scattered
from orchestrator.report.losses import Losses, loss_causes

PLAN = Plan(sampling=Sampling(max_new_tokens=64))


def causes(losses: Losses, n_least: int = 1) -> dict[str, str]:
    return {c.cause: f"{c.n} {c.text}" for c in loss_causes(losses, PLAN, "runs/a b", n_least)}


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        ("cut off", "raise sampling.max_new_tokens"),
        ("abstained", "leadline answers --job 'runs/a b'"),
        ("failed", "leadline show 'runs/a b' ID"),
    ],
)
def test_attempts_without_an_answer_are_named_with_their_remedy(state: str, remedy: str) -> None:
    found = causes(Losses({state: 110, "voted": 82}, 12))
    assert set(found) == {state}
    assert found[state].startswith("110 of 192 attempts ")
    assert remedy in found[state]


def test_the_limit_that_cut_attempts_is_named() -> None:
    text = causes(Losses({"cut off": 9}, 1))["cut off"]
    assert "were cut at sampling.max_new_tokens = 64" in text


def test_few_attempts_are_no_cause() -> None:
    """Under a twentieth: what could be won is less than the noise of most evaluations."""
    assert causes(Losses({"cut off": 9, "voted": 191}, 12)) == {}
    assert causes(Losses({"cut off": 10, "voted": 190}, 12)) != {}


def test_a_running_job_waits_for_evidence() -> None:
    assert causes(Losses({"cut off": 9}, 1), n_least=10) == {}


def test_what_strategies_do_on_purpose_is_no_loss() -> None:
    done = {"cancelled": 50, "dropped": 50, "stopped": 50, "unused": 50, "voted": 1}
    assert causes(Losses(done, 10)) == {}


def test_ties_and_votes_without_agreement_are_named() -> None:
    found = causes(Losses({"voted": 40}, 10, n_tied=2, n_scattered=3))
    assert found["no agreement"].startswith("3 of 10 problems have no two attempts with the same")
    assert found["ties"].startswith("2 of 10 problems")


def test_two_different_answers_are_a_tie_and_three_no_agreement() -> None:
    clusters = [Cluster(Answer(a, a), (i,), 1.0) for i, a in enumerate("ABC")]
    assert scattered(clusters)
    assert not scattered(clusters[:2])
    assert not scattered([*clusters[:2], Cluster(Answer("C", "C"), (2, 3), 2.0)])
