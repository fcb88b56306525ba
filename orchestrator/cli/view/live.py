"""What a person sees of a job while it runs: a live view on a terminal, plain lines elsewhere.

One rule: it reads the counters of `driver.Progress` a few times a second, on a thread of its own,
and does nothing per trace; so its cost does not grow with the job. It draws on the error stream and
writes no results.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrator.core.values import Finish
from orchestrator.runtime.driver import Progress

LIVE_SECONDS = 0.25  # between two pictures: 4 Hz
PLAIN_SECONDS = 10.0  # between two lines, when something changed
_WINDOW_SECONDS = 15.0  # over which tokens per second are counted
_SLOW_START_SECONDS = 2.0  # an engine that is up sooner is not worth a word


class Screen(Console):
    """A console that raises when its reader is gone, where rich would turn the standard output off
    and exit.
    """

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled."""
        raise  # rich calls this while it handles the error


@dataclass(slots=True)
class Watch:
    """What is known of a run: its phase and, once the engine is up, the driver's counters.

    Written by the runner, read by a view.
    """

    phase: str = "starting"
    hint: str = ""  # what to expect of this phase
    since: float = field(default_factory=time.monotonic)  # of the phase
    progress: Progress | None = None
    running_since: float = 0.0

    def enter(self, phase: str, hint: str = "") -> None:
        """Begin a phase."""
        self.phase, self.hint, self.since = phase, hint, time.monotonic()

    def started(self, progress: Progress) -> None:
        """Take the counters of an engine that is up."""
        self.running_since = time.monotonic()
        self.enter("running")
        self.progress = progress


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment, with what follows from their recent past."""

    n_done: int
    n_problems: int
    n_running: int
    n_waiting: int
    n_finished: int
    n_cancelled: int
    n_failed: int
    tokens: int
    tokens_per_second: float
    saved_tokens: float
    # of what full sampling would have taken; None when nothing is known of it
    saved_share: float | None
    eta_seconds: float | None  # None until something of this run has arrived
    last_error: str


class Meter:
    """Takes readings. Holds the recent past that rates need, whatever the pace at which it is
    asked.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the time from `clock`, in seconds."""
        self._clock = clock
        self._past: deque[tuple[float, int]] = deque()

    def read(self, progress: Progress, running_since: float) -> Reading:
        """Return the present reading."""
        now = self._clock()
        tokens = progress.output_tokens
        if not self._past:
            self._past.append((running_since, 0))
        self._past.append((now, tokens))
        while len(self._past) > 2 and now - self._past[1][0] >= _WINDOW_SECONDS:
            self._past.popleft()
        then, tokens_then = self._past[0]
        fresh = progress.n_done - progress.n_resumed + progress.open_share
        left = progress.n_problems - progress.n_done - progress.open_share
        full = progress.saved_tokens + tokens
        n = progress.finishes
        return Reading(
            n_done=progress.n_done,
            n_problems=progress.n_problems,
            n_running=progress.n_running,
            n_waiting=progress.n_waiting,
            n_finished=n[Finish.STOP] + n[Finish.LENGTH] + n[Finish.RULE],
            n_cancelled=n[Finish.CANCELLED],
            n_failed=n[Finish.FAILED],
            tokens=tokens,
            tokens_per_second=(tokens - tokens_then) / (now - then) if now > then else 0.0,
            saved_tokens=progress.saved_tokens,
            saved_share=progress.saved_tokens / full
            if progress.saved_tokens and full > 0
            else None,
            eta_seconds=(now - running_since) / fresh * max(0.0, left) if fresh > 1e-6 else None,
            last_error=progress.last_error,
        )


class View(Protocol):
    """Shows a Watch, at its own pace."""

    seconds: float  # between two calls of `show`

    def show(self, watch: Watch) -> None:
        """Show the present state."""
        ...

    def close(self, watch: Watch) -> None:
        """Show the last state and leave the terminal as it was."""
        ...


class LiveView:
    """A picture of a few lines that is redrawn in place."""

    seconds = LIVE_SECONDS

    def __init__(self, console: Console, title: str) -> None:
        """Draw on this console, under a title."""
        self._console = console
        self._title = title
        self._meter = Meter()
        self._spinner = Spinner("dots")
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def show(self, watch: Watch) -> None:
        """Draw it anew."""
        self._live.update(self.picture(watch), refresh=True)

    def close(self, watch: Watch) -> None:
        """Draw the last picture and leave it there."""
        self.show(watch)
        self._live.stop()

    def picture(self, watch: Watch) -> RenderableType:
        """Return the lines to draw."""
        lines: list[RenderableType] = [
            Text(self._title, style="bold", overflow="ellipsis", no_wrap=True)
        ]
        if watch.phase != "running":
            waited = duration(time.monotonic() - watch.since)
            hint = f" ({watch.hint})" if watch.hint else ""
            self._spinner.update(
                text=Text(f"{watch.phase}, {waited}{hint}", overflow="ellipsis", no_wrap=True)
            )
            lines.append(self._spinner)
        if watch.progress is not None:
            lines.append(self._counters(self._meter.read(watch.progress, watch.running_since)))
        return Group(*lines)

    def _counters(self, now: Reading) -> Table:
        table = Table.grid(padding=(0, 1), expand=False)
        table.add_column(style="dim", no_wrap=True, min_width=10)
        table.add_column(no_wrap=True, overflow="ellipsis")
        bar = Table.grid(padding=(0, 1))
        width = max(10, min(40, self._console.width - 48))
        share = f"{now.n_done / now.n_problems:4.0%}" if now.n_problems else ""
        eta = (
            ""
            if now.eta_seconds is None or now.n_done == now.n_problems
            else f"about {duration(now.eta_seconds)} left"
        )
        bar.add_row(
            ProgressBar(now.n_problems or 1, now.n_done, width=width),
            f"{now.n_done:,}/{now.n_problems:,}",
            share,
            eta,
        )
        table.add_row("problems", bar)
        failed = Text(f"{now.n_failed:,} failed", style="red" if now.n_failed else "")
        counts = f"{now.n_running:,} running · {now.n_finished:,} finished · {now.n_cancelled:,} cancelled · "
        table.add_row("traces", Text(counts) + failed)
        table.add_row("tokens", f"{now.tokens:,} · {now.tokens_per_second:,.0f}/s{_saved(now)}")
        if now.last_error:
            table.add_row(
                "last error",
                Text(one_line(now.last_error), style="red", no_wrap=True, overflow="ellipsis"),
            )
        return table


class PlainView:
    """A line when a phase begins, then one every `seconds` if something changed, and one at the
    end.
    """

    def __init__(self, console: Console, title: str, seconds: float = PLAIN_SECONDS) -> None:
        """Write to this console, at most every `seconds`."""
        self.seconds = min(1.0, seconds)
        self._console = console
        self._every = seconds
        self._meter = Meter()
        self._phase = ""
        self._since = 0.0
        self._last = ""
        self._written_at = time.monotonic()
        self._write(title)

    def show(self, watch: Watch) -> None:
        """Write what is new, if it is time."""
        now = time.monotonic()
        if watch.phase != self._phase:
            self._turn(watch, now)
        elif now - self._written_at >= self._every:
            self._state(watch, now)

    def close(self, watch: Watch) -> None:
        """Write the last state."""
        self._state(watch, time.monotonic())

    def _turn(self, watch: Watch, now: float) -> None:
        if watch.phase == "running":
            if watch.since - self._since > _SLOW_START_SECONDS and self._phase:
                self._write(f"the engine is up after {duration(watch.since - self._since)}")
        else:
            self._write(f"{watch.phase}{f' ({watch.hint})' if watch.hint else ''}")
        self._phase, self._since, self._written_at = watch.phase, watch.since, now

    def _state(self, watch: Watch, now: float) -> None:
        self._written_at = now
        if watch.progress is None:
            self._write(f"still {watch.phase}, {duration(now - watch.since)}")
            return
        reading = self._meter.read(watch.progress, watch.running_since)
        counts = plain_counts(reading)
        if counts != self._last:
            self._last = counts
            eta = f", about {duration(reading.eta_seconds)} left" if reading.eta_seconds else ""
            error = f"; last error: {one_line(reading.last_error)}" if reading.last_error else ""
            self._write(
                f"{counts}, {reading.tokens_per_second:,.0f} tokens/s{_saved(reading, ', ')}{eta}{error}"
            )

    def _write(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class SilentView:
    """Shows nothing."""

    seconds = 60.0

    def show(self, watch: Watch) -> None:
        """Do nothing."""

    def close(self, watch: Watch) -> None:
        """Do nothing."""


class Ticker:
    """`with Ticker(view, watch):` calls the view at its pace from a thread; a view whose stream is
    gone is not called again.
    """

    def __init__(self, view: View, watch: Watch) -> None:
        """Nothing is shown before the block is entered."""
        self._view = view
        self._watch = watch
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True, name="leadline-display")
        self._gone = False
        self.cpu_seconds = 0.0  # what showing has cost so far

    def __enter__(self) -> Ticker:
        """Begin to show."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the last state."""
        self._done.set()
        self._thread.join()
        self._guarded(self._view.close)

    def _tick(self) -> None:
        self._guarded(self._view.show)
        while not self._done.wait(self._view.seconds):
            self._guarded(self._view.show)
            self.cpu_seconds = time.thread_time()

    def _guarded(self, step: Callable[[Watch], None]) -> None:
        if self._gone:
            return
        try:
            step(self._watch)
        # the terminal was closed: the job matters more than its picture
        except (OSError, ValueError):
            self._gone = True


def plain_counts(now: Reading) -> str:
    """Return the counters as one line."""
    traces = f"{now.n_running:,} running, {now.n_finished:,} finished, {now.n_cancelled:,} cancelled, {now.n_failed:,} failed"
    return f"{now.n_done:,}/{now.n_problems:,} problems; traces: {traces}; {now.tokens:,} tokens"


def duration(seconds: float) -> str:
    """Return seconds as people say them: 0.4 s, 48 s, 2 min 05 s, 3 h 12 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())


def _saved(now: Reading, before: str = " · ") -> str:
    return (
        ""
        if now.saved_share is None
        else f"{before}{now.saved_share:z.0%} saved against full sampling"
    )
