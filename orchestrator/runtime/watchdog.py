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
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_watching: set[Watchdog] = set()


class Overrun(Exception):
    """Raised inside plugin code that computes for too long: it fails the problem at hand alone."""


def is_computing() -> bool:
    """Tell whether this thread is in a bounded call, from which a signal's handler may raise."""
    here = threading.get_ident()
    return any(watchdog.is_computing_on(here) for watchdog in tuple(_watching))


class Watchdog:
    """`with watchdog:` starts the thread; `watchdog.bounded(call)` bounds a call.

    Not reentrant, and for calls on the thread that entered the outer block. An infinite limit needs
    no thread.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._since: float | None = None
        self._closed = threading.Event()
        self._target = 0  # the thread that entered

    def __enter__(self) -> Watchdog:
        """Start watching the calling thread."""
        self._target = threading.get_ident()
        if math.isfinite(self._limit):
            thread = threading.Thread(target=self._watch, daemon=True, name="leadline-watchdog")
            thread.start()
        _watching.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread."""
        self._closed.set()
        _watching.discard(self)

    def is_computing_on(self, thread: int) -> bool:
        """Tell whether a bounded call runs on this thread."""
        return self._since is not None and thread == self._target

    def bounded(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Return what the call returns; raise Overrun in it when it takes longer than the limit."""
        self._since = time.monotonic()
        try:
            return call(*args, **options)
        finally:
            self._since = None

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > self._limit:
                # a plugin that swallows it gets another one, a limit later
                self._since = time.monotonic()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._target), ctypes.py_object(Overrun)
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
