"""Waiting for an engine that refuses: back-off, the circuit breaker, and the end of patience."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from virtual_time import VirtualTime

from orchestrator.core.errors import EngineError, Unavailable
from orchestrator.core.values import Finish, Request, Trace
from orchestrator.engines.circuit_breaker import MAX_IN_A_ROW
from orchestrator.engines.reply import trace_for
from orchestrator.engines.supervised import Clock, SupervisedEngine
from orchestrator.plan.execution import Supervision

WINDOW = 16


class Scripted:
    """An engine whose n-th request, counted from 0, meets what the script does with it."""

    def __init__(self, script: Callable[[int, Request], Awaitable[None]]) -> None:
        self.sent: list[Request] = []
        self._script = script

    async def generate(self, request: Request) -> Trace:
        self.sent.append(request)
        await self._script(len(self.sent) - 1, request)
        return trace_for(request, Finish.STOP, text=str(request.ordinal))

    def abort(self, request: Request) -> None:
        """Nothing here runs for long."""


def outage(
    first: int, last: int, **error: float | bool
) -> Callable[[int, Request], Awaitable[None]]:
    """Refuse the requests from `first` up to `last`."""

    async def script(n: int, request: Request) -> None:
        if first <= n < last:
            raise Unavailable("HTTP 503: overloaded", **error)  # type: ignore[arg-type]

    return script


def request(ordinal: int) -> Request:
    return Request(prompt="x", problem_id="p", ordinal=ordinal)


async def served(
    script: Callable[[int, Request], Awaitable[None]],
    n: int,
    patience: float = 600.0,
    jitter: float = 0.0,
) -> tuple[list[Trace], Scripted, SupervisedEngine, VirtualTime]:
    """Send n requests, WINDOW at a time; raise the first error."""
    time, inner, slots = VirtualTime(), Scripted(script), asyncio.Semaphore(WINDOW)
    async with time.passing(jitter) as clock:
        engine = SupervisedEngine(inner, Supervision(patience_seconds=patience), clock)

        async def one(ordinal: int) -> Trace:
            async with slots:
                return await engine.generate(request(ordinal))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(ordinal)) for ordinal in range(n)]
        except* EngineError as errors:
            raise errors.exceptions[0] from None
        finally:
            await engine.aclose()
    return [task.result() for task in tasks], inner, engine, time


async def test_a_refused_request_waits_twice_as_long_each_time() -> None:
    """Half a second, doubled, and by the jitter down to half of that: here 0, so just half."""
    [trace], _, _, time = await served(outage(0, 4), 1)
    assert trace.finish is Finish.STOP
    assert time.slept == [0.25, 0.5, 1.0, 2.0]


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 7.0), (0.8, 8.4)])
async def test_the_pause_that_a_server_requests_is_never_shortened(
    jitter: float, seconds: float
) -> None:
    """A fifth longer with a jitter of 0.8: a window must not come back in one moment."""
    _, _, _, time = await served(outage(0, 1, retry_after_seconds=7.0), 1, jitter=jitter)
    assert time.slept == pytest.approx([seconds])


async def test_an_outage_loses_nothing_and_stops_the_window() -> None:
    """200 requests; at the 50th everything is refused, forty times.

    The requests in flight are refused once; after that one probe is sent at a time, not the window
    again and again.
    """
    traces, inner, engine, _ = await served(outage(50, 90), 200)
    assert [t.text for t in traces] == [str(i) for i in range(200)]
    assert len(inner.sent) == 240
    refused = Counter(r.ordinal for r in inner.sent[50:90])
    assert max(refused.values()) - min(refused.values()) <= 2  # probes take turns
    outages = engine.outages
    assert (outages.n_retries, outages.n_pauses, outages.pause) == (40, 1, None)
    assert outages.seconds > 0


async def test_a_window_fills_again_before_its_first_request_is_finished() -> None:
    """Attempts may take minutes: a probe that is not refused within seconds is being served."""
    n_running, full = 0, asyncio.Event()

    async def script(n: int, request: Request) -> None:
        nonlocal n_running
        if n < 2 * MAX_IN_A_ROW:
            raise Unavailable("HTTP 503")
        n_running += 1
        if n_running == WINDOW:
            full.set()
        await full.wait()

    traces, _, _, _ = await served(script, WINDOW)
    assert all(t.finish is Finish.STOP for t in traces)


async def test_a_server_that_never_mends_ends_the_run_and_fails_no_request() -> None:
    time, inner = VirtualTime(), Scripted(outage(10, 10**9))
    async with time.passing() as clock:
        engine = SupervisedEngine(inner, Supervision(patience_seconds=60.0), clock)
        error = await _first_error(engine, 30)
        await engine.aclose()
    assert "HTTP 503: overloaded; no request was served for 60 s" in str(error)
    # pauses of 0.25 s, doubled up to 5 s: 5 of them make 7.75 s, and 11 more reach 60 s
    assert len(inner.sent) <= 30 + 20


async def _first_error(engine: SupervisedEngine, n: int) -> EngineError:
    tasks = [asyncio.create_task(engine.generate(request(i))) for i in range(n)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    error = next(t.exception() for t in done if t.exception() is not None)
    assert all(t.result().finish is Finish.STOP for t in done if t.exception() is None)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(error, EngineError)
    return error


async def test_one_request_that_is_always_refused_fails_alone() -> None:
    """A prompt that crashes its server must not end the job."""

    async def script(n: int, request: Request) -> None:
        if request.ordinal == 3:
            raise Unavailable("HTTP 500: kaput")

    traces, _, _, _ = await served(script, 40, patience=20.0)
    assert [t.ordinal for t in traces if t.finish is Finish.FAILED] == [3]
    assert "HTTP 500: kaput" in traces[3].error


async def test_a_server_that_asks_for_more_than_our_patience_ends_the_run_at_once() -> None:
    """A daily limit: to wait would be in vain, and to go on would fail the rest of the file."""
    with pytest.raises(EngineError, match=r"asks to wait for 3600 s.*patience_seconds = 600"):
        await served(outage(20, 10**9, retry_after_seconds=3600.0), 100)


async def test_an_exhausted_quota_pauses_at_the_first_refusal() -> None:
    """Five more would be refused as well. It continues when somebody has paid."""
    traces, _, engine, _ = await served(outage(0, 1, exhausted=True), 1)
    assert traces[0].finish is Finish.STOP
    assert engine.outages.n_pauses == 1
    with pytest.raises(EngineError, match="no request was served for"):
        await served(outage(0, 10**9, exhausted=True), 1)


@pytest.mark.parametrize("n_waiting", [1, 2 * MAX_IN_A_ROW])
async def test_a_request_that_waits_can_be_aborted(n_waiting: int) -> None:
    """In its own back-off as in the queue of a pause: a budget that ends does not wait."""
    time, inner = VirtualTime(), Scripted(outage(0, 10**9))
    engine = SupervisedEngine(inner, Supervision(), Clock(lambda: 0.0, time.sleep))
    tasks = [asyncio.create_task(engine.generate(request(i))) for i in range(n_waiting)]
    for _ in range(50):
        await asyncio.sleep(0)
    for ordinal in range(n_waiting):
        engine.abort(request(ordinal))
    assert {t.finish for t in await asyncio.gather(*tasks)} == {Finish.CANCELLED}
    await engine.aclose()


async def test_without_patience_nothing_is_sent_again() -> None:
    """Four requests fail; the fifth in a row ends the run."""
    traces, inner, _, _ = await served(outage(0, MAX_IN_A_ROW - 1), MAX_IN_A_ROW - 1, patience=0)
    assert {t.finish for t in traces} == {Finish.FAILED}
    assert len(inner.sent) == MAX_IN_A_ROW - 1
    with pytest.raises(EngineError, match="HTTP 503"):
        await served(outage(0, 10**9), 100, patience=0)


async def test_an_abort_in_the_moment_in_which_a_request_is_admitted_is_not_lost() -> None:
    """The first that is served lets others in, and its caller stops them in the same moment."""
    time, inner = VirtualTime(), Scripted(outage(0, 6))
    async with time.passing() as clock:
        engine = SupervisedEngine(inner, Supervision(), clock)
        is_first = True

        async def one(ordinal: int) -> Trace:
            nonlocal is_first
            trace = await engine.generate(request(ordinal))
            if is_first:
                is_first = False
                for other in range(6):
                    engine.abort(request(other))
            return trace

        traces = await asyncio.gather(*map(one, range(6)))
        await engine.aclose()
    finishes = Counter(trace.finish for trace in traces)
    assert finishes == {Finish.STOP: 1, Finish.CANCELLED: 5}
    assert len(inner.sent) == 7
