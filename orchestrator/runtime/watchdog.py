"""Interrupts plugin code that computes for too long on the loop's thread: a strategy or selector
that never comes back.

A thread looks once in a while; when one watched call has lasted longer than the limit it raises
`Overrun` inside it. Code that blocks in C without ever returning to the interpreter cannot be
interrupted so; then the job hangs, and only a debugger tells why.
"""

from __future__ import annotations

import ctypes
import threading
import time
from types import TracebackType


class Overrun(Exception):
    """Raised inside plugin code that computes for too long.

    An Exception, so that it fails the one problem it belongs to.
    """


class Watchdog:
    """`with watchdog:` starts the thread; `with watchdog.watching():` (not reentrant, on one
    thread) bounds a call.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        """Start watching the calling thread."""
        target = threading.get_ident()
        self._thread = threading.Thread(
            target=self._watch, args=(target,), daemon=True, name="leadline-watchdog"
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the thread."""
        self._closed.set()

    def begin(self) -> None:
        """Mark the start of a bounded call."""
        self._since = time.monotonic()

    def end(self) -> None:
        """Mark its end."""
        self._since = None

    def _watch(self, target: int) -> None:
        while not self._closed.wait(min(1.0, self._limit / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > self._limit:
                # a plugin that swallows it is told again, a limit later
                self._since = time.monotonic()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(target), ctypes.py_object(Overrun)
                )
