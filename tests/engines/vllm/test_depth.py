"""Iteration counts of requests, as kept by the worker."""

from __future__ import annotations

import pytest

from orchestrator.engines.vllm.depth import IterationCounts, Ledger


def test_counts_are_taken_once() -> None:
    """The mean that a trace reports is over its own tokens; the mean it is charged is over all."""
    ledger = Ledger(IterationCounts)
    ledger.of("a").add([4, 4, 4], [2], 0)
    ledger.of("b").add([], [1], 0)
    ledger.of("a").add([], [3, 4], 1)
    counts = ledger.take("a")
    assert counts == IterationCounts(3, 12, 3, 9, [2, 3, 4])
    assert counts.mean_depth == 3.0
    assert counts.mean_of_all == pytest.approx(21 / 6)
    assert ledger.take("a") is None
