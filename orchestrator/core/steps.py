"""The strategy algebra: five commands, one event, helpers to write them with, and their driver.

A strategy is a generator that yields commands and is sent replies. It must be deterministic in
(problem, rng, traces received): no clock, no I/O, and no randomness from outside its rng. Only then
can a journal replay it exactly. The Session carries out the commands.

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
    """Start these requests; the reply is the tuple of their ordinals.

    The tuple is shorter than `requests` when the trace budget has no room for all of them.
    """

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Next:
    """Wait for one trace that was not delivered yet; the reply is that trace.

    It is one of `among`, or any trace if `among` is None. Each trace is delivered once.
    """

    among: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop those of these requests that still run; the reply is None.

    Their traces still arrive, with `Finish.CANCELLED`. `reason` is the rule that decided, for
    whoever looks at the job afterwards.
    """

    ordinals: frozenset[int]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """Take away the vote of these traces and stop those that still run; the reply is None.

    Their tokens are charged to pruning. With an `heir` they still vote, each for the final answer
    of the heir or of its continuation. `reason` is as in `Cancel`.
    """

    ordinals: frozenset[int]
    heir: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Explain a trace to whoever looks at the job afterwards; the reply is None.

    It changes nothing. `group` is the part of the search that the trace belongs to, such as a
    cluster or an island; the first trace of a group founded it.
    """

    ordinal: int
    text: str
    group: str = ""


COMMANDS = (Submit, Next, Cancel, Drop, Note)
Command: TypeAlias = Submit | Next | Cancel | Drop | Note
Reply: TypeAlias = tuple[int, ...] | Trace | None
Steps: TypeAlias = Generator[Command, Reply, None]


class Routine(Generic[T]):
    """A running generator of commands; everything that runs a strategy drives it through this."""

    __slots__ = ("_steps", "result")

    result: T  # the generator's return value; unset until it returns

    def __init__(self, steps: Generator[Command, Reply, T], name: str) -> None:
        """Prepare to run `steps`; StrategyError, with the function's `name`, if not a generator."""
        if not isinstance(steps, Generator):
            raise StrategyError(
                f"{name} returned {steps!r}, not a generator; write `yield from` in it"
            )
        self._steps = steps

    def send(self, reply: Reply) -> Command | None:
        """Send a reply (None at first) and return the next command; None after the last one.

        StrategyError when the generator yields anything but a command. Other exceptions of the
        generator propagate.
        """
        try:
            command = self._steps.send(reply)
        except StopIteration as end:
            self.result = end.value
            return None
        if not isinstance(command, COMMANDS):
            raise StrategyError(
                f"a strategy yields Submit, Next, Cancel, Drop or Note, not {command!r}; "
                "write `yield from`, not `yield`"
            )
        return command

    def close(self) -> None:
        """Close the generator at its current `yield`."""
        self._steps.close()


def submit(requests: Iterable[Request]) -> Generator[Command, Reply, tuple[int, ...]]:
    """Start requests and return their ordinals: fewer than requests if the trace budget ends."""
    return cast("tuple[int, ...]", (yield Submit(tuple(requests))))


def next_trace(among: Collection[int] | None = None) -> Generator[Command, Reply, Trace]:
    """Return the next finished trace not delivered yet, from `among` or, if that is None, any.

    Waiting while none of them runs is a `StrategyError`, unless a budget refused a request: then
    exploration ends.
    """
    return cast(Trace, (yield Next(None if among is None else frozenset(among))))


def cancel(ordinals: Iterable[int], reason: str = "") -> Generator[Command, Reply, None]:
    """Stop those of these requests that still run; returns at once."""
    yield Cancel(frozenset(ordinals), reason)


def drop(
    ordinals: Iterable[int], heir: int | None = None, reason: str = ""
) -> Generator[Command, Reply, None]:
    """Take away the vote of these traces, or pass it to `heir`, and stop them; returns at once."""
    yield Drop(frozenset(ordinals), heir, reason)


def note(ordinal: int, text: str, group: str = "") -> Generator[Command, Reply, None]:
    """Explain a trace to whoever looks at the job afterwards; returns at once."""
    yield Note(ordinal, text, group)


def ask(request: Request) -> Generator[Command, Reply, Trace]:
    """Start one request, wait for it, and return its trace."""
    return (yield from next_trace((yield from submit([request]))))


def sample(n: int, request: Request | None = None) -> Generator[Command, Reply, list[Trace]]:
    """Start `n` copies of a request, wait for all of them, and return their traces by ordinal."""
    return (yield from ask_each([request or Request()] * n))


def ask_each(requests: Iterable[Request]) -> Generator[Command, Reply, list[Trace]]:
    """Start requests, wait for all of them, and return their traces in order.

    There are fewer traces than requests when the trace budget runs out.
    """
    ordinals = yield from submit(requests)
    traces = []
    for ordinal in ordinals:
        traces.append((yield from next_trace((ordinal,))))  # noqa: PERF401 - a comprehension cannot yield
    return traces


def depth_needs(*depths: int | None) -> frozenset[Capability]:
    """Return the capabilities that requests at these depths need: DEPTH unless all are None."""
    return frozenset() if all(depth is None for depth in depths) else frozenset({Capability.DEPTH})
