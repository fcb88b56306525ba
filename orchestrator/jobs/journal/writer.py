"""Writes the events of a run in a thread, so that the loop continues while the disk works.

The one rule: events are written in order, and what a cancelled run had begun to write is not left
out of what it writes at its end. Not covered: what is written (`journal.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from orchestrator.jobs.journal.events import Event


class BatchWriter:
    """Calls `write` with batches of events, in one thread, which starts with the first batch."""

    def __init__(self, write: Callable[[Sequence[Event]], None]) -> None:
        self._write = write
        self._batch: Sequence[Event] = ()  # what is not known to be written
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="leadline-journal")

    async def write(self, batch: Sequence[Event]) -> None:
        """Return once the batch is written; one batch at a time."""
        self._batch = batch
        if batch:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, self._write_batch)

    def close(self) -> Sequence[Event]:
        """Wait for the thread; return the events of a batch that was not written.

        A cancelled `write` takes its call back if the thread has not begun it.
        """
        self._executor.shutdown()
        return self._batch

    def _write_batch(self) -> None:
        self._write(self._batch)
        self._batch = ()
