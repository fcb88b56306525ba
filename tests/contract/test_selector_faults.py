"""The contract of a selector can fail: each fault is caught by its rule, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from orchestrator.core.values import (
    Answer,
    Cluster,
    Trace,
)
from orchestrator.core.votes import rank, tally, voters
from orchestrator.testing import (
    check_selector,
)


@dataclass(frozen=True)
class FirstSeen:
    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        first = next((t for t in traces if t in voters(traces)), None)
        return [c for c in tally(voters(traces)) if first and first.ordinal in c.ordinals]


@dataclass(frozen=True)
class SetOrder:
    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        chosen = voters(traces)
        keys = {t.answer.key for t in chosen if t.answer}
        return [c for c in tally(chosen) if c.answer.key == next(iter(keys))]


@dataclass(frozen=True)
class CountsEverybody:
    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        return tally(traces)


@dataclass(frozen=True)
class NegativeWeights:
    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        return rank(replace(c, weight=c.weight - 10) for c in tally(voters(traces)))


@dataclass(frozen=True)
class WorstFirst:
    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        return tally(voters(traces))[::-1]


@dataclass(frozen=True)
class TakesTheLead:
    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        return [tally(voters(traces))[0]]


@dataclass(frozen=True)
class Descends:
    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        return [replace(c, ordinals=c.ordinals[::-1]) for c in tally(voters(traces))]


@dataclass(frozen=True)
class OneClusterForAll:
    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        chosen = voters(traces)
        return (
            [Cluster(chosen[0].answer or Answer("", ""), tuple(t.ordinal for t in chosen), 1.0)]
            if chosen
            else []
        )


@dataclass(frozen=True)
class ReturnsTheAnswer:
    def __call__(self, traces: Sequence[Trace]) -> Any:
        clusters = tally(voters(traces))
        return clusters[0].answer if clusters else []


@dataclass(frozen=True)
class SortsInPlace:
    def __call__(self, traces: Any) -> list[Cluster]:
        traces.append(traces[0])
        return tally(voters(traces[:-1]))


@pytest.mark.parametrize(
    ("selector", "rule"),
    [
        (FirstSeen(), "any order"),
        (SetOrder(), "any order"),
        (CountsEverybody(), "counts votes only"),
        (NegativeWeights(), "weights"),
        (WorstFirst(), "ranked by the tie rule"),
        (Descends(), "ordinals ascend"),
        (OneClusterForAll(), "one cluster, one answer"),
        (ReturnsTheAnswer(), "clusters"),
        (SortsInPlace(), "pure"),
        (TakesTheLead(), "raises nothing"),
    ],
)
def test_a_broken_selector_is_caught_by_its_rule(selector: Any, rule: str) -> None:
    """A check that cannot fail is worth nothing."""
    with pytest.raises(AssertionError, match=rf"^{rule}: "):
        check_selector(selector)
