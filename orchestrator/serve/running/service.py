"""The running service: one engine, one driver for everybody's requests, and the batches beside it.

The one rule: a request that is not wanted any more is stopped at once, and nothing of a finished
one is kept here. A request is a problem of the driver, which explores it like one of a job. Not
covered: the protocol, and who may ask for how much (`orchestrator.serve.access`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from orchestrator.core.plan import Plan
from orchestrator.core.session import Session
from orchestrator.core.values import Result, Trace
from orchestrator.jobs.journal import Journal
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution, JobBudget, Spent, Supervision
from orchestrator.runtime.api import started_driver
from orchestrator.runtime.driver import Arrivals, Driver
from orchestrator.serve.protocol.faults import broken, busy, shutting_down
from orchestrator.serve.protocol.questions import Question
from orchestrator.serve.running.entries import (
    BatchEntry,
    InteractiveEntry,
    OpenEngine,
    SharedWindow,
)
from orchestrator.serve.running.exchange import Exchange
from orchestrator.serve.sharing.direct import DirectAccess
from orchestrator.serve.sharing.wire import described
from orchestrator.serve.telemetry import Metrics

GONE = "client"  # why an exploration ended whose client went away


@dataclass(slots=True, eq=False)
class Service:
    """What answers requests; made by `running_service`, and used from one event loop."""

    plan: Plan
    execution: Execution
    batch_engine: OpenEngine
    direct: DirectAccess
    max_waiting: int
    metrics: Metrics
    _entry: InteractiveEntry
    _arrivals: Arrivals
    _driver: Driver | None = None
    _ended: asyncio.Task[None] | None = None
    is_draining: bool = False
    _open: dict[str, Exchange] = field(default_factory=dict)

    @property
    def n_waiting(self) -> int:
        """The number of requests that no engine works on yet."""
        return len(self._arrivals)

    @property
    def n_open(self) -> int:
        """The number of requests without a result."""
        return len(self._open)

    @property
    def n_running(self) -> int:
        """The number of requests to the engine that run for them."""
        return 0 if self._driver is None else self._driver.progress.n_running

    @property
    def is_full(self) -> bool:
        """Whether as many requests wait as may, beside those that the engine has room for."""
        room = max(0, self.execution.window - self.n_running)
        return self.n_waiting >= self.max_waiting + room

    @property
    def fault(self) -> str:
        """Why no request is served now; "" if they are."""
        if self.is_draining:
            return "the service is shutting down"
        if self._ended is None or self._ended.done():
            return "the engine has failed"
        if self._driver is not None and self._driver.progress.outages.pause is not None:
            return "the engine refuses requests"
        return ""

    def submit(self, question: Question) -> Exchange:
        """Begin to answer a question; Fault if the service is full or shutting down."""
        if self.is_draining or self._ended is None or self._ended.done():
            raise shutting_down()
        if self.is_full:
            raise busy("too many requests are waiting; send this one again later", 1, "overloaded")
        exchange = Exchange(question.problem, question.n_planned, question.usd)
        self._open[question.problem.id] = exchange
        if question.is_shown_early:
            self._entry.listeners[question.problem.id] = exchange
        self._arrivals.put(question.problem)
        return exchange

    def stop(self, exchange: Exchange, reason: str) -> None:
        """End an exploration: with what has arrived, or, if it waits, without anything."""
        id = exchange.problem.id
        if self._open.get(id) is not exchange:
            return
        if self._arrivals.withdraw(id):
            self._forget(id)
            exchange.fail(broken("it was withdrawn before it began", 503))
        elif self._driver is not None:
            self._driver.stop(id, reason)

    async def drained(self) -> None:
        """Wait until every request that came has its result; no new ones are taken."""
        self.is_draining = self.direct.is_draining = True
        while self._open:
            await asyncio.wait([e.result for e in self._open.values()])
            await asyncio.sleep(0)
        await self.direct.drained()

    def stop_all(self) -> None:
        """End what is left at the end of the service; no new request is taken."""
        self.is_draining = True
        for exchange in list(self._open.values()):
            self.stop(exchange, "shutdown")
        self.direct.stop_all()

    def arrived(self, session: Session, trace: Trace) -> None:
        """Take a trace of an open request."""
        exchange = self._open.get(session.problem.id)
        if exchange is not None:
            exchange.take(trace)
            self.metrics.count_trace(trace)
            self._charge(exchange, trace)

    def concluded(self, result: Result) -> None:
        """Take a result."""
        self.metrics.count(result)
        exchange = self._forget(result.problem_id)
        if exchange is not None:
            exchange.conclude(result)

    def _charge(self, exchange: Exchange, trace: Trace) -> None:
        if not exchange.usd:
            return
        price = self.execution.prices.of(trace.model)
        exchange.spent_usd += price.usd(trace.usage + trace.verification_usage)
        if exchange.spent_usd >= exchange.usd:
            self.stop(exchange, "usd")

    def _forget(self, id: str) -> Exchange | None:
        self._entry.listeners.pop(id, None)
        return self._open.pop(id, None)

    def _fail_all(self, cause: str) -> None:
        for id, exchange in list(self._open.items()):
            self._forget(id)
            exchange.fail(broken(cause, 503))

    async def _drive(self, driver: Driver) -> None:
        try:
            async with contextlib.aclosing(driver.run(self._arrivals)) as results:
                async for _ in results:
                    pass
        except BaseException as error:
            self._fail_all(f"{type(error).__name__}: {error}")
            raise

    async def ended(self) -> None:
        """Wait for the end of the driver; EngineError or JournalError if that was a failure."""
        assert self._ended is not None
        await asyncio.shield(self._ended)


@contextlib.asynccontextmanager
async def running_service(
    plan: Plan,
    execution: Execution,
    journal: Journal | None = None,
    max_waiting: int = 256,
    metrics: Metrics | None = None,
) -> AsyncIterator[Service]:
    """Yield the service of a plan, whose engine is up; at the end of the block all is stopped.

    EngineError when the engine cannot start.
    """
    factory = registry.load("engines", execution.engine)
    async with factory.open(plan.models) as engine:
        window = SharedWindow(engine, execution.window)
        entry = InteractiveEntry(window)
        capabilities = factory.capabilities()
        batch_engine = OpenEngine(BatchEntry(window), capabilities)
        direct = DirectAccess(
            window, described(plan, execution, window.n_gpus), window.size + max_waiting
        )
        counts = metrics or Metrics()
        service = Service(
            plan, execution, batch_engine, direct, max_waiting, counts, entry, Arrivals()
        )
        # limits of a job are those of each batch; a failed request is its client's business
        own = replace(execution, budget=JobBudget(), supervision=_endless(execution.supervision))
        work = started_driver(
            plan, own, journal, OpenEngine(entry, capabilities), Spent(), observer=service
        )
        async with work as (driver, _):
            driver.progress.n_problems = sys.maxsize
            service._driver = driver
            service._ended = asyncio.create_task(service._drive(driver))
            try:
                yield service
            finally:
                service._ended.cancel()
                await asyncio.gather(service._ended, return_exceptions=True)


def _endless(supervision: Supervision) -> Supervision:
    return replace(supervision, max_failed=1.0)
