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
    deterministic as they are.
    """
    every = [_Branch(steps) for steps in branches]
    owner: dict[int, _Branch[T]] = {}
    try:
        for branch in every:
            yield from _advance(branch, None, owner)
        while any(b.awaits is not None for b in every):
            # Nothing to wait for: a budget refused it, or a branch errs. The Session knows which, and ends the exploration.
            trace = cast("Trace", (yield Next(frozenset().union(*(b.awaits for b in every if b.awaits is not None)))))
            branch = owner[trace.ordinal]
            branch.open.discard(trace.ordinal)
            yield from _advance(branch, trace, owner)
    finally:
        for branch in every:
            branch.steps.close()
    return [cast("T", b.result) for b in every]


def _advance(branch: _Branch[T], reply: Reply, owner: dict[int, _Branch[T]]) -> Generator[Command, Reply, None]:
    """Send one reply to a branch and obey it until it waits for a trace, or returns."""
    while True:
        try:
            command = branch.steps.send(reply)
        except StopIteration as ended:
            branch.awaits, branch.result = None, ended.value
            if branch.open:
                yield Cancel(frozenset(branch.open))
            return
        if isinstance(command, Next):
            branch.awaits = frozenset(branch.open if command.among is None else command.among & branch.open)
            return
        reply = yield command
        if isinstance(command, Submit):
            ordinals = cast("tuple[int, ...]", reply)
            branch.open.update(ordinals)
            owner.update(dict.fromkeys(ordinals, branch))
