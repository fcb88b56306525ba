"""Hands events over to sinks: to each through a bounded queue that a thread of its own drains.

The one rule: `hand_over` never waits. A sink that is too slow loses events, which are counted; one
that raises is named once and gets no more; one that does not come to its end in time is left
behind. Threads, and no processes: the trackers' own libraries already send from processes or
threads of their own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.core.errors import describe
from orchestrator.runtime.sinks.events import (
    Event,
    ProblemFinished,
    RunEnded,
    RunStarted,
    Sink,
    TraceFinished,
)
from orchestrator.runtime.sinks.silence import silenced

QUEUE_EVENTS = 20_000  # of one sink, some 10 MB; a second's worth at the fastest engine measured
PAUSE_SECONDS = 1.0  # between two calls of a sink
FLUSH_SECONDS = 30.0  # for all sinks together, at the end of a run; importing two takes ten
_LONGEST_ERROR = 300  # characters


class Delivery:
    """The sinks of one run, open in its `with` block.

    `report` is called with one line for each sink that failed or lost events, from any thread.
    """

    def __init__(
        self,
        sinks: Sequence[tuple[str, Sink]],
        started: RunStarted,
        report: Callable[[str], None],
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        """Prepare; nothing is opened before the block is entered."""
        self.report = report
        self._flush_seconds = flush_seconds
        self._outlets = [_Outlet(name, sink, started, self._report) for name, sink in sinks]
        self._silent = {outlet.thread for outlet in self._outlets}
        self._silence = silenced(self._silent)
        self._wanting: dict[type, list[_Outlet]] = {
            kind: [outlet for outlet in self._outlets if outlet.wants(kind)]
            for kind in (TraceFinished, ProblemFinished, RunEnded)
        }

    def __enter__(self) -> Delivery:
        """Open the sinks, each in its thread."""
        self._silence.__enter__()
        for outlet in self._outlets:
            outlet.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the sinks, within the limit; an event RunEnded has been handed over."""
        deadline = time.monotonic() + self._flush_seconds
        for outlet in self._outlets:
            outlet.is_closing.set()
        for outlet in self._outlets:
            outlet.thread.join(max(0.0, deadline - time.monotonic()))
            outlet.report_losses(self._flush_seconds)
        self._silence.__exit__(None, None, None)

    def wants(self, kind: type) -> bool:
        """Tell whether any sink receives events of this kind."""
        return bool(self._wanting[kind])

    def hand_over(self, event: Event) -> None:
        """Put an event into the queues of the sinks that want it."""
        for outlet in self._wanting[type(event)]:
            outlet.put(event)

    def _report(self, text: str) -> None:
        self._silent.discard(threading.current_thread())  # whose sink has failed
        with contextlib.suppress(OSError, ValueError):  # the terminal was closed
            self.report(text)


class _Outlet:
    """One sink with its queue and its thread."""

    def __init__(
        self, name: str, sink: Sink, started: RunStarted, report: Callable[[str], None]
    ) -> None:
        self.is_closing = threading.Event()
        # a daemon: one that never ends does not keep the process
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"leadline-sink-{name}")
        self._name = name
        self._sink = sink
        self._started = started
        self._report = report
        self._kinds: Sequence[type] | None = getattr(sink, "events", None)
        self._queue: deque[Event] = deque([started] if self._kinds is None else [])
        self._n_lost = 0
        self._has_failed = False
        if self._kinds is not None and RunStarted in self._kinds:
            self._queue.append(started)

    def wants(self, kind: type) -> bool:
        return self._kinds is None or kind in self._kinds

    def put(self, event: Event) -> None:
        """Append an event, if there is room; the last one always."""
        if self._has_failed:
            return
        if len(self._queue) < QUEUE_EVENTS and not isinstance(event, RunEnded):
            self._queue.append(event)
        elif isinstance(event, RunEnded):
            self._queue.append(replace(event, n_lost=self._n_lost))
        else:
            self._n_lost += 1

    def report_losses(self, seconds: float) -> None:
        if self._n_lost:
            self._report(f"sink {self._name!r} was too slow: {self._n_lost:,} events are lost")
        if self.thread.is_alive():
            n = f"; {len(self._queue):,} events were not delivered" if self._queue else ""
            self._report(f"sink {self._name!r} did not finish within {seconds:g} s{n}")

    def _run(self) -> None:
        try:
            with self._sink.open(self._started) as receive:
                is_last = False
                while not is_last:
                    is_last = self.is_closing.wait(PAUSE_SECONDS)
                    batch = [self._queue.popleft() for _ in range(len(self._queue))]
                    if batch:
                        receive(batch)
        # a sink, or its library, may raise anything; the job continues without it
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self._has_failed = True
            self._queue.clear()
            reason = " ".join(describe(error).split())
            if len(reason) > _LONGEST_ERROR:
                reason = f"{reason[:_LONGEST_ERROR]}…"
            self._report(f"sink {self._name!r} failed and gets no more events: {reason}")
