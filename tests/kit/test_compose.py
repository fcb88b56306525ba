"""Branches side by side: each as if alone, all at once.

One exploration inside another: what is rewritten on the way out, what comes back, and what the
inner one leaves behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.session import MAX_COMMANDS, Abort, Session
from orchestrator.core.steps import Command, Reply, Steps, cancel, drop, next_trace, sample, submit
from orchestrator.core.values import Finish, Problem, Purpose, Request
from orchestrator.kit.compose import (
    Exploration,
    Overrides,
    gather,
    numbered_solutions,
    representatives,
    run_inner,
)
from orchestrator.testing import PROBLEM, explore, pool, trace
from strategies.selectors.by_score import Best
from strategies.selectors.majority import Majority

Branch = Generator[Command, Reply, Any]


@dataclass(frozen=True)
class Branches:
    """Runs what `make` returns together and keeps the results in `kept`."""

    make: Callable[[], list[Branch]]
    kept: list[Any]

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        self.kept.extend((yield from gather(self.make())))


def chain(n: int) -> Branch:
    """Take `n` traces, one after the other, and return their ordinals."""
    taken = []
    for _ in range(n):
        yield from submit([Request()])
        taken.append((yield from next_trace()).ordinal)
    return taken


def test_all_branches_start_at_once() -> None:
    """Three chains of unequal length have three traces in flight from the start: waiting for one
    must not hold up another.
    """
    session = Session(PROBLEM, Branches(lambda: [chain(1), chain(3), chain(2)], []), Plan())
    assert len(session.start()) == 3


def test_results_come_in_the_order_of_the_branches_whatever_arrives_first() -> None:
    """Each gets its own traces, in any order of arrival."""
    for seed in range(20):
        kept: list[Any] = []
        session = explore(
            Branches(lambda: [chain(1), chain(3), chain(2)], kept), lambda r: "A", seed=seed
        )
        assert session.error == ""
        assert [len(k) for k in kept] == [1, 3, 2]
        assert sorted(o for k in kept for o in k) == list(range(6))


def test_a_branch_may_hold_branches() -> None:
    """A strategy composed of composed ones."""
    kept: list[Any] = []
    explore(Branches(lambda: [gather([chain(2), chain(1)]), chain(1)], kept), lambda r: "A", seed=3)
    assert [[len(k) for k in kept[0]], len(kept[1])] == [[2, 1], 1]


def test_what_a_branch_leaves_running_is_cancelled_when_it_returns() -> None:
    """As returning does for a strategy that is alone, and only its own."""

    def hasty() -> Branch:
        yield from submit([Request()] * 3)
        return (yield from next_trace()).ordinal

    session = Session(PROBLEM, Branches(lambda: [hasty(), chain(2)], []), Plan())
    session.start()
    effects = session.receive(trace(1, "A"))
    assert [e.request.ordinal for e in effects if isinstance(e, Abort)] == [0, 2]
    assert not session.is_cancelled(3)


def test_a_branch_cancels_nothing_but_what_it_names() -> None:
    """The command passes through, and the cancelled trace still arrives."""

    def fickle() -> Branch:
        ordinals = yield from submit([Request()] * 2)
        yield from cancel(ordinals[:1])
        finishes = []
        for ordinal in ordinals:
            finishes.append((yield from next_trace((ordinal,))).finish.value)  # noqa: PERF401 - a comprehension cannot yield
        return finishes

    kept: list[Any] = []
    explore(Branches(lambda: [fickle(), chain(1)], kept), lambda r: "A")
    assert kept[0] == ["cancelled", "stop"]


def test_a_budget_lets_the_others_finish_first() -> None:
    """Four of six traces: the chain of 1 and that of 2 are whole or nearly, and the exploration
    ends by the budget without an error.
    """
    session = explore(
        Branches(lambda: [chain(4), chain(1), chain(1)], []),
        lambda r: "A",
        Plan(budget=Budget(traces=4)),
    )
    assert (len(session.traces), session.stopped_by, session.error) == (4, "traces", "")


def test_waiting_for_nothing_is_an_error_as_it_is_alone() -> None:
    """A programming error in a branch must not look like a finished exploration."""

    def lost() -> Branch:
        yield from sample(1)
        yield from next_trace()

    assert (
        "while none is running"
        in explore(Branches(lambda: [lost(), chain(2)], []), lambda r: "A").error
    )


def test_no_branches_return_nothing() -> None:
    """The empty case needs no trace."""
    kept: list[Any] = []
    explore(Branches(list, kept), lambda r: "A")
    assert kept == []


def test_there_may_be_more_branches_than_a_session_allows_commands() -> None:
    """Two hundred candidates judged fifty times each are ten thousand conversations, all begun
    before the first wait.
    """
    session = Session(
        PROBLEM, Branches(lambda: [chain(1) for _ in range(MAX_COMMANDS + 500)], []), Plan()
    )
    assert len(session.start()) == MAX_COMMANDS + 500
    assert (session.error, session.exploring) == ("", True)


def test_branches_that_begin_with_many_requests_get_their_own_share_of_a_grant() -> None:
    """Five of 3 + 3: the first has its three, the second two of three."""

    def wave() -> Branch:
        return (yield from submit([Request()] * 3))

    kept: list[Any] = []
    explore(Branches(lambda: [wave(), wave()], kept), lambda r: "A", Plan(budget=Budget(traces=5)))
    assert kept == [(0, 1, 2), (3, 4)]


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
    """An attempt, a probe, a continuation, and a revision that names its subject and model."""

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        [first] = yield from submit([Request(max_new_tokens=4)])
        yield from next_trace([first])
        asked = [
            Request(parent=first, purpose=Purpose.PROBE, suffix="So"),
            Request(parent=first),
            Request("Again.", subjects=(first,), model="main", depth=3),
        ]
        yield from next_trace((yield from submit(asked)))


def requests_of(strategy: Any, setting: Overrides) -> list[Request]:
    seen: list[Request] = []

    def body(problem: Problem, rng: random.Random) -> Steps:
        yield from run_inner(strategy, problem, rng, setting)

    def answer_of(request: Request) -> str:
        seen.append(request)
        return "A"

    explore(Outer(body), answer_of, TWO)
    return sorted(seen, key=lambda r: r.ordinal)


def test_requests_get_what_they_leave_open() -> None:
    """Prompt, model, depth and subjects; a continuation stays with its parent's model, a probe goes
    beyond nothing, named ones are kept.
    """
    first, probe, more, revision = requests_of(Talker(), Overrides("Other?", "large", 2, (7,)))
    assert (first.prompt, first.model, first.depth, first.subjects) == ("Other?", "large", 2, (7,))
    assert (probe.prompt, probe.model, probe.depth, probe.subjects) == ("Other?", "large", 2, ())
    assert (more.prompt, more.model, more.depth, more.subjects, more.prefix_text) == (
        "Other?",
        "large",
        2,
        (7,),
        "The answer is A.",
    )
    assert (revision.prompt, revision.model, revision.depth, revision.subjects) == (
        "Again.",
        "main",
        3,
        (0,),
    )


def test_without_a_setting_nothing_is_rewritten() -> None:
    """An inner exploration alone in an outer one is that exploration."""
    alone: list[Request] = []
    explore(Talker(), lambda request: alone.append(request) or "A", TWO)
    assert requests_of(Talker(), Overrides()) == sorted(alone, key=lambda r: r.ordinal)


def test_what_an_inner_exploration_left_running_is_cancelled_and_never_delivered_to_the_next() -> (
    None
):
    """Both take the first of three: the second must get one of its own, however late the first
    one's others arrive.
    """
    found: list[Exploration] = []

    def body(problem: Problem, rng: random.Random) -> Steps:
        found.append((yield from run_inner(FirstOfThree(), problem, rng)))
        found.append((yield from run_inner(FirstOfThree(), problem, rng)))

    session = explore(Outer(body), lambda request: "A", seed=5)
    [first], [second] = found[0].traces, found[1].traces
    assert first.ordinal in (0, 1, 2)
    assert second.ordinal in (3, 4, 5)
    assert sum(t.finish is Finish.CANCELLED for t in session.traces.values()) == 4


def test_each_inner_exploration_draws_a_stream_of_its_own() -> None:
    """Two of one strategy must not draw the same numbers; the same seed must give both again."""
    drawn: list[float] = []

    @dataclass(frozen=True)
    class Draws:
        def explore(self, problem: Problem, rng: random.Random) -> Steps:
            drawn.append(rng.random())
            yield from next_trace((yield from submit([Request()])))

    def body(problem: Problem, rng: random.Random) -> Steps:
        yield from run_inner(Draws(), problem, rng)
        yield from run_inner(Draws(), problem, rng)

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

    found: list[Exploration] = []

    def body(problem: Problem, rng: random.Random) -> Steps:
        found.append((yield from run_inner(Drops(), problem, rng)))

    explore(Outer(body), lambda request: "AAB"[request.ordinal])
    assert [c.answer.key for c in Majority()(found[0].pool)] == ["B"]
    assert [t.ordinal for t in found[0].attempts] == [2]


def test_the_spokesman_of_an_answer_is_the_one_its_selector_prefers_alone() -> None:
    """Best of n: the best one's text; by plurality all weigh the same, and the first speaks."""
    traces = pool("A A B", verdicts={"v": (0.2, 0.9, 0.5)})
    assert [
        t.ordinal for t in representatives(Exploration(tuple(traces)), Best("verdict:v"), 2)
    ] == [1, 2]
    assert [t.ordinal for t in representatives(Exploration(tuple(traces)), Majority(), 1)] == [0]
    assert representatives(Exploration(tuple(pool("- !"))), Majority(), 1) == []


