"""The checks can fail: each broken plugin here breaks one rule, and is caught by that rule, by
name.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest

from orchestrator.core.errors import NoVerdict
from orchestrator.core.protocols import Pair, VerdictSteps
from orchestrator.core.steps import Steps, cancel, next_trace, sample, submit
from orchestrator.core.values import (
    Answer,
    Capability,
    Cluster,
    Delimiter,
    Finish,
    Problem,
    Purpose,
    Request,
    Trace,
    Verdict,
)
from orchestrator.core.votes import rank, tally, voters
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.kit.model_verifier import ask_all, completed_only
from orchestrator.kit.verdicts import rating
from orchestrator.testing import (
    check_domain,
    check_engine,
    check_selector,
    check_similarity,
    check_strategy,
    check_verifier,
)

# --- strategies
# -------------------------------------------------------------------------------------------------------


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


# --- selectors
# --------------------------------------------------------------------------------------------------------


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


# --- judges
# -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Likes:
    """A sound judge, to break: the share of words that two texts have in common."""

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


def test_a_sound_judge_passes() -> None:
    check_similarity(Likes())


@pytest.mark.parametrize(
    ("judge", "rule"),
    [
        (LooksAtTheFirst(), "symmetric"),
        (GivesPercent(), "scores"),
        (RanksThePairs(), "a pair alone"),
        (ForgetsOne(), "one score per pair"),
        (AsksAsIfItSolved(), "purpose"),
        (HidesItsNeeds(), "needs"),
    ],
)
def test_a_broken_judge_is_caught_by_its_rule(judge: Any, rule: str) -> None:
    """A check that cannot fail is worth nothing."""
    with pytest.raises(AssertionError, match=rf"^{rule}: "):
        check_similarity(judge)


# --- domains
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """A sound domain, to break: the word after "the answer is"."""

    in_process: ClassVar[bool] = True

    def extract(self, text: str, finished: bool) -> str | None:
        words = text.rpartition("The answer is ")[2].split() if "The answer is " in text else []
        return words[0].rstrip(".") or None if words else None

    def canonical(self, answer: str) -> str:
        return "=" + answer.removeprefix("=").strip().lower()

    def equivalent(self, a: str, b: str) -> bool:
        return self.canonical(a) == self.canonical(b)


@dataclass(frozen=True)
class Guesses(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        return text.split()[-1] if text.split() else None


@dataclass(frozen=True)
class Empty(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        return ""


@dataclass(frozen=True)
class Raises(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        return str(int(text)) if finished else None


@dataclass(frozen=True)
class Unread(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        return Words.extract(self, text, finished) if finished else None


@dataclass(frozen=True)
class Unstable(Words):
    def canonical(self, answer: str) -> str:
        return "=" + answer + "!"


@dataclass(frozen=True)
class Lopsided(Words):
    def equivalent(self, a: str, b: str) -> bool:
        return a <= b


@dataclass(frozen=True)
class ToldApart(Words):
    def equivalent(self, a: str, b: str) -> bool:
        return a == b


@dataclass(frozen=True)
class HalfComplete(Words):
    def equivalent(self, a: str, b: str) -> bool:
        return True


@dataclass(frozen=True)
class Quadratic(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        for end in range(len(text)):
            text[:end].count("zz")
            [c for c in text[:end] if c == "z"]
        return Words.extract(self, text, finished)


@pytest.mark.parametrize(
    ("domain", "rule"),
    [
        (Guesses(), "a truncated text abstains"),
        (Empty(), "extract"),
        (Raises(), "extract raises nothing"),
        (Unread(), "stated answers are read"),
        (Unstable(), "canonical is idempotent"),
        (Lopsided(), "equivalent is symmetric"),
        (ToldApart(), "equal forms are equivalent"),
        (HalfComplete(), "complete forms decide"),
        (Quadratic(), "linear time in process"),
    ],
)
def test_a_broken_domain_is_caught_by_its_rule(domain: Any, rule: str) -> None:
    """A check that cannot fail is worth nothing."""
    with pytest.raises(AssertionError, match=rf"^{rule}: "):
        check_domain(
            domain,
            stated=[("The answer is yes.", "yes"), ("The answer is no.", "no")],
            equal=[("Yes", "yes")],
        )


def test_a_sound_domain_passes() -> None:
    """Else the broken ones above, made from it, would prove nothing."""
    check_domain(
        Words(),
        stated=[("The answer is yes.", "yes"), ("The answer is no.", "no")],
        equal=[("Yes", "yes")],
    )


# --- verifiers
# --------------------------------------------------------------------------------------------------------


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
    with pytest.raises(AssertionError, match="^pairing: "):
        check_engine(PairsWrongly(FAKE), FAKE.capabilities())
    check_verifier(Length(), name="length")


async def test_a_sound_verifier_passes() -> None:
    """Else the broken ones above, made from it, would prove nothing."""
    await check_verifier(Length(), name="length")


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


# --- engines
# ----------------------------------------------------------------------------------------------------------

FAKE = Fake(n_tokens=400, seconds_per_token=0.0005)


class CachesByPrompt(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return replace(await super().generate(replace(request, seed=0)), ordinal=request.ordinal)


class PairsWrongly(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return replace(await super().generate(request), ordinal=request.ordinal ^ 1)


class IgnoresLimit(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return await super().generate(replace(request, max_new_tokens=50))


class IgnoresAborts(FakeEngine):
    def abort(self, request: Request) -> None:
        pass


class RefusesUnknownAborts(FakeEngine):
    def abort(self, request: Request) -> None:
        self._aborts[(request.problem_id, request.ordinal)].set()


class SwallowsCancellation(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        try:
            return await super().generate(request)
        except asyncio.CancelledError:
            return Trace(request.ordinal, finish=Finish.CANCELLED)


class DrawsAnew(FakeEngine):
    draws = itertools.count()

    async def generate(self, request: Request) -> Trace:
        return await super().generate(
            replace(request, seed=request.seed + 1_000_000 * next(self.draws))
        )


class ForgetsTheParent(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return await super().generate(replace(request, prefix_ids=()))


class IgnoresRules(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return await super().generate(replace(request, rules=()))


class IgnoresMetrics(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        return await super().generate(replace(request, metrics=()))


class Hangs(FakeEngine):
    async def generate(self, request: Request) -> Trace:
        await asyncio.Event().wait()
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("engine", "rule"),
    [
        (CachesByPrompt, "identity, never the prompt"),
        (PairsWrongly, "pairing"),
        (IgnoresLimit, "max_new_tokens"),
        (IgnoresAborts, "abort"),
        (RefusesUnknownAborts, "unknown aborts are ignored"),
        (SwallowsCancellation, "task cancellation"),
        (DrawsAnew, "seed"),
        (ForgetsTheParent, "continuation equals the uninterrupted trace"),
        (IgnoresRules, "rules"),
        (IgnoresMetrics, "metrics"),
        (Hangs, "never hangs"),
    ],
)
async def test_a_broken_engine_is_caught_by_its_rule(engine: type[FakeEngine], rule: str) -> None:
    """A check that cannot fail is worth nothing."""
    with pytest.raises(AssertionError, match=rf"^{rule}: "):
        await check_engine(
            engine(FAKE), FAKE.capabilities(), wait_seconds=0.2 if engine is Hangs else 60
        )
