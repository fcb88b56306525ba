"""The user's own Python function as a verifier.

The one rule: a function that hangs, crashes or eats memory costs its process and leaves a note on
the trace; it is never a score. It is the user's code and runs with the user's rights: what nobody
trusts belongs in the sandbox (`code_tests.py`).

Processes are kept between calls, so that the function's module is imported once in each. A file is
looked up in the folder the job is started from; when it changes, new processes read it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.core.values import Problem, Trace, Verdict
from verifiers.programs.function_child import OUT_OF_MEMORY
from verifiers.programs.places import places, together

_NAME = "function"
_START_SECONDS = 120.0  # the user's module may import much
_CHILD = "import sys; from verifiers.programs.function_child import main; main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"
# the function with its file's full path, when the file was changed, and the memory
_Key: TypeAlias = tuple[str, int, int]

_idle: dict[_Key, list[_Worker]] = {}


@dataclass(frozen=True, slots=True)
class Function:
    """What your function says, `score(problem, trace) -> float in [0, 1] or bool`; called in a
    process that can be killed.

    `trace.answer` is the stated answer (`.text`) or None, `trace.text` the whole reply,
    `problem.tags` the row's other fields as JSON text. A function that raises, hangs or returns
    something else gives no score: the trace's note says why.
    """

    function: (
        str  # "checks.py:score" (a file, from where the job is started) or "package.module:score"
    )
    seconds: float = 10.0  # the time one call may take
    memory_mib: int = 4096  # the address space of the process, imports included

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf") or self.memory_mib < 256:
            raise ValueError("seconds is above 0, memory_mib at least 256")
        where, _, name = self.function.rpartition(":")
        if not where or not name.isidentifier():
            raise ValueError(
                f"function = {self.function!r}: write 'checks.py:NAME' or 'package.module:NAME'"
            )
        if where.endswith(".py") and not Path(where).is_file():
            raise ValueError(
                f"function = {self.function!r}: there is no file {Path(where).resolve()}"
            )
        if self._key() not in _idle:
            _give_back(self._key(), self._started())

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        """Return the function's score of each trace. RuntimeError where it has none to give."""
        return await together([self._verdict(problem, trace) for trace in traces])

    async def _verdict(self, problem: Problem, trace: Trace) -> Verdict:
        question = pickle.dumps((problem, trace))
        async with places():
            try:
                reply = await self._reply(_taken(self._key()), question)
            # the process died while it was idle, so nothing was asked of it yet
            except BrokenPipeError:
                reply = await self._reply(None, question)
            except RuntimeError as error:
                raise RuntimeError(f"{self.function}: {error}") from error
        if "error" in reply:
            raise RuntimeError(f"{self.function}: {reply['error']}")
        return Verdict(_NAME, reply["score"])

    async def _reply(self, worker: _Worker | None, question: bytes) -> dict[str, Any]:
        """Ask a process, a new one where none is given; it is kept if it answers."""
        loop = asyncio.get_running_loop()
        key = self._key()
        process = worker if worker is not None else await loop.run_in_executor(None, self._started)
        try:
            reply: dict[str, Any] = await loop.run_in_executor(
                None, process.reply, question, self.seconds
            )
        except BaseException:  # a cancellation too: its reply would reach the next caller
            process.kill()
            raise
        _give_back(key, process)
        return reply

    def _key(self) -> _Key:
        where, _, name = self.function.rpartition(":")
        path = Path(where).resolve()
        if not where.endswith(".py"):
            return self.function, 0, self.memory_mib
        return f"{path}:{name}", path.stat().st_mtime_ns if path.exists() else 0, self.memory_mib

    def _started(self) -> _Worker:
        """Return a process that has loaded the function.

        ValueError with the reason when it does not load.
        """
        worker = _Worker(self._key()[0], self.memory_mib)
        try:
            reply = worker.reply(b"", _START_SECONDS)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"function = {self.function!r} does not load: {error}") from error
        if "error" in reply:
            worker.kill()
            raise ValueError(f"function = {self.function!r} does not load: {reply['error']}")
        return worker


class _Worker:
    """One process. Not for two callers at once.

    Its calls block, so that it belongs to no event loop.
    """

    def __init__(self, function: str, memory_mib: int) -> None:
        """Start it. It sees the modules that this process sees; its own session keeps Ctrl-C away
        from it.
        """
        folders = [folder or os.getcwd() for folder in sys.path]
        self._memory_mib = memory_mib
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, str(os.getpid()), str(memory_mib << 20), function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            start_new_session=True,
            bufsize=0,
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def reply(self, question: bytes, seconds: float) -> dict[str, Any]:
        """Return the answer to a question (an empty one asks nothing). RuntimeError, and it is
        dead, when there is none in time.

        BrokenPipeError when it was dead already.
        """
        deadline = time.monotonic() + seconds
        if question:
            self._write(len(question).to_bytes(4, "big") + question)
        head = self._read(4, deadline, seconds)
        answer: dict[str, Any] = json.loads(
            self._read(int.from_bytes(head, "big"), deadline, seconds)
        )
        return answer

    def kill(self) -> None:
        """Kill it and everything it started, and wait for its end.

        Safe to repeat, and from another thread than the one that waits.
        """
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self._process.stdin.write(view) :]

    def _read(self, n: int, deadline: float, seconds: float) -> bytes:
        assert self._process.stdout is not None
        data = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while len(data) < n:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    raise RuntimeError(f"took more than {seconds:g} s")
                chunk = os.read(self._process.stdout.fileno(), n - len(data))
                if not chunk:
                    self.kill()
                    raise RuntimeError(self._end())
                data += chunk
        return data

    def _end(self) -> str:
        status = self._process.wait()
        if status == OUT_OF_MEMORY:
            return f"needed more than {self._memory_mib} MiB of memory"
        return (
            f"its process was ended by {signal.Signals(-status).name}"
            if status < 0
            else f"its process ended with status {status}"
        )


def _taken(key: _Key) -> _Worker | None:
    waiting = _idle.get(key, [])
    while waiting:
        worker = waiting.pop()
        if worker.is_alive:
            return worker
    return None


def _give_back(key: _Key, worker: _Worker) -> None:
    # of an older state of the file
    for old in [known for known in _idle if known[0] == key[0] and known != key]:
        for stale in _idle.pop(old):
            stale.kill()
    _idle.setdefault(key, []).append(worker)
