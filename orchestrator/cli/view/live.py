"""Progress of a running job: a live view on a terminal, plain lines elsewhere.

The one rule: the view reads the counters of `driver.Progress` a few times a second on a separate
thread and does nothing per trace, so its cost does not grow with the job. It writes to the error
stream and writes no results.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from rich import progress as rich_progress
from rich.console import Console, RenderableType
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import count, duration, one_line, percent, usd
from orchestrator.cli.view.results.lists import shortened
from orchestrator.core.votes import AttemptState
from orchestrator.engines.supervised import Outages
from orchestrator.report.losses import LossCause
from orchestrator.runtime.progress import Progress

LIVE_SECONDS = 0.25  # between two pictures: 4 Hz
PLAIN_SECONDS = 10.0  # between two lines, when something changed
_WINDOW_SECONDS = 15.0  # over which tokens per second are counted
_ANSWERED = (AttemptState.VOTED, AttemptState.UNUSED)
_REASON_CELLS = 200  # of an error: the cause often stands behind a long address
_SLOW_START_SECONDS = 2.0  # an engine that starts faster needs no message


@dataclass(slots=True)
class RunState:
    """The state of a run: its phase and, once the engine is up, the driver's counters.

    Written by the runner, read by a view.
    """

    phase: str = "starting"
    hint: str = ""  # what to expect of this phase
    began: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.monotonic)  # of the phase
    progress: Progress | None = None
    # the causes of lost accuracy that the counts show
    losses: Callable[[Progress], Sequence[LossCause]] = lambda progress: ()
    running_since: float = 0.0

    @property
    def start_seconds(self) -> float:
        """The time until the engine was up, in seconds."""
        return self.running_since - self.began

    def enter(self, phase: str, hint: str = "") -> None:
        """Begin a phase."""
        self.phase, self.hint, self.since = phase, hint, time.monotonic()

    def start(self, progress: Progress) -> None:
        """Take the counters of an engine that is up."""
        self.running_since = time.monotonic()
        self.enter("running")
        self.progress = progress


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates derived from the counters and their recent values."""

    tokens_per_second: float
    # of what full sampling would have taken; negative where more was spent, None if unknown
    saved_share: float | None
    eta_seconds: float | None  # None until something of this run has arrived


class Meter:
    """Computes rates from the recent values of the counters, however often it is read.

    rich's own estimates are unsuitable: they stop changing when nothing arrives any more.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the time from `clock`, in seconds."""
        self._clock = clock
        self._past: deque[tuple[float, int]] = deque()

    def read(self, progress: Progress, running_since: float) -> Rates:
        """Return the present rates."""
        now = self._clock()
        tokens = progress.n_tokens
        if not self._past:
            self._past.append((running_since, 0))
        self._past.append((now, tokens))
        while len(self._past) > 2 and now - self._past[1][0] >= _WINDOW_SECONDS:
            self._past.popleft()
        then, tokens_then = self._past[0]
        done = progress.n_done - progress.n_resumed + progress.open_share
        left = progress.n_problems - progress.n_done - progress.open_share
        full = progress.saved_tokens + progress.output_tokens
        return Rates(
            max(0, tokens - tokens_then) / (now - then) if now > then else 0.0,
            progress.saved_tokens / full if progress.saved_tokens and full > 0 else None,
            (now - running_since) / done * max(0.0, left) if done > 1e-6 else None,
        )


