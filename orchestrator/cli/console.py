"""Where commands write: results to the standard output, messages to the error stream.

The one rule: nothing else may print, so that `--json` leaves nothing but JSON on the standard
output. What a running job shows is `view.live`'s.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from orchestrator.jobs.files import indented_json, write_atomically


class Screen(Console):
    """A console that raises BrokenPipeError when its reader is gone; rich's own would turn the
    standard output off and exit.
    """

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled."""
        raise  # rich calls this while it handles the error


def results_console() -> Console:
    """Return a console on the standard output."""
    return Screen(file=sys.stdout, highlight=False)


def message(text: str) -> None:
    """Write a line to the error stream."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def print_json(value: object) -> None:
    """Print a value as JSON on the standard output."""
    sys.stdout.write(indented_json(value).decode())


def write_json(path: Path, value: object) -> None:
    """Write a value as a JSON file, in one step. JournalError when the disk refuses."""
    write_atomically(path, indented_json(value))