def test_a_spokesman_that_goes_on_from_another_trace_is_shown_whole() -> None:
    """The last step alone is no solution; several solutions are numbered."""
    steps = (replace(trace(0), text="One. "), replace(trace(1, "A", parent=0), text="So A."))
    [whole] = representatives(Exploration(steps), Majority(), 1)
    assert whole.text == "One. So A."
    assert numbered_solutions([whole]) == "One. So A."
    assert (
        numbered_solutions([whole, trace(2, "B")])
        == "Solution 1:\nOne. So A.\n\nSolution 2:\nThe answer is B."
    )


def test_an_inner_strategy_that_is_no_generator_is_named() -> None:
    """As a Session does for one that is alone."""

    @dataclass(frozen=True)
    class Wrong:
        def explore(self, problem: Problem, rng: random.Random) -> Any:
            return []

    def body(problem: Problem, rng: random.Random) -> Steps:
        yield from run_inner(Wrong(), problem, rng)

    assert (
        "explore of Wrong returned [], not a generator"
        in explore(Outer(body), lambda request: "A").error
    )


def test_a_branch_that_yields_no_command_fails_the_exploration() -> None:
    """It was once taken for a branch that had returned, and what it would have done was lost."""

    def bare() -> Generator[Any, Reply, None]:
        yield None

    def body(problem: Problem, rng: random.Random) -> Steps:
        yield from gather([chain(1), bare()])

    session = explore(Outer(body), lambda request: "A")
    assert "a strategy yields Submit, Next, Cancel, Drop or Note, not None" in session.error


@pytest.mark.parametrize("traces_budget", [1, 2, 4])
def test_a_budget_that_ends_inside_ends_the_whole_exploration(traces_budget: int) -> None:
    """The outer strategy never hears of an inner one that did not end by itself."""
    ended: list[int] = []

    def body(problem: Problem, rng: random.Random) -> Steps:
        for i in range(3):
            yield from run_inner(FirstOfThree(), problem, rng)
            ended.append(i)

    session = explore(
        Outer(body),
        lambda request: None,
        replace(TWO, budget=Budget(traces=traces_budget)),
        problem=PROBLEM,
    )
    assert session.stopped_by == "traces"
    assert len(session.traces) == traces_budget
    assert not session.error
