"""Running a sandboxed program while its process is watched from outside."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from verifiers.programs import sandbox
from verifiers.programs.sandbox import Limits, ProgramOutcome


@dataclass
class Seen:
    """What was seen of the sandboxes of this process: their pids, how many at once, threads,
    resident bytes, bytes in their folders.
    """

    pids: set[int] = field(default_factory=set)
    n_processes: int = 0
    n_threads: int = 0
    resident_bytes: int = 0
    folder_bytes: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def look(self) -> None:
        inside = [p for p in psutil.Process().children(recursive=True) if _in_sandbox(p)]
        self.n_processes = max(self.n_processes, len(inside))
        if inside:
            self.started.set()
        for process in inside:
            self.pids.add(process.pid)
            with contextlib.suppress(psutil.Error, OSError):
                self.n_threads = max(self.n_threads, process.num_threads())
                self.resident_bytes = max(self.resident_bytes, process.memory_info().rss)
                if "leadline-" in (folder := process.cwd()):
                    self.folder_bytes = max(self.folder_bytes, sum(_sizes(folder)))

    @property
    def alive(self) -> list[int]:
        """Those of the pids that still exist (a zombie counts: it has not been waited for)."""
        return [pid for pid in self.pids if psutil.pid_exists(pid)]


def _in_sandbox(process: psutil.Process) -> bool:
    try:
        return any(part.endswith("programs/sandbox_child.py") for part in process.cmdline())
    except psutil.Error:
        return False


def _sizes(folder: str) -> Iterator[int]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield entry.stat().st_size


@contextlib.asynccontextmanager
async def _watching() -> AsyncIterator[Seen]:
    seen = Seen()

    async def look() -> None:
        while True:
            seen.look()
            await asyncio.sleep(0.01)

    task = asyncio.create_task(look())
    try:
        yield seen
    finally:
        task.cancel()


async def _watched(
    program: str, stdin: bytes = b"", limits: Limits | None = None
) -> tuple[ProgramOutcome, Seen]:
    async with _watching() as seen:
        outcome = await sandbox.run(program, stdin, limits=limits or Limits())
    return outcome, seen


@pytest.fixture
def sandboxing() -> None:
    """Skip the test where the kernel has no Landlock.

    That is asked of the kernel: a broken sandbox must fail its tests, not skip them.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the sandbox is for Linux on x86_64 and aarch64")
    # landlock_create_ruleset, which returns the version of its interface
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 1:
        pytest.skip("this kernel offers no Landlock")


@pytest.fixture
def watching() -> Callable[[], AbstractAsyncContextManager[Seen]]:
    """Return a context that looks at this process's sandboxes every hundredth of a second."""
    return _watching


@pytest.fixture
def watched() -> Callable[..., Awaitable[tuple[ProgramOutcome, Seen]]]:
    """Return a function that runs a program and says what was seen of it."""
    return _watched


@pytest.fixture
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """Return another process of the same user, with a secret in its environment."""
    with subprocess.Popen(["sleep", "60"], env={"KEY": SECRET}) as process:
        yield process
        process.kill()


SECRET = "s3cret-" + os.urandom(8).hex()


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Return a secret that stands in a file `key`, in this process's environment, and in a file
    that it holds open, with its number.
    """
    (tmp_path / "key").write_text(SECRET)
    monkeypatch.setenv("LEADLINE_TEST_KEY", SECRET)
    with open(tmp_path / "key") as held:
        os.set_inheritable(held.fileno(), True)
        yield SECRET, held.fileno()
