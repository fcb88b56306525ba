"""The contract of a strategy can fail: each fault is caught by its rule, by name."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from orchestrator.core.steps import Steps, cancel, next_trace, sample, submit
from orchestrator.core.values import (
    Delimiter,
    Finish,
    Problem,
    Request,
)
from orchestrator.testing import (
    check_strategy,
)


@dataclass
class NotFrozen:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(2)


@dataclass(frozen=True)
class HoldsALambda:
    key: Any = field(default_factory=lambda: lambda: 0)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(2)


@dataclass(frozen=True)
class ForgetsYield:
    def explore(self, problem: Problem, rng: random.Random) -> Any:
        sample(2)


@dataclass(frozen=True)
class AsksTheWorld:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(random.randint(1, 4))


@dataclass(frozen=True)
class RemembersCalls:
    count: ClassVar[Any] = itertools.count()

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(1 + next(self.count) % 3)


@dataclass(frozen=True)
class ReadsTheClock:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(1 + time.perf_counter_ns() // 100 % 5)


@dataclass(frozen=True)
class ReadsASetInItsOrder:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        traces = yield from sample(8)
        answers = {t.answer.key for t in traces if t.answer}
        if answers:
            yield from sample(1, Request(prompt=f"Is it {next(iter(answers))}?"))


@dataclass(frozen=True)
class TrustsItsGrant:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        ordinals = yield from submit([Request()] * 4)
        yield from next_trace((ordinals[3],))


@dataclass(frozen=True)
class TrustsALaterGrant:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(5)
        ordinals = yield from submit([Request()] * 3)
        yield from next_trace((ordinals[2],))


@dataclass(frozen=True)
class FailsWhereItIsStopped:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(2)
        try:
            yield from sample(1)
        except GeneratorExit:
            raise RuntimeError("stopped in its second round") from None


@dataclass(frozen=True)
class TrustsAnswers:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        for trace in (yield from sample(3)):
            assert trace.answer is not None


@dataclass(frozen=True)
class ContinuesWhatFailed:
    needs: ClassVar[frozenset[str]] = frozenset({"continue"})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        for trace in (yield from sample(3)):
            yield from submit([Request(parent=trace.ordinal)])


@dataclass(frozen=True)
class RetriesForEver:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        traces = yield from sample(1)
        while traces and traces[0].finish is Finish.FAILED:
            traces = yield from sample(1)


@dataclass(frozen=True)
class WaitsForNothing:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(2)
        yield from next_trace()


@dataclass(frozen=True)
class RefusesToStop:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        try:
            yield from sample(2)
        finally:
            yield from sample(1)


@dataclass(frozen=True)
class HidesWhatItNeeds:
    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(2, Request(rules=(Delimiter("\n\n"),)))


@dataclass(frozen=True)
class CountsWrongly:
    n_planned: int = 4

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from sample(self.n_planned + 1)


@dataclass(frozen=True)
class SharesBetweenProblems:
    open: ClassVar[dict[str, int]] = {}

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        self.open["now"] = self.open.get("now", 0) + 1
        try:
            for trace in (yield from sample(3)):
                if self.open["now"] > 1:
                    yield from cancel({trace.ordinal})
                    yield from submit([Request()])
        finally:
            self.open["now"] -= 1


@pytest.mark.parametrize(
    ("strategy", "rule"),
    [
        (NotFrozen(), "frozen dataclass"),
        (HoldsALambda(), "options round trip"),
        (ForgetsYield(), "raises nothing"),
        (AsksTheWorld(), "no global random|deterministic"),
        (RemembersCalls(), "deterministic"),
        (ReadsTheClock(), "deterministic"),
        (ReadsASetInItsOrder(), "deterministic"),
        (TrustsItsGrant(), "raises nothing"),
        (TrustsALaterGrant(), "raises nothing"),
        (FailsWhereItIsStopped(), "raises nothing|stops anywhere"),
        (TrustsAnswers(), "raises nothing"),
        (ContinuesWhatFailed(), "raises nothing"),
        (RetriesForEver(), "ends"),
        (WaitsForNothing(), "raises nothing"),
        (RefusesToStop(), "raises nothing|stops anywhere"),
        (HidesWhatItNeeds(), "needs"),
        (CountsWrongly(), "n_planned"),
        (SharesBetweenProblems(), "deterministic"),
    ],
)
def test_a_broken_strategy_is_caught_by_its_rule(strategy: Any, rule: str) -> None:
    """A check that cannot fail is worth nothing."""
    with pytest.raises(AssertionError, match=rf"^({rule}): "):
        check_strategy(strategy)


def test_checking_leaves_the_global_generator_as_it_was() -> None:
    """A check within somebody's suite must not change what their seeded tests draw."""
    random.seed(5)
    expected = random.random()
    random.seed(5)
    with pytest.raises(AssertionError):
        check_strategy(AsksTheWorld())
    assert random.random() == expected
