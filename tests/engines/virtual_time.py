"""Time that passes only where a test lets it, for everything that waits by a `Clock`."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from orchestrator.engines.supervised import Clock


@dataclass
class VirtualTime:
    """Time that jumps to the next sleeper once nothing else can happen."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)
    _sleepers: list[tuple[float, int, asyncio.Event]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        awake = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), awake))
        await awake.wait()

    @asynccontextmanager
    async def passing(self, jitter: float = 0.0) -> AsyncIterator[Clock]:
        task = asyncio.create_task(self._pass())
        yield Clock(lambda: self.now, self.sleep, lambda: jitter)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _pass(self) -> None:
        while True:
            for _ in range(50):
                await asyncio.sleep(0)
            if self._sleepers:
                self.now, _, awake = heapq.heappop(self._sleepers)
                awake.set()
