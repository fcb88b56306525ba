"""Entries to one engine: people's requests first, batches in the room that they leave.

The one rule: an interactive request never waits here. One of a batch starts only while both
together fill less than the window, or while no other one of a batch runs, so that batches end under
any load. Requests of one identity may come through several entries at once. Not covered: how many
interactive requests run, which their driver limits.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from orchestrator.core.plan import Model
from orchestrator.core.protocols import Engine
from orchestrator.core.values import Capability, Finish, Purpose, Request, Trace, changed
from orchestrator.engines.reply import trace_for

_Key: TypeAlias = tuple[object, str, int]  # an entry, with the identity of a request there


class Listener(Protocol):
    """Who hears the text of a problem's attempts while they are generated."""

    def begin(self, request: Request) -> None:
        """Expect the text of a request; again, if it is sent again."""

    def hear(self, text: str) -> None:
        """Take the next piece of it."""


class SharedWindow:
    """An engine's window, shared by its entries. Belongs to one event loop."""

    def __init__(self, engine: Engine, size: int) -> None:
        self.engine = engine
        self.n_gpus = float(getattr(engine, "n_gpus", 0.0))
        self.n_interactive = 0
        self.n_batch = 0
        self.size = size
        self._waiting: dict[_Key, asyncio.Future[bool]] = {}
        self._sent: dict[_Key, Request] = {}  # in flight, as the engine has it
        self._identities: set[tuple[str, int]] = set()  # of those

    async def generate(self, entry: object, request: Request) -> Trace:
        """Return the trace of an entry's request."""
        key = (entry, *request.identity)
        sent = self.distinct(request)
        self._sent[key] = sent
        self._identities.add(sent.identity)
        try:
            return await self.engine.generate(sent)
        finally:
            del self._sent[key]
            self._identities.discard(sent.identity)

    def abort(self, entry: object, request: Request) -> None:
        """Stop a running request of an entry."""
        sent = self._sent.get((entry, *request.identity))
        if sent is not None:
            self.engine.abort(sent)

    def distinct(self, request: Request) -> Request:
        """Return a request with an identity that none has that is in flight."""
        sent, numbers = request, itertools.count(2)
        while sent.identity in self._identities:
            sent = changed(request, problem_id=f"{request.problem_id} {next(numbers)}")
        return sent

    def has_room(self) -> bool:
        """Tell whether a request of a batch may start."""
        return not self.n_batch or self.n_interactive + self.n_batch < self.size

    async def batch_turn(self, entry: object, request: Request) -> bool:
        """Wait until a request of a batch may start, and count it; False if it was aborted."""
        if not self._waiting and self.has_room():
            self.n_batch += 1
            return True
        key = (entry, *request.identity)
        turn = self._waiting[key] = asyncio.get_running_loop().create_future()
        try:
            return bool(await turn)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.n_batch -= 1
                self.admit()
            raise
        finally:
            self._waiting.pop(key, None)

    def refuse(self, entry: object, request: Request) -> bool:
        """End the wait of a request; False if it does not wait."""
        turn = self._waiting.pop((entry, *request.identity), None)
        if turn is None:
            return False
        if not turn.done():
            turn.set_result(False)
        return True

    def admit(self) -> None:
        """Start those that waited longest while there is room."""
        for key, turn in list(self._waiting.items()):
            if not self.has_room():
                return
            del self._waiting[key]
            if not turn.done():
                self.n_batch += 1
                turn.set_result(True)

    def running_tokens(self) -> int:
        """Return the output tokens so far of the requests that run, of both entries."""
        count: Callable[[], int] = getattr(self.engine, "running_tokens", lambda: 0)
        return count()


class InteractiveEntry:
    """The engine for served requests; `listeners` hear the text of attempts, by problem id."""

    def __init__(self, window: SharedWindow) -> None:
        self._window = window
        self.n_gpus = window.n_gpus
        self.running_tokens = window.running_tokens
        self.listeners: dict[str, Listener] = {}

    async def generate(self, request: Request) -> Trace:
        """Return the trace; at once, whatever else runs."""
        window = self._window
        window.n_interactive += 1
        try:
            self._listen(request)
            return await window.generate(self, request)
        finally:
            window.n_interactive -= 1
            window.admit()

    def abort(self, request: Request) -> None:
        """Stop a running request."""
        self._window.abort(self, request)

    def _listen(self, request: Request) -> None:
        listener = self.listeners.get(request.problem_id)
        listen = getattr(self._window.engine, "listen", None)
        if listener is not None and listen is not None and request.purpose is Purpose.SOLVE:
            listener.begin(request)
            listen(request, listener.hear)


class BatchEntry:
    """The engine for batches."""

    def __init__(self, window: SharedWindow) -> None:
        self._window = window
        self.n_gpus = window.n_gpus
        self.running_tokens = window.running_tokens

    async def generate(self, request: Request) -> Trace:
        """Return the trace, once there is room for the request."""
        window = self._window
        if not await window.batch_turn(self, request):
            return trace_for(request, Finish.CANCELLED)
        try:
            return await window.generate(self, request)
        finally:
            window.n_batch -= 1
            window.admit()

    def abort(self, request: Request) -> None:
        """Stop a request, also one that waits."""
        if not self._window.refuse(self, request):
            self._window.abort(self, request)


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """An EngineFactory of an engine that is open already and stays open."""

    engine: Engine
    of: frozenset[Capability]

    def capabilities(self) -> frozenset[Capability]:
        """Return those of the engine."""
        return self.of

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Engine]:
        """Yield the engine."""
        yield self.engine
