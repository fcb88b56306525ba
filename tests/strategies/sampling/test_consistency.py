"""Self-consistency: all of `n`, no fewer and no more."""

from __future__ import annotations

import pytest

from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.values import Capability, Finish
from orchestrator.testing import explore
from strategies.sampling.consistency import Consistency


@pytest.mark.parametrize("n", [1, 5, 16])
def test_it_takes_all_n_whatever_they_say(n: int) -> None:
    """A fixed number is the baseline against which savings are quoted.

    Agreement must not end it early.
    """
    it = explore(Consistency(n), lambda r: "A", seed=0)
    assert sorted(it.traces) == list(range(n))
    assert it.stopped_by == ""
    assert Consistency(n).n_planned == n


def test_a_budget_takes_what_it_holds() -> None:
    """Fewer traces, and the result says why."""
    it = explore(Consistency(16), lambda r: "A", Plan(budget=Budget(traces=5)), seed=0)
    assert (len(it.traces), it.stopped_by) == (5, "traces")


def test_every_request_carries_model_and_depth() -> None:
    """Latent depth is a stated need, so that an engine without it is refused at plan time."""
    strategy = Consistency(3, model="big", depth=8)
    it = explore(strategy, lambda r: "A", Plan(models={"main": Model("m"), "big": Model("b")}))
    assert {(t.model, t.depth) for t in it.traces.values()} == {("big", 8)}
    assert strategy.needs == {Capability.DEPTH}
    assert Consistency().needs == frozenset()


def test_nothing_is_cancelled() -> None:
    """Every token of it is an attempt."""
    assert all(
        t.finish is Finish.STOP
        for t in explore(Consistency(4), lambda r: None, seed=3).traces.values()
    )
