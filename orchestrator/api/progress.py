"""The progress of a run in a script or a notebook: a bar that is redrawn twice a second.

The one rule: a display reads the driver's counters from a thread of its own, so it costs a run
nothing and cannot fail it. On a terminal it is drawn by rich, in a notebook as HTML in the cell's
output. Not covered: the live view of the command line (`cli.view.live`).
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from orchestrator.core.votes import AttemptState
from orchestrator.runtime.progress import Progress

_SECONDS = 0.5  # between two pictures
_STARTING = "starting the engine"
_Draw: TypeAlias = Callable[[int, str], None]  # of the number of problems done, and a line


@contextlib.contextmanager
def progress_display(shown: bool | None, n_problems: int) -> Iterator[Callable[[Progress], None]]:
    """Show the progress of a run in the block, which passes its counters to what is yielded.

    With `shown` None, only on a terminal and in a notebook. Without it, nothing is drawn.
    """
    in_notebook = _is_notebook()
    if shown is None:
        shown = in_notebook or sys.stderr.isatty()
    if not shown:
        yield lambda progress: None
        return
    display = _notebook_bar if in_notebook else _terminal_bar
    with display(n_problems) as draw, _Redrawing(draw) as redrawing:
        yield redrawing.watch


class _Redrawing:
    """Draws counters until its block ends, and once more at the end."""

    def __init__(self, draw: _Draw) -> None:
        self._draw = draw
        self._progress: Progress | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True, name="leadline-progress")

    def __enter__(self) -> _Redrawing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._show()

    def watch(self, progress: Progress) -> None:
        """Draw these counters from now on."""
        self._progress = progress

    def _repeat(self) -> None:
        while not self._done.wait(_SECONDS):
            self._show()

    def _show(self) -> None:
        progress = self._progress
        n_done, line = (0, _STARTING) if progress is None else (progress.n_done, counts(progress))
        with contextlib.suppress(OSError, ValueError):  # the terminal was closed
            self._draw(n_done, line)


def counts(progress: Progress) -> str:
    """Return the counters of a run in one line."""
    tokens = progress.output_tokens + progress.running_tokens
    parts = [f"{progress.n_arrived:,} traces", f"{tokens:,} tokens"]
    if progress.n_running:
        parts.insert(0, f"{progress.n_running:,} running")
    if n_failed := progress.attempts[AttemptState.FAILED]:
        parts.append(f"{n_failed:,} failed: {' '.join(progress.last_error.split()):.80}")
    if progress.outages.pause:
        parts.append(f"paused: {' '.join(progress.outages.reason.split()):.80}")
    return " · ".join(parts)


@contextlib.contextmanager
def _terminal_bar(n_problems: int) -> Iterator[_Draw]:
    from rich import progress as bars
    from rich.console import Console
    from rich.text import Text

    from orchestrator.core.errors import printable

    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.fields[line]}", markup=False),
    )
    # the thread that draws is ours
    console = Console(file=sys.stderr)
    with bars.Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task("", total=n_problems, line=Text(""))

        def draw(n_done: int, line: str) -> None:
            bar.update(task, completed=n_done, line=printable(line), refresh=True)

        yield draw


@contextlib.contextmanager
def _notebook_bar(n_problems: int) -> Iterator[_Draw]:
    from html import escape

    from IPython.display import HTML, display

    def picture(n_done: int, line: str) -> Any:
        bar = f'<progress max="{max(1, n_problems)}" value="{n_done}"></progress>'
        return HTML(f"{bar} {n_done:,}/{n_problems:,} problems · {escape(line)}")

    handle = display(picture(0, _STARTING), display_id=True)
    yield lambda n_done, line: handle.update(picture(n_done, line))


def _is_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
