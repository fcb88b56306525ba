"""How many checking processes may run at once: as many as there are cores, over all verifiers of this package in one event loop."""

from __future__ import annotations

import asyncio
import os
from weakref import WeakKeyDictionary

_PLACES: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def n_places() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def places() -> asyncio.Semaphore:
    """Return the running loop's semaphore."""
    loop = asyncio.get_running_loop()
    return _PLACES.get(loop) or _PLACES.setdefault(loop, asyncio.Semaphore(n_places()))
