"""The helpers: the command each yields, the value it returns after the reply; and their driver."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from orchestrator.core.errors import StrategyError
from orchestrator.core.steps import (
    Cancel,
    Command,
    Drop,
    Next,
    Reply,
    Routine,
    Submit,
    cancel,
    drop,
    next_trace,
    sample,
    submit,
)
from orchestrator.core.values import Request
from orchestrator.testing import trace


def returned(steps: Generator[Command, Reply, Any], reply: Reply) -> Any:
    """Return the value that a helper returns after its last reply."""
    with pytest.raises(StopIteration) as end:
        steps.send(reply)
    return end.value.value


def test_submit_yields_one_command_and_returns_what_was_granted() -> None:
    """The grant may be shorter than the request: a strategy must use the reply."""
    steps = submit(Request(model=m) for m in "ab")
    assert next(steps) == Submit((Request(model="a"), Request(model="b")))
    assert returned(steps, (7,)) == (7,)


def test_next_trace_waits_for_any_or_for_some() -> None:
    """None means any; an empty collection means none."""
    assert next(next_trace()) == Next(None)
    assert next(next_trace([2, 1])) == Next(frozenset({1, 2}))
    assert next(next_trace(())) == Next(frozenset())


def test_cancel_returns_at_once() -> None:
    """Cancelled traces still arrive: there is nothing to wait for."""
    assert list(cancel([3, 3, 4])) == [Cancel(frozenset({3, 4}))]


def test_drop_returns_at_once() -> None:
    """It returns like cancel; without an heir the dropped traces have no vote."""
    assert list(drop([3, 4])) == [Drop(frozenset({3, 4}), None)]
    assert list(drop([3], heir=1)) == [Drop(frozenset({3}), 1)]


def test_sample_returns_traces_by_ordinal() -> None:
    """It waits for each in turn, so its result does not depend on the order of arrival."""
    steps = sample(2, Request(depth=4))
    assert next(steps) == Submit((Request(depth=4),) * 2)
    assert steps.send((5, 6)) == Next(frozenset({5}))
    assert steps.send(trace(5)) == Next(frozenset({6}))
    assert [t.ordinal for t in returned(steps, trace(6))] == [5, 6]


def test_sample_of_an_empty_grant_is_empty() -> None:
    """A spent budget grants nothing; waiting for nothing would be an error."""
    steps = sample(3)
    next(steps)
    assert returned(steps, ()) == []


# --- the driver of a generator


def test_a_routine_sends_replies_and_keeps_what_was_returned() -> None:
    """Code that runs commands need not handle StopIteration."""
    routine = Routine(sample(1), "sample")
    assert routine.send(None) == Submit((Request(),))
    assert routine.send((0,)) == Next(frozenset({0}))
    assert routine.send(trace(0, "A")) is None
    assert routine.result == [trace(0, "A")]


def test_a_routine_refuses_what_is_no_generator_and_no_command() -> None:
    """A `yield` for `yield from`, or a function without either, is an error and not an end."""

    def bare() -> Generator[Any, Reply, None]:
        yield None

    with pytest.raises(StrategyError, match="score returned None, not a generator"):
        Routine(None, "score")  # type: ignore[arg-type]
    with pytest.raises(StrategyError, match="not None; write `yield from`"):
        Routine(bare(), "bare").send(None)
