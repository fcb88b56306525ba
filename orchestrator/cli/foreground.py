"""Runs a job in front of a person: signals, the view, and the engine's chatter kept out of both.

One rule: nothing here can change an answer or lose one. The first Ctrl-C or SIGTERM cancels the run
as a whole, after which the journal and results.jsonl hold all that arrived; the second ends the
process at once, and the journal still does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console

from orchestrator.cli.view.live import Ticker, View, Watch
from orchestrator.core.errors import EngineError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.protocols import Engine, EngineFactory
from orchestrator.core.values import Capability
from orchestrator.jobs.job import Job
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.runtime.api import run_job
from orchestrator.runtime.driver import Progress

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went. `signal_number` is 0 unless a signal ended it; `progress` is None when no
    engine came up, or none was needed.
    """

    seconds: float
    start_seconds: float  # of them, until the engine was up
    signal_number: int
    progress: Progress | None
    display_seconds: float  # of CPU time that showing it took

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, else 0."""
        return 128 + self.signal_number if self.signal_number else 0


class KeptEngine:
    """`with KeptEngine(execution) as kept:` keeps one engine for several jobs, one after another on
    `kept.runner`'s loop. A Backend for them.

    It is opened for the first job that needs it and closed at the end of the block. All jobs must
    have the same models.
    """

    def __init__(self, execution: Execution) -> None:
        """Load the plugin; nothing is started."""
        self.runner = asyncio.Runner()
        self._backend: EngineFactory = registry.load("engines", execution.engine)
        self._opened: asyncio.Future[Engine] | None = None
        self._holder: asyncio.Task[None] | None = None

    def __enter__(self) -> KeptEngine:
        """Make the loop."""
        self.runner.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the engine, if one was started, and close the loop."""
        try:
            self.runner.run(self._close())
        finally:
            self.runner.close()

    @property
    def is_open(self) -> bool:
        """Whether the engine is up."""
        return self._opened is not None and self._opened.done()

    def capabilities(self) -> frozenset[Capability]:
        """Return the plugin's."""
        return self._backend.capabilities()

    @contextlib.asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Engine]:
        """Yield the engine, which outlives this context."""
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()
            self._holder = asyncio.create_task(self._hold(models, self._opened))
        yield await asyncio.shield(self._opened)

    async def _hold(self, models: Mapping[str, Model], opened: asyncio.Future[Engine]) -> None:
        """Open and close in one task, as context managers of engines may want it."""
        try:
            async with self._backend.open(models) as engine:
                opened.set_result(engine)
                await asyncio.Event().wait()  # until it is cancelled
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)

    async def _close(self) -> None:
        if self._holder is not None:
            self._holder.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._holder


def run_in_foreground(
    job: Job,
    plan: Plan,
    execution: Execution,
    view: View,
    console: Console,
    kept: KeptEngine | None = None,
) -> Outcome:
    """Run what remains of a job and return how it went. EngineError or JournalError as they come; a
    signal is an outcome, not an error.

    With `kept` it runs on that engine and leaves it open.
    """
    watch = Watch()
    if kept is None or not kept.is_open:
        watch.enter(f"starting engine {execution.engine.name!r}", _start_hint(plan, execution))
    began = time.monotonic()
    signals = Signals(
        console,
        lambda: watch.enter("stopping", "what arrived is kept; Ctrl-C again ends it at once"),
    )

    def started(progress: Progress) -> None:
        signals.install()  # again: engines install handlers of their own when they start
        watch.started(progress)

    async def consume() -> None:
        async with contextlib.aclosing(run_job(job, plan, execution, started, kept)) as results:
            async for _ in results:
                pass
            if kept is None:
                watch.enter("stopping the engine")

    ticker = Ticker(view, watch)
    with ticker, signals:
        try:
            (asyncio.run if kept is None else kept.runner.run)(signals.guard(consume))
        except EngineError:
            # a terminal sends Ctrl-C to the engine's processes too: that they end is no failure
            if not signals.number:
                raise
        watch.enter("running")
    ended = time.monotonic()
    started_at = watch.running_since if watch.progress else ended
    return Outcome(
        ended - began, started_at - began, signals.number, watch.progress, ticker.cpu_seconds
    )


def _start_hint(plan: Plan, execution: Execution) -> str:
    names = ", ".join(model.path for model in plan.models.values())
    return (
        f"loading {names} takes a minute or more"
        if execution.engine.name in ("ray", "vllm")
        else ""
    )


class Signals:
    """`with Signals(...)` handles SIGINT and SIGTERM: the first cancels what `guard` runs, the
    second ends the process.

    Outside the main thread it handles nothing, since Python gives signals to the main thread alone.
    """

    def __init__(self, console: Console, on_first: Callable[[], None]) -> None:
        """Nothing is handled before the block is entered."""
        self.number = 0
        self._console = console
        self._on_first = on_first
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._waker = -1
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}

    def install(self) -> None:
        """Handle the signals from now on."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._handle)
            if self._waker >= 0:
                signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def __enter__(self) -> Signals:
        """Handle them."""
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        """Let them be handled as before."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)

    async def guard(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run `work` to its end, or until a signal cancels it; then return as soon as it has
        cleaned up.
        """
        self._loop, self._task = asyncio.get_running_loop(), asyncio.ensure_future(work())
        if self.number:
            self._task.cancel()
        with self._waking(self._loop):
            try:
                await self._task
            except asyncio.CancelledError:
                if not self.number:
                    raise

    @contextlib.contextmanager
    def _waking(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Let every signal wake the loop: Python handles one that comes just before the loop waits
        only when the wait is over.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            writer.setblocking(False)
            loop.add_reader(reader, reader.recv, 4096)
            self._waker = writer.fileno()
            self.install()
            try:
                yield
            finally:
                self._waker = -1
                signal.set_wakeup_fd(-1)
                loop.remove_reader(reader)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if self._console.is_terminal:
                with contextlib.suppress(OSError):
                    self._console.file.write(f"{_SHOW_CURSOR}\n")
                    self._console.file.flush()
            os._exit(128 + number)
        self.number = number
        self._on_first()
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)


@contextlib.contextmanager
def diverted(log: Path) -> Iterator[TextIO]:
    """Send what this process and its children write to their streams into a file; yield the error
    stream as it was.

    An empty log is removed at the end. Where the error stream is no real one (under a test runner)
    nothing is diverted.
    """
    if not _is_real(sys.stderr, 2):
        yield sys.stderr
        return
    sys.stdout.flush()
    sys.stderr.flush()
    streams = (1, 2) if _is_real(sys.stdout, 1) else (2,)
    kept = {fd: os.dup(fd) for fd in streams}
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for fd in streams:
        os.dup2(target, fd)
    os.close(target)
    with os.fdopen(os.dup(kept[2]), "w", encoding=sys.stderr.encoding, errors="replace") as own:
        try:
            yield own
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            for fd, copy in kept.items():
                os.dup2(copy, fd)
                os.close(copy)
            if log.stat().st_size == 0:
                log.unlink()


def _is_real(stream: TextIO | None, fd: int) -> bool:
    try:
        return stream is not None and stream.fileno() == fd
    except (OSError, ValueError):
        return False
