"""Interrupts a strategy or selector that computes for too long on the event loop's thread.

A thread checks periodically; when a bounded call exceeds the limit, it raises `Overrun` inside the
call. Not covered: code that blocks in C and never returns to the interpreter cannot be interrupted.
The job then hangs, and only a debugger shows why. `calm_collector` keeps the garbage collector off
the same thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
_computing: set[int] = set()  # the threads in a bounded call


class Overrun(Exception):
    """Raised inside plugin code that computes for too long: it fails the problem at hand alone."""


def is_computing() -> bool:
    """Tell whether this thread is in a bounded call, from which a signal's handler may raise."""
    return threading.get_ident() in _computing


class Watchdog:
    """`with watchdog:` starts the thread; `watchdog.bounded(call)` bounds a call.

    Not reentrant, and for calls on the thread that entered the outer block.
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

    def __exit__(self, *_: object) -> None:
        """Stop the thread."""
        self._closed.set()

    def bounded(self, call: Callable[[], T]) -> T:
        """Return what the call returns; raise Overrun in it when it takes longer than the limit."""
        self._since = time.monotonic()
        thread = threading.get_ident()
        _computing.add(thread)
        try:
            return call()
        finally:
            _computing.discard(thread)
            self._since = None

    def _watch(self, target: int) -> None:
        while not self._closed.wait(min(1.0, self._limit / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > self._limit:
                # a plugin that swallows it gets another one, a limit later
                self._since = time.monotonic()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(target), ctypes.py_object(Overrun)
                )


@contextlib.contextmanager
def calm_collector() -> Iterator[None]:
    """Collect cyclic garbage less often.

    A run creates many small values without cycles, which each collection would traverse in vain.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
