"""Output of commands: results to the standard output, messages to the error stream.

Output of engines and native code is redirected to a file. The one rule: nothing else may print, so
`--json` leaves only JSON on the standard output. Not covered: progress of a running job
(`view.live`).
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from orchestrator.core.errors import CONTROLS, printable
from orchestrator.jobs.files import indented_json, write_atomically

_LONGEST_LINE = 10_000  # characters, in a pipe
_NOT_PLAIN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\U0010ffff]")  # controls, and beyond ASCII


class Screen(Console):
    """A console without control characters in its texts, whose terminal would obey them.

    It raises BrokenPipeError when its reader is gone. The console of rich would disable the
    standard output and exit.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yield the segments of a renderable; only rich's own are control codes."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled."""
        raise  # rich calls this while it handles the error


def results_console() -> Console:
    """Return a console on the standard output."""
    return Screen(file=sys.stdout, highlight=False)


def print_whole(view: RenderableType) -> None:
    """Print on the standard output; into a pipe or a file without breaking lines."""
    console = results_console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = console.measure(
            view, options=console.options.update(max_width=_LONGEST_LINE)
        ).maximum
    console.print(view)


def message(text: str) -> None:
    """Write a line to the error stream, unless its terminal is gone."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()


def print_json(value: object) -> None:
    """Print a value as JSON on the standard output.

    Control characters are escaped, including those that JSON would allow; so are all characters
    beyond ASCII if the output is not in UTF-8.
    """
    text = indented_json(value).decode()
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    sys.stdout.write((CONTROLS if is_utf8 else _NOT_PLAIN).sub(_escape, text))


def _escape(character: re.Match[str]) -> str:
    units = character[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def write_json(path: Path, value: object) -> None:
    """Write a value as a JSON file, in one step; JournalError when the write fails."""
    write_atomically(path, indented_json(value))


@contextlib.contextmanager
def redirected(streams: Sequence[int], target: int) -> Iterator[dict[int, int]]:
    """Redirect these file descriptors to `target`, close it, and yield copies of the originals."""
    _flush()
    copies = {stream: os.dup(stream) for stream in streams}
    for stream in streams:
        os.dup2(target, stream)
    os.close(target)
    try:
        yield copies
    finally:
        with contextlib.suppress(OSError, ValueError):
            _flush()
        for stream, copy in copies.items():
            os.dup2(copy, stream)
            os.close(copy)


@contextlib.contextmanager
def diverted(log: Path) -> Iterator[TextIO]:
    """Redirect the output of this process and its children to a file; yield the original stderr.

    An empty log is removed at the end. If the error stream is not a real one (under a test runner),
    nothing is redirected.
    """
    if not _is_real(sys.stderr, 2):
        yield sys.stderr
        return
    streams = (1, 2) if _is_real(sys.stdout, 1) else (2,)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        with redirected(streams, target) as copies:
            copy = os.dup(copies[2])
            stderr = os.fdopen(copy, "w", encoding=sys.stderr.encoding, errors="replace")
            try:
                yield stderr
            finally:
                with contextlib.suppress(OSError):  # its terminal is gone
                    stderr.close()
    finally:
        if log.stat().st_size == 0:
            log.unlink()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _is_real(stream: TextIO | None, descriptor: int) -> bool:
    try:
        return stream is not None and stream.fileno() == descriptor
    except (OSError, ValueError):
        return False
