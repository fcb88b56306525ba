"""Branches side by side: each as if alone, all at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.session import MAX_COMMANDS, Abort, Session
from orchestrator.core.steps import Command, Reply, Steps, cancel, next_trace, sample, submit
from orchestrator.core.together import together
from orchestrator.core.types import Problem, Request
from orchestrator.testing import PROBLEM, explore, trace

Branch = Generator[Command, Reply, Any]


@dataclass(frozen=True)
class Branches:
    """Runs what `make` returns together and keeps the results in `kept`."""

    make: Callable[[], list[Branch]]
    kept: list[Any]

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        self.kept.extend((yield from together(self.make())))


def chain(n: int) -> Branch:
    """Take `n` traces, one after the other, and return their ordinals."""
    taken = []
    for _ in range(n):
        yield from submit([Request()])
        taken.append((yield from next_trace()).ordinal)
    return taken


def test_all_branches_start_at_once() -> None:
    """Three chains of unequal length have three traces in flight from the start: waiting for one must not hold up another."""
    session = Session(PROBLEM, Branches(lambda: [chain(1), chain(3), chain(2)], []), Plan())
    assert len(session.start()) == 3


def test_results_come_in_the_order_of_the_branches_whatever_arrives_first() -> None:
    """Each gets its own traces, in any order of arrival."""
    for seed in range(20):
        kept: list[Any] = []
        session = explore(Branches(lambda: [chain(1), chain(3), chain(2)], kept), lambda r: "A", seed=seed)
        assert session.error == ""
        assert [len(k) for k in kept] == [1, 3, 2]
        assert sorted(o for k in kept for o in k) == list(range(6))


def test_a_branch_may_hold_branches() -> None:
    """A strategy composed of composed ones."""
    kept: list[Any] = []
    explore(Branches(lambda: [together([chain(2), chain(1)]), chain(1)], kept), lambda r: "A", seed=3)
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
    """Four of six traces: the chain of 1 and that of 2 are whole or nearly, and the exploration ends by the budget without an error."""
    session = explore(Branches(lambda: [chain(4), chain(1), chain(1)], []), lambda r: "A", Plan(budget=Budget(traces=4)))
    assert (len(session.traces), session.stopped_by, session.error) == (4, "traces", "")


def test_waiting_for_nothing_is_an_error_as_it_is_alone() -> None:
    """A programming error in a branch must not look like a finished exploration."""

    def lost() -> Branch:
        yield from sample(1)
        yield from next_trace()

    assert "while none is running" in explore(Branches(lambda: [lost(), chain(2)], []), lambda r: "A").error


def test_no_branches_return_nothing() -> None:
    """The empty case needs no trace."""
    kept: list[Any] = []
    explore(Branches(list, kept), lambda r: "A")
    assert kept == []


def test_there_may_be_more_branches_than_a_session_allows_commands() -> None:
    """Two hundred candidates judged fifty times each are ten thousand conversations, all begun before the first wait."""
    session = Session(PROBLEM, Branches(lambda: [chain(1) for _ in range(MAX_COMMANDS + 500)], []), Plan())
    assert len(session.start()) == MAX_COMMANDS + 500
    assert (session.error, session.exploring) == ("", True)


def test_branches_that_begin_with_many_requests_get_their_own_share_of_a_grant() -> None:
    """Five of 3 + 3: the first has its three, the second two of three."""

    def wave() -> Branch:
        return (yield from submit([Request()] * 3))

    kept: list[Any] = []
    explore(Branches(lambda: [wave(), wave()], kept), lambda r: "A", Plan(budget=Budget(traces=5)))
    assert kept == [(0, 1, 2), (3, 4)]
