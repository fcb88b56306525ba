"""The contract of a verifier can fail: each fault is caught by its rule, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import VerdictSteps
from orchestrator.core.steps import next_trace, submit
from orchestrator.core.values import (
    Capability,
    Problem,
    Purpose,
    Request,
    Trace,
    Verdict,
)
from orchestrator.kit.model_verifier import ask_all, completed_only
from orchestrator.kit.verdicts import rating
from orchestrator.testing import (
    check_verifier,
)


@dataclass(frozen=True)
class Length:
    """A sound verifier, to break: long texts score high."""

    name: str = "length"

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [Verdict(self.name, min(1.0, len(t.text) / 100)) for t in traces]


@dataclass(frozen=True)
class Percent(Length):
    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [Verdict(self.name, float(len(t.text))) for t in traces]


@dataclass(frozen=True)
class NotANumber(Length):
    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [Verdict(self.name, float("nan")) for t in traces]


@dataclass(frozen=True)
class SkipsAbstainers(Length):
    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [Verdict(self.name, 0.5) for t in traces if t.answer]


@dataclass(frozen=True)
class NeedsOne(Length):
    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        longest = max(len(t.text) for t in traces)
        return [Verdict(self.name, len(t.text) / longest if longest else 0.0) for t in traces]


@dataclass(frozen=True)
class RanksThem(Length):
    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return sorted(await Length.score(self, problem, traces), key=lambda v: v.score)


@dataclass(frozen=True)
class OtherName(Length):
    name: str = "long"


@pytest.mark.parametrize(
    ("verifier", "rule"),
    [
        (Percent(), r"scores in \[0, 1\]"),
        (NotANumber(), r"scores in \[0, 1\]"),
        (SkipsAbstainers(), "one verdict per trace"),
        (NeedsOne(), "raises nothing"),
        (RanksThem(), "verdicts in the order of the traces"),
        (OtherName(), "name"),
    ],
)
async def test_a_broken_verifier_is_caught_by_its_rule(verifier: Any, rule: str) -> None:
    """A check that cannot fail is worth nothing."""
    with pytest.raises(AssertionError, match=rf"^{rule}: "):
        await check_verifier(verifier, name="length")


def test_a_check_runs_also_in_a_test_that_awaits_nothing() -> None:
    """A coroutine that nobody awaits would check nothing, and the test would pass."""
    with pytest.raises(AssertionError, match=r"^scores in \[0, 1\]: "):
        check_verifier(Percent(), name="length")
    check_verifier(Length(), name="length")


async def test_a_sound_verifier_passes() -> None:
    """Else the broken ones above, made from it, would prove nothing."""
    await check_verifier(Length(), name="length")


async def test_the_check_runs_when_it_is_called_within_a_loop_too() -> None:
    """In a notebook, or in a test that forgets to await it, it would pass unseen."""
    with pytest.raises(AssertionError, match="scores in"):
        check_verifier(Percent(), name="length")


@dataclass(frozen=True)
class Asks:
    """A sound verifier that asks, to break: the mean of two stated scores."""

    needs: ClassVar[frozenset[Capability]] = frozenset()

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        read = [
            rating(t.text)
            for t in completed_only((yield from ask_all([Request(prompt=trace.text)] * 2, trace)))
        ]
        scores = [score for score in read if score is not None]
        if not scores:
            raise NoVerdict("nothing was stated")
        return Verdict("asks", self.joined(scores))

    def joined(self, scores: Sequence[float]) -> float:
        return sum(scores) / len(scores)


@dataclass(frozen=True)
class Sums(Asks):
    def joined(self, scores: Sequence[float]) -> float:
        return sum(scores) + 1


@dataclass(frozen=True)
class Assumes(Asks):
    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        try:
            return (yield from Asks.ask(self, problem, trace))
        except NoVerdict:
            return Verdict("asks", 0.5)


@dataclass(frozen=True)
class FirstCome(Asks):
    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        yield from submit([Request(purpose=Purpose.VERIFY, subjects=(trace.ordinal,))] * 3)
        arrived = []
        for _ in range(3):
            arrived.append((yield from next_trace()))  # noqa: PERF401 - a comprehension cannot yield
        score = rating(completed_only(arrived)[0].text)
        if score is None:
            raise NoVerdict("nothing was stated")
        return Verdict("asks", score)


@dataclass(frozen=True)
class Solves(Asks):
    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        yield from submit([Request(prompt="Well?")])
        yield from next_trace()
        return Verdict("asks", 0.5)


@dataclass(frozen=True)
class ReadsMore(Asks):
    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        yield from ask_all([Request(metrics=("mean_logprob",))], trace)
        return (yield from Asks.ask(self, problem, trace))


@dataclass(frozen=True)
class LeavesOne(Asks):
    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        yield from submit([Request(purpose=Purpose.VERIFY, subjects=(trace.ordinal,))])
        return (yield from Asks.ask(self, problem, trace))


@dataclass(frozen=True)
class ForgetsThePrompt(Asks):
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CONTINUE})

    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        [first] = completed_only((yield from ask_all([Request(prompt="Think.")], trace)))
        yield from ask_all([Request(parent=first.ordinal)], trace)
        return (yield from Asks.ask(self, problem, trace))


@dataclass(frozen=True)
class RaisesKeyError(Asks):
    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        [reply] = yield from ask_all([Request()], trace)
        return Verdict("asks", {"Score: 9/10": 0.9}[reply.text])


@dataclass(frozen=True)
class Mute(Asks):
    def ask(self, problem: Problem, trace: Trace) -> VerdictSteps:
        yield from ask_all([Request()], trace)
        raise NoVerdict("never")


@pytest.mark.parametrize(
    ("verifier", "rule"),
    [
        (Sums(), r"scores in \[0, 1\]"),
        (Assumes(), "no verdict without a reply"),
        (FirstCome(), "order of arrival"),
        (Solves(), "purpose"),
        (ReadsMore(), "needs"),
        (LeavesOne(), "waits for what it asked"),
        (ForgetsThePrompt(), "continuation"),
        (RaisesKeyError(), "raises nothing but NoVerdict"),
        (Mute(), "verdicts"),
    ],
)
async def test_a_broken_asking_verifier_is_caught_by_its_rule(verifier: Any, rule: str) -> None:
    """As above; the sound one, from which they are made, passes."""
    await check_verifier(Asks(), name="asks")
    with pytest.raises(AssertionError, match=rf"^{rule}: "):
        await check_verifier(verifier, name="asks")
