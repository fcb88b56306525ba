"""How many checking processes may run at once: as many as there are cores, over all verifiers of
this package in one event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_PLACES: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def n_places() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def places() -> asyncio.Semaphore:
    """Return the running loop's semaphore."""
    loop = asyncio.get_running_loop()
    return _PLACES.get(loop) or _PLACES.setdefault(loop, asyncio.Semaphore(n_places()))


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results, in order.

    When one raises, or the caller is cancelled, the others are cancelled and waited for.
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
