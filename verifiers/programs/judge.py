"""Runs a program and a test of it in two sandboxed processes, and reports the fault that it finds.

The one rule: what the test expects is never in the process of the program, which is asked for one
value after another (`peer.py`), and the verdict is the exit status of the other process, which
runs no instruction of the program. So a program can only pass by what it returns. Limits, and what
a process may do, are those of `sandbox.py`, for each of the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

from verifiers.programs import sandbox
from verifiers.programs.judge_child import GONE, PASSED
from verifiers.programs.sandbox import Limits

_EXIT_SECONDS = 10.0  # a process that closed its end of a pipe by ending is gone long before


async def fault_found(
    program: str, test: str, *, limits: Limits | None = None, protected: bool = True
) -> str:
    """Return the fault that a test finds in a program; "" if the program passes.

    SandboxError when the sandbox cannot be set up. It takes one of the loop's slots: the two
    processes take turns.
    """
    limits = limits or Limits()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(sandbox.slot())
        with _pipes() as (of_program, of_judge):
            tested = await stack.enter_async_context(sandbox.started(limits, protected, of_program))
            judge = await stack.enter_async_context(sandbox.started(limits, protected, of_judge))
        running = asyncio.create_task(tested.outcome("tested", program))
        stack.push_async_callback(_ended, running)
        verdict = await judge.outcome("judge", test)
        if verdict.status == PASSED:
            return ""
        if verdict.status == GONE:
            await asyncio.wait([running], timeout=_EXIT_SECONDS)
            if running.done() and (fault := running.result().fault):
                return fault
        return verdict.fault


@contextlib.contextmanager
def _pipes() -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield the two ends of a connection, each with a file to read and one to write."""
    files: list[int] = []
    try:
        files += os.pipe()
        files += os.pipe()
        yield (files[0], files[3]), (files[2], files[1])
    finally:  # the processes have theirs
        for file in files:
            os.close(file)


async def _ended(task: asyncio.Task[sandbox.ProgramOutcome]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
