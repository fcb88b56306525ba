"""Several explorations at once within one: each branch is a generator of the strategy algebra, and their traces run side by side.

The one rule: a branch cannot tell that it is not alone. It is asked and answered as by a Session, "any trace" means any of its own, what
it leaves running when it returns is cancelled, and what it returns is returned. This is what lets one strategy be composed of smaller
ones without a loop of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from orchestrator.core.steps import Cancel, Command, Next, Reply, Submit
from orchestrator.core.types import Trace

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Branch(Generic[T]):
    steps: Generator[Command, Reply, T]
    open: set[int] = field(default_factory=set)  # started and not yet delivered
    awaits: frozenset[int] | None = None  # None once it has returned
    result: T | None = None


def together(branches: Iterable[Generator[Command, Reply, T]]) -> Generator[Command, Reply, list[T]]:
    """Run branches side by side and return what each returned, in order.

    A branch that waits for what a budget refused is left waiting until all others are through; then exploration ends, as it does for a
    strategy that is alone. Branches are advanced in their order at first and then one by one as traces arrive, so the whole is as
    deterministic as they are. What they submit at first is one command, so that there may be any number of them.
    """
    every = [_Branch(steps) for steps in branches]
    owner: dict[int, _Branch[T]] = {}
    awaited: set[int] = set()  # by all branches; kept up to date, because thousands of branches may wait
    try:
        yield from _begin(every, owner)
        awaited.update(*(b.awaits for b in every if b.awaits is not None))
        while any(b.awaits is not None for b in every):
            # Nothing to wait for: a budget refused it, or a branch errs. The Session knows which, and ends the exploration.
            trace = cast("Trace", (yield Next(frozenset(awaited))))
            branch = owner[trace.ordinal]
            awaited -= branch.awaits or frozenset()
            branch.open.discard(trace.ordinal)
            yield from _advance(branch, trace, owner)
            awaited |= branch.awaits or frozenset()
    finally:
        for branch in every:
            branch.steps.close()
    return [cast("T", b.result) for b in every]


def _begin(every: Iterable[_Branch[T]], owner: dict[int, _Branch[T]]) -> Generator[Command, Reply, None]:
    """Advance every branch to where it first waits; the requests with which they begin go out as one."""
    asked: list[tuple[_Branch[T], Submit]] = []
    for branch in every:
        command = _sent(branch, None)
        if isinstance(command, Submit):
            asked.append((branch, command))
        else:
            yield from _obeyed(branch, command, owner)
    if asked:
        granted = cast("tuple[int, ...]", (yield Submit(tuple(r for _, command in asked for r in command.requests))))
        for branch, command in asked:
            n = len(command.requests)
            _own(branch, granted[:n], owner)
            yield from _advance(branch, granted[:n], owner)
            granted = granted[n:]


def _advance(branch: _Branch[T], reply: Reply, owner: dict[int, _Branch[T]]) -> Generator[Command, Reply, None]:
    """Send one reply to a branch and obey it until it waits for a trace, or returns."""
    yield from _obeyed(branch, _sent(branch, reply), owner)


def _sent(branch: _Branch[T], reply: Reply) -> Command | None:
    """Return a branch's next command; None when it has returned."""
    try:
        return branch.steps.send(reply)
    except StopIteration as ended:
        branch.awaits, branch.result = None, ended.value
        return None


def _obeyed(branch: _Branch[T], command: Command | None, owner: dict[int, _Branch[T]]) -> Generator[Command, Reply, None]:
    while command is not None:
        if isinstance(command, Next):
            branch.awaits = frozenset(branch.open if command.among is None else command.among & branch.open)
            return
        reply = yield command
        if isinstance(command, Submit):
            _own(branch, cast("tuple[int, ...]", reply), owner)
        command = _sent(branch, reply)
    if branch.open:
        yield Cancel(frozenset(branch.open))


def _own(branch: _Branch[T], ordinals: tuple[int, ...], owner: dict[int, _Branch[T]]) -> None:
    branch.open.update(ordinals)
    owner.update(dict.fromkeys(ordinals, branch))
