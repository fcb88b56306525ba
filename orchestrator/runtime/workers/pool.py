"""A pool of processes that can be killed, for plugin code that may hang, crash or use much memory.

The one rule: whatever a plugin does, a call returns within its limit and the pool works afterwards.
A failed call raises `CallFailed` with the reason. Processes start when they are first needed. This
module uses no signals, no threads, and no `multiprocessing`, which would import the user's
`__main__` again. The caller decides what to call and how to handle a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from enum import Enum
from typing import TypeVar

import msgspec

from orchestrator.core.errors import LeadlineError, PluginError
from orchestrator.core.values import PluginSpec
from orchestrator.plan import registry
from orchestrator.runtime.workers import child

# Starting Python and importing sympy takes 2 s on an idle machine, many times that on a busy one.
_LOAD_SECONDS = 120.0
_STDERR_BYTES = 2_000
_MAX_REPLY_BYTES = 64 << 20
# A killed process ends within milliseconds; one in uninterruptible sleep is left to the kernel.
_SETTLE_SECONDS = 5.0
_N_STARTS = 3  # of a process that dies while it loads its plugin; then the plugin is at fault
_MAIN = (
    "import sys; from orchestrator.runtime.workers.child import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)
_DECODER: msgspec.msgpack.Decoder[child.Reply] = msgspec.msgpack.Decoder(child.Reply)
T = TypeVar("T")


class Cause(Enum):
    """The cause of a failed call."""

    RAISED = "raised"  # the plugin raised an error; its process is still alive
    TIME = "time"  # it reached its time limit, and would reach it again
    MEMORY = "memory"  # it reached its memory limit, perhaps by what earlier calls left behind
    KILL = "kill"  # something else killed its process, such as the kernel for want of memory
    DEATH = "death"  # its process ended for another reason


class CallFailed(Exception):
    """A call to a plugin failed; the message is the reason."""

    def __init__(self, reason: str, cause: Cause) -> None:
        super().__init__(reason)
        self.cause = cause


class _DeadWorker(Exception):
    """A process died before it served a call: while it was idle, or while it loaded a plugin."""


def _does_not_load(plugin: child.Load, error: Exception) -> PluginError:
    what = f"{registry.singular(plugin.group)} {plugin.name!r}"
    return PluginError(f"{what} does not load in a worker process: {error}")


def plugin_reference(
    group: str, spec: PluginSpec, *, origin: str | None = None, revision: str = ""
) -> child.Load:
    """Return the data with which another process can build a plugin that is registered here.

    `origin` is "module:Class" for a class without an entry point (None: the origin registered
    here). When `revision`, the version of the plugin's own code, changes, processes are replaced.
    Raises PluginError when another process cannot import the class.
    """
    origin = registry.decorated_origin(group, spec.name) if origin is None else origin
    if origin.startswith("__main__:"):
        raise PluginError(
            f"{registry.singular(group)} {spec.name!r} is defined in the script itself, so worker "
            "processes cannot import it: move the class to a module and import it from there"
        )
    options = msgspec.msgpack.encode(dict(spec.options), order="sorted")
    return child.Load(group, spec.name, options, origin, revision)


class WorkerPool:
    """A pool of at most `n_workers` busy processes; belongs to one event loop.

    `memory_bytes` limits the address space of each process.
    """

    def __init__(self, n_workers: int, memory_bytes: int) -> None:
        """Create the pool; no process is started yet."""
        self._memory_bytes = memory_bytes
        self._slots = asyncio.Semaphore(n_workers)
        self._idle: list[Worker] = []
        self._alive: set[Worker] = set()
        self._starting: set[asyncio.Task[Worker]] = set()
        self._closed = False

    @contextlib.asynccontextmanager
    async def worker(self, plugin: child.Load) -> AsyncIterator[Worker]:
        """Yield a process that has built the plugin; it is killed if the block exits early.

        Raises PluginError when the plugin does not load, or its process dies again and again.
        """
        async with self._slots:
            worker = await self._next_worker(plugin.revision)
            try:
                for n_left in reversed(range(_N_STARTS + worker.is_used)):
                    try:
                        await worker.load(plugin)
                        break
                    except _DeadWorker as death:
                        if not n_left:
                            raise _does_not_load(plugin, death) from death
                    await self._discard(worker)
                    worker = await self._new_worker()
                yield worker
            except CallFailed:
                raise
            except BaseException:  # cancellation included: the reply would reach the next caller
                worker.kill()
                raise
            finally:
                if worker.is_alive and not self._closed:
                    self._idle.append(worker)
                else:
                    await self._discard(worker)

    async def call(
        self, plugin: child.Load, call: child.Call, kind: type[T], limit_seconds: float
    ) -> T:
        """Return what a plugin returns, a `kind`; raises CallFailed and PluginError.

        If something else kills its process, the call is made again in another one, twice.
        """
        n_left = _N_STARTS
        while True:
            n_left -= 1
            try:
                async with self.worker(plugin) as worker:
                    return await worker.call(call, kind, limit_seconds)
            except CallFailed as failure:
                if failure.cause is not Cause.KILL or not n_left:
                    raise

    async def aclose(self) -> None:
        """Kill all processes and wait for them to end; calls in progress fail."""
        self._closed = True
        self._idle.clear()
        if self._starting:
            await asyncio.wait(self._starting)
        await asyncio.gather(*map(self._discard, list(self._alive)))

    async def _next_worker(self, revision: str) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive and worker.revision == revision:
                return worker
            await self._discard(worker)
        return await self._new_worker()

    async def _new_worker(self) -> Worker:
        """Return a new process.

        Its start is never cancelled, because asyncio then waits forever for pipes that it has not
        connected. When its caller is cancelled, the process is idle. RuntimeError once the pool is
        closed: nobody would wait for the start, and the end of the loop would cancel it.
        """
        if self._closed:
            raise RuntimeError("this WorkerPool is closed")
        start = asyncio.create_task(self._start())
        self._starting.add(start)
        start.add_done_callback(self._starting.discard)
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            start.add_done_callback(self._keep)
            raise

    async def _start(self) -> Worker:
        try:
            worker = await Worker.start(self._memory_bytes)
        except OSError as error:
            raise LeadlineError(
                f"no worker process can be started: {error}; free some memory or raise the limit "
                "on processes (ulimit -u), then run the same command again"
            ) from error
        self._alive.add(worker)
        return worker

    def _keep(self, start: asyncio.Task[Worker]) -> None:
        if not self._closed and not start.cancelled() and start.exception() is None:
            self._idle.append(start.result())

    async def _discard(self, worker: Worker) -> None:
        self._alive.discard(worker)
        await worker.end()


class Worker:
    """One process, for one caller at a time."""

    def __init__(self, process: asyncio.subprocess.Process, memory_bytes: int) -> None:
        self.revision: str | None = None  # of the plugin that it has loaded
        self.n_calls = 0
        self._process = process
        self._memory_bytes = memory_bytes
        self._killed = False
        self._errors = b""
        self._stderr_reader = asyncio.create_task(self._read_stderr())

    @classmethod
    async def start(cls, memory_bytes: int) -> Worker:
        """Return a running process that has loaded no plugin yet.

        It has the same import path as this process, in any working directory. It runs in its own
        session, so that Ctrl-C does not reach it.
        """
        folders = [folder or os.getcwd() for folder in sys.path]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _MAIN, str(os.getpid()), str(memory_bytes)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            start_new_session=True,
        )
        return cls(process, memory_bytes)

    @property
    def is_alive(self) -> bool:
        """Whether the process can take a call."""
        return not self._killed and self._process.returncode is None

    @property
    def is_used(self) -> bool:
        """Whether it has loaded a plugin before."""
        return self.revision is not None

    async def load(self, plugin: child.Load) -> None:
        """Build a plugin; the calls that follow are for it.

        Raises PluginError when that fails, and _DeadWorker when the process dies and another one
        may live.
        """
        was_used, self.revision = self.is_used, plugin.revision
        try:
            await self.call(plugin, type(None), _LOAD_SECONDS)
        except CallFailed as error:
            if error.cause in (Cause.DEATH, Cause.KILL) or (
                was_used and error.cause is not Cause.RAISED
            ):
                raise _DeadWorker(str(error)) from error
            raise _does_not_load(plugin, error) from error

    async def call(self, call: child.Call, kind: type[T], limit_seconds: float) -> T:
        """Return the plugin's return value, a `kind`.

        Raises CallFailed when the call fails or takes too long.
        """
        assert self._process.stdin is not None
        self.n_calls += not isinstance(call, child.Load)
        try:
            self._process.stdin.write(child.framed(call))
            async with asyncio.timeout(limit_seconds):
                reply = _DECODER.decode(await self._frame())
            if isinstance(reply, child.Returned):
                return msgspec.convert(reply.value, kind)
        except TimeoutError:
            await self.end()
            raise CallFailed(f"took more than {limit_seconds:g} s", Cause.TIME) from None
        except (
            asyncio.IncompleteReadError,
            ConnectionError,
            msgspec.DecodeError,
            UnicodeDecodeError,
        ):
            is_ours = self._killed
            await self._settle()
            await self.end()
            raise self._death(is_ours) from None
        raise CallFailed(reply.error, Cause.RAISED)

    def kill(self) -> None:
        """Kill the process and everything it started; safe to repeat."""
        self._killed = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill the process and wait until it has ended; safe to repeat."""
        self.kill()
        await self._settle()
        self._stderr_reader.cancel()

    async def _frame(self) -> bytes:
        assert self._process.stdout is not None
        n_bytes = int.from_bytes(await self._process.stdout.readexactly(4), "big")
        if n_bytes > _MAX_REPLY_BYTES:
            raise msgspec.DecodeError(f"a reply of {n_bytes} bytes")
        return await self._process.stdout.readexactly(n_bytes)

    async def _settle(self) -> None:
        """Wait for the process and its stderr, but not for a process that keeps its pipes open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._process.wait()
                await asyncio.wait([self._stderr_reader])

    def _death(self, is_ours: bool) -> CallFailed:
        """Return the failure of a call whose process ended; `is_ours`: we have killed it."""
        status = self._process.returncode
        if status == child.OUT_OF_MEMORY:
            limit = f"{self._memory_bytes >> 20} MiB"
            return CallFailed(f"needed more than {limit} of memory", Cause.MEMORY)
        if status is not None and status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            how = f"exited with status {status}"
        words = self._errors.decode(errors="replace").strip().rpartition("\n")[2]
        reason = f"the worker process {how}" + (f": {words}" if words else "")
        is_kill = status == -signal.SIGKILL and not is_ours
        return CallFailed(reason, Cause.KILL if is_kill else Cause.DEATH)

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(4096):
            self._errors = (self._errors + chunk)[-_STDERR_BYTES:]
