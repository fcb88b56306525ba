"""The strategy algebra: four commands, one event, helpers to write them with, and their driver.

A strategy is a generator that yields commands and is sent replies. It must be deterministic in
(problem, rng, traces received): no clock, no I/O, no randomness but the rng it was given. That is
what makes a journal replay it exactly. What a command does is the Session's business.

    def explore(self, problem, rng):
        ordinals = yield from submit([Request()] * 4)
        first = yield from next_trace()            # whichever finishes first
        yield from cancel(set(ordinals) - {first.ordinal})
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar, cast

from orchestrator.core.errors import StrategyError
from orchestrator.core.values import Capability, Request, Trace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Submit:
    """Start these requests. The reply is the tuple of their ordinals.

    It is shorter than `requests` when the trace budget has no room for all of them.
    """

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Next:
    """Wait for one trace that was not delivered yet: one of `among`, or any when it is None.

    The reply is that Trace.
    """

    among: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the requests with these ordinals that still run. The reply is None.

    Their traces still arrive, as CANCELLED ones.
    """

    ordinals: frozenset[int]


@dataclass(frozen=True, slots=True)
class Drop:
    """Take the vote of these traces away, and stop those that still run. The reply is None.

    Their tokens are charged to pruning. With an `heir` they still vote, each for the answer that
    the heir, or its continuation, gives in the end.
    """

    ordinals: frozenset[int]
    heir: int | None = None


COMMANDS = (Submit, Next, Cancel, Drop)
Command: TypeAlias = Submit | Next | Cancel | Drop
Reply: TypeAlias = tuple[int, ...] | Trace | None
Steps: TypeAlias = Generator[Command, Reply, None]


class Routine(Generic[T]):
    """A generator of commands under way: what everything that runs one drives it with."""

    __slots__ = ("_steps", "result")

    result: T  # what the generator returned; not there before

    def __init__(self, steps: Generator[Command, Reply, T], name: str) -> None:
        """Prepare to run `steps`; StrategyError, with its function's `name`, otherwise."""
        if not isinstance(steps, Generator):
            raise StrategyError(
                f"{name} returned {steps!r}, not a generator; write `yield from` in it"
            )
        self._steps = steps

    def send(self, reply: Reply) -> Command | None:
        """Return the next command after a reply (first None); None when the generator returned.

        StrategyError when it yields anything but a command. Raises what the generator raises.
        """
        try:
            command = self._steps.send(reply)
        except StopIteration as end:
            self.result = end.value
            return None
        if not isinstance(command, COMMANDS):
            raise StrategyError(
                f"a strategy yields Submit, Next, Cancel or Drop, not {command!r}; "
                "write `yield from`, not `yield`"
            )
        return command

    def close(self) -> None:
        """End the generator where it is, as its own `close` does."""
        self._steps.close()


def submit(requests: Iterable[Request]) -> Generator[Command, Reply, tuple[int, ...]]:
    """Start requests and return their ordinals: fewer than requests when the trace budget ends."""
    return cast("tuple[int, ...]", (yield Submit(tuple(requests))))


def next_trace(among: Collection[int] | None = None) -> Generator[Command, Reply, Trace]:
    """Wait for the first finished trace not delivered yet, of `among` or of any, and return it.

    To wait while none of them runs is a `StrategyError`, unless a budget refused a request: then
    exploration ends.
    """
    return cast(Trace, (yield Next(None if among is None else frozenset(among))))


def cancel(ordinals: Iterable[int]) -> Generator[Command, Reply, None]:
    """Stop the requests with these ordinals that still run; returns at once."""
    yield Cancel(frozenset(ordinals))


def drop(ordinals: Iterable[int], heir: int | None = None) -> Generator[Command, Reply, None]:
    """Take the vote of these traces away, or give it to `heir`, and stop them; returns at once."""
    yield Drop(frozenset(ordinals), heir)


def ask(request: Request) -> Generator[Command, Reply, Trace]:
    """Start one request, wait for it, and return its trace."""
    return (yield from next_trace((yield from submit([request]))))


def sample(n: int, request: Request | None = None) -> Generator[Command, Reply, list[Trace]]:
    """Start `n` copies of a request, wait for all of them, and return their traces by ordinal."""
    return (yield from ask_each([request or Request()] * n))


def ask_each(requests: Iterable[Request]) -> Generator[Command, Reply, list[Trace]]:
    """Start requests, wait for all of them, and return their traces in order.

    They are fewer than the requests when the trace budget ends.
    """
    ordinals = yield from submit(requests)
    traces = []
    for ordinal in ordinals:
        traces.append((yield from next_trace((ordinal,))))  # noqa: PERF401 - a comprehension cannot yield
    return traces


def depth_needs(*depths: int | None) -> frozenset[Capability]:
    """Return what requests at these depths need of an engine: DEPTH unless all are None."""
    return frozenset() if all(depth is None for depth in depths) else frozenset({Capability.DEPTH})
