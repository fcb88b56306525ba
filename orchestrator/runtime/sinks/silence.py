"""Keeps what libraries print in the threads of sinks out of a program's output.

The one rule: only what these threads write is dropped. Trackers greet and report on the standard
output, where a command's own results are, and not all of them can be made not to.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Collection, Iterator
from typing import Any


class _Selective:
    """A stream that drops what certain threads write, and is the original one to all others."""

    def __init__(self, stream: Any, threads: Collection[threading.Thread]) -> None:
        self._stream = stream
        self._threads = threads

    def write(self, text: str) -> int:
        if threading.current_thread() in self._threads:
            return len(text)
        n: int = self._stream.write(text)
        return n

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def silenced(threads: Collection[threading.Thread]) -> Iterator[None]:
    """Drop what these threads print in the block."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    ours = {name: _Selective(stream, threads) for name, stream in before.items() if stream}
    for name, stream in ours.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in ours.items():
            if getattr(sys, name) is stream:  # otherwise somebody has replaced it since
                setattr(sys, name, before[name])
