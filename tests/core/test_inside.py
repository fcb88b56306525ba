"""One exploration inside another: what is rewritten on the way out, what comes back, and what the inner one leaves behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from orchestrator.core.inside import Explored, Setting, inside, spokesmen, told
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.steps import Steps, drop, next_trace, submit
from orchestrator.core.types import Finish, Problem, Purpose, Request
from orchestrator.testing import PROBLEM, explore, pool, trace
from strategies.selectors import Best, Majority

TWO = Plan(models={"main": Model("a"), "large": Model("b")})


@dataclass(frozen=True)
class Outer:
    """Runs a given body as its exploration."""

    body: Callable[[Problem, random.Random], Steps]

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from self.body(problem, rng)


@dataclass(frozen=True)
class FirstOfThree:
    """Starts three traces, takes whichever ends first and leaves the others running."""

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        yield from submit([Request()] * 3)
        yield from next_trace()


@dataclass(frozen=True)
class Talker:
    """An attempt, a probe of it, its continuation, and a revision that names its subject and model."""

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        [first] = yield from submit([Request(max_new_tokens=4)])
        yield from next_trace([first])
        asked = [
            Request(parent=first, purpose=Purpose.PROBE, suffix="So"),
            Request(parent=first),
            Request("Again.", subjects=(first,), model="main", depth=3),
        ]
        yield from next_trace((yield from submit(asked)))


def requests_of(strategy: Any, setting: Setting) -> list[Request]:
    seen: list[Request] = []

    def body(problem: Problem, rng: random.Random) -> Steps:
        yield from inside(strategy, problem, rng, setting)

    def answer_of(request: Request) -> str:
        seen.append(request)
        return "A"

    explore(Outer(body), answer_of, TWO)
    return sorted(seen, key=lambda r: r.ordinal)


def test_requests_get_what_they_leave_open() -> None:
    """Prompt, model, depth and subjects; a continuation stays with its parent's model, a probe goes beyond nothing, named ones are kept."""
    first, probe, more, revision = requests_of(Talker(), Setting("Other?", "large", 2, (7,)))
    assert (first.prompt, first.model, first.depth, first.subjects) == ("Other?", "large", 2, (7,))
    assert (probe.prompt, probe.model, probe.depth, probe.subjects) == ("Other?", "large", 2, ())
    assert (more.prompt, more.model, more.depth, more.subjects, more.prefix_text) == ("Other?", "large", 2, (7,), "The answer is A.")
    assert (revision.prompt, revision.model, revision.depth, revision.subjects) == ("Again.", "main", 3, (0,))


def test_without_a_setting_nothing_is_rewritten() -> None:
    """An inner exploration alone in an outer one is that exploration."""
    alone: list[Request] = []
    explore(Talker(), lambda request: alone.append(request) or "A", TWO)
    assert requests_of(Talker(), Setting()) == sorted(alone, key=lambda r: r.ordinal)


def test_what_an_inner_exploration_left_running_is_cancelled_and_never_delivered_to_the_next() -> None:
    """Both take the first of three: the second must get one of its own, however late the first one's others arrive."""
    found: list[Explored] = []

    def body(problem: Problem, rng: random.Random) -> Steps:
        found.append((yield from inside(FirstOfThree(), problem, rng)))
        found.append((yield from inside(FirstOfThree(), problem, rng)))

    session = explore(Outer(body), lambda request: "A", seed=5)
    [first], [second] = found[0].traces, found[1].traces
    assert first.ordinal in (0, 1, 2)
    assert second.ordinal in (3, 4, 5)
    assert sum(t.finish is Finish.CANCELLED for t in session.traces.values()) == 4


def test_each_inner_exploration_draws_a_stream_of_its_own() -> None:
    """Two of one strategy must not draw the same numbers, and the same seed must give both again."""
    drawn: list[float] = []

    @dataclass(frozen=True)
    class Draws:
        def explore(self, problem: Problem, rng: random.Random) -> Steps:
            drawn.append(rng.random())
            yield from next_trace((yield from submit([Request()])))

    def body(problem: Problem, rng: random.Random) -> Steps:
        yield from inside(Draws(), problem, rng)
        yield from inside(Draws(), problem, rng)

    for _ in range(2):
        explore(Outer(body), lambda request: "A")
    assert drawn[0] != drawn[1]
    assert drawn[:2] == drawn[2:]


def test_what_was_dropped_has_no_vote_in_the_pool_and_is_no_attempt() -> None:
    """Else a pruned trace would lead the next round."""

    @dataclass(frozen=True)
    class Drops:
        def explore(self, problem: Problem, rng: random.Random) -> Steps:
            ordinals = yield from submit([Request()] * 3)
            for _ in ordinals:
                yield from next_trace()
            yield from drop(ordinals[:2])

    found: list[Explored] = []

    def body(problem: Problem, rng: random.Random) -> Steps:
        found.append((yield from inside(Drops(), problem, rng)))

    explore(Outer(body), lambda request: "AAB"[request.ordinal])
    assert [c.answer.key for c in Majority()(found[0].pool)] == ["B"]
    assert [t.ordinal for t in found[0].attempts] == [2]


def test_the_spokesman_of_an_answer_is_the_one_its_selector_prefers_alone() -> None:
    """Best of n: the best one's text; by plurality all weigh the same, and the first speaks."""
    traces = pool("A A B", verdicts={"v": (0.2, 0.9, 0.5)})
    assert [t.ordinal for t in spokesmen(Explored(tuple(traces)), Best("verdict:v"), 2)] == [1, 2]
    assert [t.ordinal for t in spokesmen(Explored(tuple(traces)), Majority(), 1)] == [0]
    assert spokesmen(Explored(tuple(pool("- !"))), Majority(), 1) == []


def test_a_spokesman_that_goes_on_from_another_trace_is_shown_whole() -> None:
    """The last step alone is no solution; several solutions are numbered."""
    steps = (replace(trace(0), text="One. "), replace(trace(1, "A", parent=0), text="So A."))
    [whole] = spokesmen(Explored(steps), Majority(), 1)
    assert whole.text == "One. So A."
    assert told([whole]) == "One. So A."
    assert told([whole, trace(2, "B")]) == "Solution 1:\nOne. So A.\n\nSolution 2:\nThe answer is B."


def test_an_inner_strategy_that_is_no_generator_is_named() -> None:
    """As a Session does for one that is alone."""

    @dataclass(frozen=True)
    class Wrong:
        def explore(self, problem: Problem, rng: random.Random) -> Any:
            return []

    def body(problem: Problem, rng: random.Random) -> Steps:
        yield from inside(Wrong(), problem, rng)

    assert "explore of Wrong returned [], not a generator" in explore(Outer(body), lambda request: "A").error


@pytest.mark.parametrize("traces_budget", [1, 2, 4])
def test_a_budget_that_ends_inside_ends_the_whole_exploration(traces_budget: int) -> None:
    """The outer strategy never hears of an inner one that did not end by itself."""
    ended: list[int] = []

    def body(problem: Problem, rng: random.Random) -> Steps:
        for i in range(3):
            yield from inside(FirstOfThree(), problem, rng)
            ended.append(i)

    session = explore(Outer(body), lambda request: None, replace(TWO, budget=Budget(traces=traces_budget)), problem=PROBLEM)
    assert session.stopped_by == "traces"
    assert len(session.traces) == traces_budget
    assert not session.error
