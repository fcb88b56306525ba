"""The strategy algebra: four commands, one event, six helpers to write them with.

A strategy is a generator that yields commands and is sent replies. It must be deterministic in
(problem, rng, traces received): no clock, no I/O, no randomness but the rng it was given. That is
what makes a journal replay it exactly.

    def explore(self, problem, rng):
        ordinals = yield from submit([Request()] * 4)
        first = yield from next_trace()            # whichever finishes first
        yield from cancel(set(ordinals) - {first.ordinal})
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass
from typing import TypeAlias, cast

from orchestrator.core.values import Capability, Request, Trace


@dataclass(frozen=True, slots=True)
class Submit:
    """Start these. The reply is the tuple of their ordinals, shorter than asked when the trace
    budget does not hold them all.
    """

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Next:
    """Wait for one trace not yet delivered, of `among` or, when None, of any.

    The reply is that Trace.
    """

    among: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop those of these that still run.

    They still arrive, as CANCELLED traces. The reply is None.
    """

    ordinals: frozenset[int]


@dataclass(frozen=True, slots=True)
class Drop:
    """Take the vote from these, and stop those that still run; what they spent is charged to
    pruning. The reply is None.

    With an `heir` they vote all the same, each for whatever the heir, or what continues it, comes
    to state.
    """

    ordinals: frozenset[int]
    heir: int | None = None


Command: TypeAlias = Submit | Next | Cancel | Drop
Reply: TypeAlias = tuple[int, ...] | Trace | None
Steps: TypeAlias = Generator[Command, Reply, None]


def submit(requests: Iterable[Request]) -> Generator[Command, Reply, tuple[int, ...]]:
    """Start requests and return their ordinals (fewer than asked when the trace budget ends)."""
    return cast("tuple[int, ...]", (yield Submit(tuple(requests))))


def next_trace(among: Collection[int] | None = None) -> Generator[Command, Reply, Trace]:
    """Return the earliest finished trace not yet delivered, of `among` or of any; waits for it.

    Waiting for what neither runs nor was ever started is a `StrategyError`, unless a budget refused
    it: then exploration ends.
    """
    return cast(Trace, (yield Next(None if among is None else frozenset(among))))


def cancel(ordinals: Iterable[int]) -> Generator[Command, Reply, None]:
    """Stop those of these that still run; returns at once."""
    yield Cancel(frozenset(ordinals))


def drop(ordinals: Iterable[int], heir: int | None = None) -> Generator[Command, Reply, None]:
    """Take the vote from these, or give it to `heir`, and stop those that still run; returns at
    once.
    """
    yield Drop(frozenset(ordinals), heir)


def ask(request: Request) -> Generator[Command, Reply, Trace]:
    """Start one request, wait for it, and return its trace."""
    return (yield from next_trace((yield from submit([request]))))


def sample(n: int, request: Request | None = None) -> Generator[Command, Reply, list[Trace]]:
    """Start `n` copies of a request, wait for all of them, and return their traces by ordinal."""
    ordinals = yield from submit([request or Request()] * n)
    traces = []
    for ordinal in ordinals:
        traces.append((yield from next_trace((ordinal,))))  # noqa: PERF401 - a comprehension cannot yield
    return traces


def depth_needs(*depths: int | None) -> frozenset[Capability]:
    """Return what requests at these depths take of an engine: latent depth, if one is asked for."""
    return frozenset() if all(depth is None for depth in depths) else frozenset({Capability.DEPTH})