class LiveView(rich_progress.Progress):
    """A picture of a few lines that is redrawn in place."""

    seconds = LIVE_SECONDS  # between two calls of `show`

    def __init__(self, console: Console, title: str) -> None:
        """Draw on this console, under a title."""
        self._title = Text(title, style="bold", overflow="ellipsis", no_wrap=True)
        self._meter = Meter()
        self._spinner = Spinner("dots")
        self._state = RunState()
        super().__init__(
            rich_progress.TextColumn("problems  ", style="dim"),
            rich_progress.BarColumn(max(10, min(40, console.width - 48))),
            rich_progress.TextColumn("{task.completed:,}/{task.total:,}"),
            rich_progress.TaskProgressColumn("{task.percentage:>3.0f}%"),
            rich_progress.TextColumn("{task.fields[remaining]}"),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._problems = self.add_task("", total=1, remaining="", visible=False)
        self.start()

    def show(self, state: RunState) -> None:
        """Redraw the picture."""
        self._state = state
        self.refresh()

    def close(self, state: RunState) -> None:
        """Draw the last picture and leave it there."""
        self._state = state
        self.stop()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the lines to draw."""
        state = self._state
        yield self._title
        if state.phase != "running":
            waited = duration(time.monotonic() - state.since)
            hint = f" ({state.hint})" if state.hint else ""
            line = Text(f"{state.phase}, {waited}{hint}", overflow="ellipsis", no_wrap=True)
            self._spinner.update(text=line)
            yield self._spinner
        if state.progress is not None:
            rates = self._meter.read(state.progress, state.running_since)
            yield self._bar(state.progress, rates)
            yield _counters(state.progress, rates, state.losses(state.progress))

    def _bar(self, progress: Progress, rates: Rates) -> Table:
        is_done = progress.n_done == progress.n_problems
        self.update(
            self._problems,
            total=progress.n_problems,
            completed=progress.n_done,
            remaining="" if is_done or progress.outages.pause else _remaining(rates),
            visible=True,
        )
        return self.make_tasks_table(self.tasks)


def _counters(progress: Progress, rates: Rates, losses: Sequence[LossCause]) -> Table:
    table = Table.grid(padding=(0, 1), expand=False)
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    table.add_row("requests", " · ".join(_request_counts(progress)))
    table.add_row("attempts", Text(" · ").join(_attempt_counts(progress)))
    tokens = f"{count(progress.n_tokens)} · {count(rates.tokens_per_second)}/s"
    table.add_row("tokens", " · ".join((tokens, *_spent(progress), *_saved(rates))))
    for loss in losses:
        table.add_row(loss.cause, Text(loss.brief, style="yellow"))
    if pause := pause_text(progress.outages):
        table.add_row("paused", Text(pause, style="yellow"))
        reason = shortened(progress.outages.reason, _REASON_CELLS)
        table.add_row("reason", Text(reason, style="yellow"))
    for notice in progress.notices:
        table.add_row("engine", Text(shortened(notice, _REASON_CELLS), style="yellow"))
    if progress.last_error:
        error = shortened(progress.last_error, _REASON_CELLS)
        table.add_row("last error", Text(error, style="red"))
    return table


class PlainView:
    """Prints a line per phase, one every `seconds` if anything changed, and one at the end."""

    def __init__(self, console: Console, title: str, seconds: float = PLAIN_SECONDS) -> None:
        """Write to this console, at most every `seconds`."""
        self.seconds = min(1.0, seconds)
        self._console = console
        self._every = seconds
        self._meter = Meter()
        self._phase = ""
        self._last = ""
        self._written_at = time.monotonic()
        self._title = title  # until it is written

    def show(self, state: RunState) -> None:
        """Write what is new, if it is time."""
        if self._title:
            title, self._title = self._title, ""
            self._write(title)
        now = time.monotonic()
        if state.phase != self._phase:
            self._write_phase(state, now)
        elif now - self._written_at >= self._every:
            self._write_state(state, now)

    def close(self, state: RunState) -> None:
        """Write the last state, if anything ran."""
        if state.progress is not None:
            self._write_state(state, time.monotonic())

    def _write_phase(self, state: RunState, now: float) -> None:
        if state.phase != "running":
            self._write(f"{state.phase}{f' ({state.hint})' if state.hint else ''}")
        elif self._phase and not self._last and state.start_seconds > _SLOW_START_SECONDS:
            self._write(f"the engine is up after {duration(state.start_seconds)}")
        self._phase, self._written_at = state.phase, now

    def _write_state(self, state: RunState, now: float) -> None:
        self._written_at = now
        if state.progress is None:
            self._write(f"still {state.phase}, {duration(now - state.since)}")
            return
        counts = plain_counts(state.progress)
        pause = pause_text(state.progress.outages)
        rates = self._meter.read(state.progress, state.running_since)
        if pause or state.progress.notices or counts != self._last:
            self._last = counts
            speed = f"{count(rates.tokens_per_second)} tokens/s"
            remaining = [_remaining(rates)] if rates.eta_seconds and not pause else []
            error = one_line(state.progress.last_error)
            losses = [f"{one.cause}: {one.brief}" for one in state.losses(state.progress)]
            self._write(
                ", ".join((counts, speed, *_spent(state.progress), *_saved(rates), *remaining))
                + "".join(f"; {loss}" for loss in losses)
                + "".join(f"; {one_line(notice)}" for notice in state.progress.notices)
                + (f"; last error: {error}" if error else "")
                + (f"; paused {pause}: {one_line(state.progress.outages.reason)}" if pause else "")
            )

    def _write(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


View: TypeAlias = LiveView | PlainView


class Ticker:
    """Calls a view at its pace from a thread within a `with` block.

    A view with a closed stream is not called again.
    """

    def __init__(self, view: View, state: RunState) -> None:
        """Prepare; nothing is shown before the block is entered."""
        self._view = view
        self._state = state
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True, name="leadline-display")
        self._gone = False
        self.cpu_seconds = 0.0  # what showing has cost so far

    def __enter__(self) -> Self:
        """Begin to show."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last state."""
        self._done.set()
        self._thread.join()
        self._guarded(self._view.close)

    def _tick(self) -> None:
        self._guarded(self._view.show)
        while not self._done.wait(self._view.seconds):
            self._guarded(self._view.show)
            self.cpu_seconds = time.thread_time()

    def _guarded(self, step: Callable[[RunState], None]) -> None:
        if self._gone:
            return
        try:
            step(self._state)
        # the terminal was closed: the job matters more than its picture
        except (OSError, ValueError):
            self._gone = True


def plain_counts(progress: Progress) -> str:
    """Return the counters as one line."""
    done = f"{count(progress.n_done)}/{count(progress.n_problems)} problems"
    requests = ", ".join(_request_counts(progress))
    attempts = ", ".join(text.plain for text in _attempt_counts(progress))
    tokens = f"{count(progress.n_tokens)} tokens"
    return f"{done}; requests: {requests}; attempts: {attempts}; {tokens}"


def _request_counts(progress: Progress) -> tuple[str, str]:
    state = "waiting" if progress.outages.pause else "running"
    return f"{count(progress.n_running)} {state}", f"{count(progress.n_arrived)} done"


def _attempt_counts(progress: Progress) -> list[Text]:
    """Return how many attempts there are of each state; those without an answer only if any."""
    n = progress.attempts
    answered = n[AttemptState.VOTED] + n[AttemptState.UNUSED]
    rest = [state for state in AttemptState if state not in _ANSWERED and n[state] > 0]
    styles = {AttemptState.FAILED: "red"}
    counts = [Text(f"{count(n[state])} {state}", style=styles.get(state, "")) for state in rest]
    return [Text(f"{count(answered)} answered"), *counts]


def pause_text(outages: Outages) -> str:
    """Return how long requests have been paused, and what comes next; "" without a pause."""
    pause, now = outages.pause, outages.now()
    if pause is None:
        return ""
    wait, left = pause.next_probe - now, pause.ends_run - now
    probe = f"next try in {duration(wait)}" if wait > 0 else "trying"
    end = f"gives up in {duration(max(0.0, left))}"
    return f"for {duration(now - pause.began)}; {probe}; {end}"


def _remaining(rates: Rates) -> str:
    return "" if rates.eta_seconds is None else f"about {duration(rates.eta_seconds)} left"


def _spent(progress: Progress) -> tuple[str, ...]:
    return () if progress.usd is None else (f"{usd(progress.usd)} spent",)


def _saved(rates: Rates) -> tuple[str, ...]:
    if rates.saved_share is None:
        return ()
    comparison = "fewer" if rates.saved_share >= 0 else "more"
    return (f"{percent(abs(rates.saved_share))} {comparison} than full sampling",)
