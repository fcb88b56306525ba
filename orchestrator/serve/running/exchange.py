"""One served request while it runs: its traces so far, the text of its attempt, and its result.

The one rule: it holds what the driver has made durable, in the order in which it came; text that
comes earlier, token by token, is kept apart. Not covered: how any of it looks in the protocol.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.core.values import Finish, Problem, Request, Result, Trace
from orchestrator.core.votes import VOTING


@dataclass(frozen=True, slots=True)
class Standing:
    """How a vote stands before it is decided: plain counts of the answers so far."""

    n_attempts: int
    n_planned: int | None
    answer: str | None = None
    share: float | None = None


@dataclass(slots=True, eq=False)
class Exchange:
    """A request and what has come of it; `usd` limits its price, 0 not at all."""

    problem: Problem
    n_planned: int | None
    usd: float = 0.0
    spent_usd: float = 0.0
    traces: list[Trace] = field(default_factory=list)
    result: asyncio.Future[Result] = field(default_factory=asyncio.Future)
    on_trace: Callable[[Trace], None] = lambda trace: None
    _ordinal: int = -1  # of the request whose text comes, with how much of it was passed on
    _n_heard: int = 0
    _position: int = 0
    _pieces: list[str] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, request: Request) -> None:
        """Expect the text of a request from its beginning: one that was sent again repeats it."""
        if request.ordinal != self._ordinal:
            self._ordinal, self._n_heard = request.ordinal, 0
        self._position = 0

    def hear(self, text: str) -> None:
        """Take the next piece of the request's text."""
        new = text[max(0, self._n_heard - self._position) :]
        self._position += len(text)
        self._n_heard = max(self._n_heard, self._position)
        if new:
            self._pieces.append(new)
            self._changed.set()

    def take(self, trace: Trace) -> None:
        """Take a trace that arrived."""
        self.traces.append(trace)
        self.on_trace(trace)
        self._changed.set()

    def conclude(self, result: Result) -> None:
        """Take the result; nothing follows."""
        if not self.result.done():
            self.result.set_result(result)
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """End it with an error of the service."""
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # retrieved: its client may be gone
        self._changed.set()

    def standing(self) -> Standing:
        """Return how the vote stands."""
        attempts = [t for t in self.traces if t.purpose in VOTING and t.finish is not Finish.FAILED]
        votes = Counter(t.answer.key for t in attempts if t.answer is not None)
        if not votes:
            return Standing(len(attempts), self.n_planned)
        [(key, count)] = votes.most_common(1)
        answer = next(t.answer for t in attempts if t.answer is not None and t.answer.key == key)
        return Standing(len(attempts), self.n_planned, answer.text, count / votes.total())

    async def updates(self) -> AsyncIterator[Sequence[str]]:
        """Yield the pieces of text that have come since the last time, until there is a result.

        Also without any, whenever a trace has arrived.
        """
        while True:
            pieces, self._pieces = self._pieces, []
            self._changed.clear()
            is_over = self.result.done()
            yield pieces
            if is_over:
                return
            await self._changed.wait()
