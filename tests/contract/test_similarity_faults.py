"""The contract of a similarity can fail: each fault is caught by its rule, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator.core.protocols import Pair
from orchestrator.core.steps import next_trace, submit
from orchestrator.core.values import (
    Problem,
    Purpose,
    Request,
)
from orchestrator.testing import (
    check_similarity,
)


@dataclass(frozen=True)
class Likes:
    """A sound similarity, to break: the share of words that two texts have in common."""

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Any:
        yield from ()
        return [self.one(a.text, b.text) for a, b in pairs]

    def one(self, a: str, b: str) -> Any:
        left, right = set(a.split()), set(b.split())
        return len(left & right) / len(left | right) if left or right else None


@dataclass(frozen=True)
class LooksAtTheFirst(Likes):
    def one(self, a: str, b: str) -> Any:
        return len(a) / (len(a) + len(b) + 1)


@dataclass(frozen=True)
class GivesPercent(Likes):
    def one(self, a: str, b: str) -> Any:
        return 50.0


@dataclass(frozen=True)
class RanksThePairs(Likes):
    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Any:
        yield from ()
        return [i / len(pairs) for i in range(len(pairs))]


@dataclass(frozen=True)
class ForgetsOne(Likes):
    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Any:
        yield from ()
        return [0.5 for _ in pairs[1:]]


@dataclass(frozen=True)
class AsksAsIfItSolved(Likes):
    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Any:
        for ordinal in (yield from submit([Request()] * len(pairs))):
            yield from next_trace((ordinal,))
        return [0.5 for _ in pairs]


@dataclass(frozen=True)
class HidesItsNeeds(Likes):
    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Any:
        yield from submit(
            [Request(purpose=Purpose.COMPARE, metrics=("mean_logprob",)) for _ in pairs]
        )
        return [0.5 for _ in pairs]


def test_a_sound_similarity_passes() -> None:
    check_similarity(Likes())


@pytest.mark.parametrize(
    ("similarity_plugin", "rule"),
    [
        (LooksAtTheFirst(), "symmetric"),
        (GivesPercent(), "scores"),
        (RanksThePairs(), "a pair alone"),
        (ForgetsOne(), "one score per pair"),
        (AsksAsIfItSolved(), "purpose"),
        (HidesItsNeeds(), "needs"),
    ],
)
def test_a_broken_similarity_is_caught_by_its_rule(similarity_plugin: Any, rule: str) -> None:
    """A check that cannot fail is worth nothing."""
    with pytest.raises(AssertionError, match=rf"^{rule}: "):
        check_similarity(similarity_plugin)
