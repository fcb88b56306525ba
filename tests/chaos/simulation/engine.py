"""An engine that fails in every way that an engine may, by a seed, with the fake engine's replies.

The one rule: a reply that arrives whole is that of the fake engine, a pure function of the request,
so that whoever reads a journal can tell whose reply a trace is.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.core.errors import EngineError, Unavailable
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, Finish, Request, Trace, changed
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.engines.reply import trace_for


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of the requests that something befalls, in one life of a process."""

    slow: float = 0.0
    late: float = 0.0  # delivered only some time after its end, or after it was aborted
    refused: float = 0.0
    failed: float = 0.0
    raises: float = 0.0
    malformed: float = 0.0
    hangs: float = 0.0  # until they are aborted
    dies_at: int = 0  # the request at which the engine dies; 0: it does not
    outages: tuple[tuple[float, float], ...] = ()  # seconds after its start; all is refused
    loses_replica: float = 0.0  # per request: all that run then are refused


@dataclass(slots=True)
class Log:
    """What an engine did in one life, and what must not have happened."""

    n_requests: int = 0
    output_tokens: int = 0  # of replies that were returned
    lost_tokens: int = 0  # of refused ones
    n_lost: int = 0  # replies that failed
    violations: list[str] = field(default_factory=list)


class FaultyFactory:
    """Opens the engine of one life; `must_not` tells why a request must not be sent, if so."""

    def __init__(
        self,
        options: Fake,
        faults: Faults,
        rng: random.Random,
        must_not: Callable[[Request], str] = lambda request: "",
    ) -> None:
        self.options = options
        self.log = Log()
        self._faults = faults
        self._rng = rng
        self._must_not = must_not

    def capabilities(self) -> frozenset[Capability]:
        return self.options.capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[FaultyEngine]:
        tasks = {name: model.task for name, model in models.items()}
        yield FaultyEngine(self.options, tasks, self._faults, self._rng, self.log, self._must_not)


class FaultyEngine(FakeEngine):
    """One engine; see `Faults`."""

    def __init__(
        self,
        options: Fake,
        tasks: Mapping[str, str],
        faults: Faults,
        rng: random.Random,
        log: Log,
        must_not: Callable[[Request], str],
    ) -> None:
        super().__init__(options, tasks)
        self._faults = faults
        self._rng = rng
        self._log = log
        self._must_not = must_not
        self._in_flight: dict[tuple[str, int], asyncio.Event] = {}  # set when aborted
        self._interrupted: dict[tuple[str, int], asyncio.Future[None]] = {}
        self._began = asyncio.get_running_loop().time()

    def abort(self, request: Request) -> None:
        event = self._in_flight.get(request.identity)
        if event is not None:
            event.set()
        super().abort(request)

    async def generate(self, request: Request) -> Trace:
        log, identity = self._log, request.identity
        log.n_requests += 1
        if reason := self._must_not(request):
            log.violations.append(f"{identity}: {reason}")
        if identity in self._in_flight:
            log.violations.append(f"{identity} is in flight already")
        self._in_flight[identity] = asyncio.Event()
        try:
            trace = await self._served(request)
        finally:
            del self._in_flight[identity]
        log.output_tokens += getattr(getattr(trace, "usage", None), "output_tokens", 0)
        log.n_lost += getattr(trace, "finish", Finish.FAILED) is Finish.FAILED
        return trace

    async def _served(self, request: Request) -> Any:
        rng, faults, log = self._rng, self._faults, self._log
        if faults.dies_at and log.n_requests >= faults.dies_at:
            await self._pause()
            raise EngineError("the engine dies on purpose")
        aborted = self._in_flight[request.identity]
        await self._pause()
        if rng.random() < faults.hangs:
            await aborted.wait()
        if aborted.is_set():
            await self._linger()
            return trace_for(request, Finish.CANCELLED)
        seconds = asyncio.get_running_loop().time() - self._began
        if any(begin <= seconds < end for begin, end in faults.outages):
            raise Unavailable("an outage", rng.choice((None, None, 0.5, 20.0)))
        if rng.random() < faults.loses_replica:
            self._lose_replica()
        if rng.random() < faults.refused:
            raise self._refusal()
        if rng.random() < faults.failed:
            return trace_for(request, Finish.FAILED, error="failed on purpose")
        if rng.random() < faults.raises:
            raise rng.choice((RuntimeError, KeyError, TimeoutError, OSError))("raised on purpose")
        trace = await self._unless_lost(request)
        if rng.random() < faults.malformed:
            log.n_lost += 1
            return _malformed(trace, rng)
        if rng.random() < faults.late:
            await self._linger()
        return trace

    async def _pause(self) -> None:
        kind = self._rng.random()
        if kind < self._faults.slow:
            await asyncio.sleep(self._rng.expovariate(0.2))
        elif kind < 0.5:
            await asyncio.sleep(self._rng.expovariate(20))
        elif kind < 0.8:
            for _ in range(self._rng.randrange(4)):
                await asyncio.sleep(0)

    async def _linger(self) -> None:
        if self._rng.random() < self._faults.late:
            await asyncio.sleep(self._rng.expovariate(0.5))

    async def _unless_lost(self, request: Request) -> Trace:
        """Generate a reply, unless its replica is lost meanwhile."""
        if not self._faults.loses_replica:
            return await super().generate(request)
        lost = asyncio.get_running_loop().create_future()
        self._interrupted[request.identity] = lost
        work = asyncio.ensure_future(super().generate(request))
        try:
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and not work.done():
                n_tokens = self._rng.randrange(3)
                self._log.lost_tokens += n_tokens
                raise Unavailable("its replica died", elsewhere=True, lost_tokens=n_tokens)
            return work.result()
        finally:
            del self._interrupted[request.identity]
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    def _lose_replica(self) -> None:
        for lost in self._interrupted.values():
            if not lost.done() and self._rng.random() < 0.5:
                lost.set_result(None)

    def _refusal(self) -> Unavailable:
        rng = self._rng
        n_tokens = rng.choice((0, 0, 0, 2))
        self._log.lost_tokens += n_tokens
        return Unavailable(
            "refused on purpose",
            rng.choice((None, None, None, 0.2, 5.0)),
            exhausted=rng.random() < 0.02,
            elsewhere=rng.random() < 0.2,
            lost_tokens=n_tokens,
        )


def _malformed(trace: Trace, rng: random.Random) -> Any:
    """Return a reply that no engine should return."""
    usage = trace.usage
    return rng.choice(
        (
            lambda: None,
            lambda: "text",
            lambda: changed(trace, ordinal=trace.ordinal + 1),
            lambda: changed(trace, metrics={**trace.metrics, "odd": math.nan}),
            lambda: changed(trace, usage=replace(usage, seconds=math.inf)),
            lambda: changed(trace, usage=replace(usage, seconds=math.nan)),
            lambda: changed(trace, token_ids=(2**40,)),
            lambda: changed(trace, values=(math.inf,)),
            lambda: changed(trace, thinking_spans=((5, 10**6),)),
        )
    )()
