"""Runs a job in the foreground: its live view, its signals, and a log for the engine's output.

The one rule: nothing here can change or lose an answer. The first Ctrl-C, SIGTERM or SIGHUP (a lost
connection) cancels the whole run, even while a strategy computes; the journal and results.jsonl
then contain everything that arrived. The second one ends the process at once, and the journal is
still complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self, TextIO

from rich.console import Console
from rich.text import Text

from orchestrator.cli.console import Screen, diverted, message
from orchestrator.cli.inputs import report_rows, row_notes, run_name
from orchestrator.cli.options import BUDGET_SPENT, DisplayOptions
from orchestrator.cli.view.live import LiveView, PlainView, RunState, Ticker, View
from orchestrator.core.errors import BudgetSpent, EngineError, JournalError
from orchestrator.core.plan import Plan
from orchestrator.core.protocols import EngineFactory
from orchestrator.engines.shared import SharedEngine
from orchestrator.jobs.files import make_private
from orchestrator.jobs.job import Job
from orchestrator.plan.execution import Execution
from orchestrator.report.losses import loss_causes, losses_so_far
from orchestrator.runtime.api import run_job
from orchestrator.runtime.progress import Progress
from orchestrator.runtime.sinks.reporting import Reporting, reporting
from orchestrator.runtime.watchdog import is_computing
from orchestrator.studies.sweep.series import Pools, Series

ENGINE_LOG = "engine.log"
_FEWEST_LOST = 10  # attempts or problems, before a running job names a cause of lost accuracy
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"
_SLOW_ENGINES = ("ray", "vllm")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run.

    `signal_number` is 0 unless a signal ended it; `progress` is None if no engine started or none
    was needed.
    """

    seconds: float = 0.0
    start_seconds: float = 0.0  # of them, until the engine was up
    signal_number: int = 0
    progress: Progress | None = None
    spent: BudgetSpent | None = None  # where a budget of the job ended the run

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 4 after a spent budget, else 0."""
        if self.signal_number:
            return 128 + self.signal_number
        return BUDGET_SPENT if self.spent else 0


def run_in_foreground(
    job: Job,
    plan: Plan,
    execution: Execution,
    title: str,
    display: DisplayOptions,
    stream: TextIO,
    shared: SharedEngine | None = None,
    sinks: Reporting | None = None,
    factory: EngineFactory | None = None,
) -> Outcome:
    """Run the remaining problems of a job, show progress on `stream`, and return the outcome.

    A signal is an outcome, and so is a spent budget; other EngineErrors and JournalError are
    raised. A `shared` engine is used and left open; `factory` takes the place of the execution's
    engine. `sinks` learn what happens.
    """
    console = Screen(file=stream, stderr=True, quiet=display.quiet)
    job_run = functools.partial(run_job, job, plan, execution, observer=sinks)
    state = RunState(
        losses=lambda progress: loss_causes(
            losses_so_far(progress), plan, job.directory, _FEWEST_LOST
        )
    )
    spent: BudgetSpent | None = None
    if factory is None and (shared is None or not shared.is_open):
        state.enter(f"starting engine {execution.engine.name!r}", _start_hint(plan, execution))
    signals = Signals(
        console,
        lambda: state.enter("stopping", "finished traces are kept; Ctrl-C again ends it at once"),
    )

    def started(progress: Progress) -> None:
        signals.install()  # again: engines install handlers of their own when they start
        state.start(progress)

    async def consume() -> None:
        async with contextlib.aclosing(
            job_run(progress=started, factory=shared or factory)
        ) as results:
            async for _ in results:
                pass
            if shared is None and factory is None:
                state.enter("stopping the engine")

    with Ticker(_view(console, title, display), state), signals, _notes_shown(sinks, console):
        try:
            (asyncio.run if shared is None else shared.runner.run)(signals.guard(consume))
        except BudgetSpent as error:
            spent = error
        except EngineError:
            # a terminal sends Ctrl-C to the engine's processes too; their end is then no failure
            if not signals.number:
                raise
        state.enter("running")
    if sinks is not None:
        sinks.reason = "interrupted" if signals.number else "budget" if spent else ""
    seconds = time.monotonic() - state.began
    start_seconds = state.start_seconds if state.progress else seconds
    return Outcome(seconds, start_seconds, signals.number, state.progress, spent)


def run_remaining(
    job: Job,
    plan: Plan,
    execution: Execution,
    title: str,
    display: DisplayOptions,
    sinks: Reporting | None = None,
    engines: Callable[[], EngineFactory | None] = lambda: None,
) -> Outcome:
    """Run the remaining problems of a job with a log of the engine; nothing if none remain.

    `engines` is called if some do, and returns what takes the place of the execution's engine, or
    None.
    """
    if not job.remaining():
        return Outcome()
    factory = engines()
    with engine_log(job.directory, display) as stream:
        return run_in_foreground(
            job, plan, execution, title, display, stream, sinks=sinks, factory=factory
        )


@contextlib.contextmanager
def _notes_shown(sinks: Reporting | None, console: Console) -> Iterator[None]:
    """Print what is noted about sinks above the live view, on the stream that shows it."""
    if sinks is None:
        yield
        return
    before = sinks.delivery.report
    sinks.delivery.report = lambda text: console.print(Text(f"note: {text}"), soft_wrap=True)
    try:
        yield
    finally:
        sinks.delivery.report = before


def run_series(series: Series, display: DisplayOptions) -> tuple[list[Pools], int]:
    """Run the jobs of a study on one engine; return their pools and the exit code.

    The exit code is 0, or that of the signal that stopped the study; then the pools are those so
    far.
    """
    report_rows(row_notes(series.file), display)
    execution, reasons = series.execution, [""]
    with engine_log(series.directory, display) as stream, SharedEngine(execution) as shared:

        def run_one(job: Job, plan: Plan, title: str) -> int:
            name = f"{title} · {run_name(plan, execution)}"
            with reporting(job, plan, execution, name, message) as sinks:
                outcome = run_in_foreground(
                    job, plan, execution, name, display, stream, shared, sinks
                )
            reasons.append(f"{outcome.spent}; " if outcome.spent else "")
            return outcome.exit_code

        pools, exit_code = series.run(run_one)
    if exit_code:
        message(
            f"\nstopped; {reasons[-1]}finished traces are kept in {series.directory}; the same "
            "command continues"
        )
    return pools, exit_code


def _start_hint(plan: Plan, execution: Execution) -> str:
    if execution.engine.name not in _SLOW_ENGINES:
        return ""
    return f"loading {', '.join(m.path for m in plan.models.values())} takes a minute or more"


def _view(console: Console, title: str, display: DisplayOptions) -> View:
    if console.file.isatty() and not (display.quiet or display.debug or console.is_dumb_terminal):
        return LiveView(console, title)
    return PlainView(console, title, display.every_seconds)


@contextlib.contextmanager
def engine_log(directory: Path, display: DisplayOptions) -> Iterator[TextIO]:
    """Write the output of engines to a file in this directory; yield the original error stream.

    The file's name is added to the message of an EngineError.
    """
    log = directory / ENGINE_LOG
    try:
        make_private(directory)
        with contextlib.nullcontext(sys.stderr) if display.debug else diverted(log) as stream:
            yield stream
    except EngineError as error:
        where = f"\nthe engine's output is in {log}" if log.exists() else ""
        raise EngineError(f"{error}{where}") from error
    except OSError as error:
        raise JournalError(
            f"{log}: {error.strerror}; free some space or choose another job directory with --out"
        ) from error


class Signals:
    """Handles the signals that end a job, in a `with` block.

    The first cancels `guard`, the second exits. SIGHUP is ignored under `nohup` and after another
    signal, because a lost connection sends it several times. Outside the main thread nothing is
    handled, because Python delivers signals only to that thread.
    """

    def __init__(self, console: Console, on_first: Callable[[], None]) -> None:
        """Prepare; signals are handled from the start of the block."""
        self.number = 0
        self._console = console
        self._on_first = on_first
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_main = threading.current_thread() is threading.main_thread()
        former = {number: signal.getsignal(number) for number in _SIGNALS}
        self._former = {
            number: handler
            for number, handler in former.items()
            if number != signal.SIGHUP or handler != signal.SIG_IGN
        }

    def install(self) -> None:
        """Handle the signals from now on."""
        if not self._is_main:
            return
        for number in self._former:
            if self._loop is not None:
                # This only wakes the loop: Python runs signal handlers between bytecodes, and a
                # waiting loop executes none.
                self._loop.add_signal_handler(number, lambda: None)
            signal.signal(number, self._handle)

    def __enter__(self) -> Self:
        """Handle them."""
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the former handlers."""
        if self._is_main:
            for number, handler in self._former.items():
                signal.signal(number, handler)

    async def guard(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run `work` to its end, or until a signal cancels it and it has cleaned up."""
        self._loop, self._task = asyncio.get_running_loop(), asyncio.ensure_future(work())
        self.install()
        if self.number:
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            if not self.number:
                raise
        finally:
            self._leave_loop()

    def _leave_loop(self) -> None:
        loop, self._loop = self._loop, None
        if self._is_main and loop is not None:
            for number in self._former:
                loop.remove_signal_handler(number)
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGHUP:
            return
        if self.number:
            if self._console.is_terminal:
                with contextlib.suppress(OSError):
                    self._console.file.write(f"{_SHOW_CURSOR}\n")
                    self._console.file.flush()
            os._exit(128 + number)
        self.number = number
        self._on_first()
        if is_computing():  # a step of the strategy, which the loop could not interrupt
            raise asyncio.CancelledError
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
