"""Runs an untrusted Python program and reports its output and its fault. Linux only.

`judge.py` runs two at once, a program and its test.

The one rule: whatever the program does, `run` returns within its limits, no process of the program
survives, and it has written no files, except (if allowed) plain files in a temporary folder, which
is then removed. The program's process restricts itself (`sandbox_child.py`) before the program
starts; this module monitors time, output and the folder's size. Cancelling `run` kills the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from verifiers.programs.sandbox_child import READY
from verifiers.programs.syscalls import machines, seccomp_filter

# An interpreter starts in some hundredths of a second, many times that on a busy machine.
_START_SECONDS = 120.0
_FOLDER_SECONDS = 0.05  # how often the folder is looked at
_SETTLE_SECONDS = 5.0  # a killed process is gone in milliseconds
_MAX_FILES = 1000
_ERROR_BYTES = 2000
_CHUNK_BYTES = 1 << 16
_MIB, _KIB = 1 << 20, 1 << 10
# Where shared libraries, time zones and the system's encodings lie: nothing here is a secret.
_SYSTEM_PATHS = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/usr/share/zoneinfo", "/etc/localtime", "/dev/urandom"),
)
_PROBE = """
import os, socket
outside = input()
attempts = {
    "write outside its folder": lambda: open(outside, "a"),
    "read outside its folder": lambda: open(outside),
    "change the rights of a file": lambda: os.chmod(outside, 0o777),
    "open a socket": socket.socket,
    "make a process": os.fork,
    "signal another process": lambda: os.kill(os.getppid(), 0),
}
open("within", "w").write("x")
for what, attempt in attempts.items():
    try:
        attempt()
    except PermissionError:
        continue
    print("here a sandboxed program could", what, flush=True)
    os._exit(1)
print("sound")
"""

_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use: CPU and wall-clock seconds, address space, output, and files.

    `files_mib` is for the files in its folder together. 0: it can write no file at all, which is
    strict. Otherwise the kernel bounds each file, and their sum is looked at 20 times a second: on
    a fast disk some hundred MiB may be written before the program is killed.
    """

    seconds: int = 10
    wall_seconds: float = 60.0
    memory_mib: int = 1024
    output_kib: int = 1024
    files_mib: int = 0


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    """The output of a program, its fault, "" if it exited with status 0, and its exit status.

    The status is None where a limit ended it.
    """

    output: bytes
    fault: str
    status: int | None = field(default=None, compare=False, repr=False)


class SandboxError(RuntimeError):
    """The sandbox could not be set up, so the program was not started."""


async def run(
    program: str, stdin: bytes = b"", *, limits: Limits | None = None, protected: bool = True
) -> ProgramOutcome:
    """Return the outcome of a program.

    SandboxError when the sandbox cannot be set up. At most `n_slots()` run at once in a loop.
    """
    async with slot(), started(limits or Limits(), protected) as running:
        return await running.outcome("program", program, stdin)


def slot() -> asyncio.Semaphore:
    """Return the loop's limit on how many programs run at once."""
    return _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(n_slots()))


@contextlib.asynccontextmanager
async def started(
    limits: Limits, protected: bool, channel: Sequence[int] = ()
) -> AsyncIterator[RunningProgram]:
    """Yield a process that waits for what it is to run; it does not survive the block.

    `channel` has the files that it inherits, one to read and one to write.
    """
    with _temporary_folder() as folder:
        process = await asyncio.create_subprocess_exec(
            *_command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(folder),
            cwd=folder,
            start_new_session=True,
            pass_fds=channel,
        )
        running = RunningProgram(process, folder, limits, protected, channel)
        try:
            yield running
        finally:
            await running.end()


def n_slots() -> int:
    """Return how many programs may run at once: as many as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def supported() -> bool:
    """Tell whether programs can be run here at all, protected or not."""
    return sys.platform == "linux"


@functools.cache
def lacking() -> str:
    """Return what this machine lacks to run untrusted programs; "" when nothing.

    Found out by running a program that tries to get out of the sandbox.
    """
    if not supported():
        return f"untrusted programs run on Linux only, and this is {platform.system()}"
    if platform.machine() not in machines():
        return (
            f"untrusted programs run on {' and '.join(machines())} only, "
            f"and this is {platform.machine()}"
        )
    with _temporary_folder() as folder, tempfile.NamedTemporaryFile() as outside:
        job = _job("program", _PROBE, folder, Limits(files_mib=1), True, ())
        try:
            done = subprocess.run(
                _command(),
                input=job + outside.name.encode(),
                capture_output=True,
                env=_environment(folder),
                cwd=folder,
                timeout=_START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"a program of a few lines did not end within {_START_SECONDS:g} s"
    if done.stdout == READY + b"sound\n":
        return ""
    reason = _last_line(done.stderr) or _last_line(done.stdout[1:])
    return (
        f"{reason or f'it ended with status {done.returncode}'} (Landlock needs Linux 5.13 with it "
        "enabled; in a container, its policy must allow Landlock and seccomp)"
    )


class RunningProgram:
    """One program while it runs."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        folder: str,
        limits: Limits,
        protected: bool,
        channel: Sequence[int],
    ) -> None:
        """Take over a process that has just been started."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._folder = folder
        self._limits, self._protected = limits, protected
        self._channel = channel
        self._fault = ""
        self._tasks: list[asyncio.Task[object]] = []

    async def outcome(self, part: str, source: str, stdin: bytes = b"") -> ProgramOutcome:
        """Run a source as a "program", or in its part of a test, and return its outcome."""
        job = _job(part, source, self._folder, self._limits, self._protected, self._channel)
        self._tasks.append(asyncio.create_task(self._feed(job + stdin)))
        errors = asyncio.create_task(self._read_errors())
        self._tasks.append(errors)
        await self._wait_ready(errors)
        if self._limits.files_mib:
            self._tasks.append(asyncio.create_task(self._watch_folder()))
        output = b""
        try:
            async with asyncio.timeout(self._limits.wall_seconds):
                output = await self._read_output()
                await self._process.wait()
                fault = self._fault or self._exit_fault(await errors)
                return ProgramOutcome(output, fault, self._process.returncode)
        except TimeoutError:
            fault = self._fault or f"took more than {self._limits.wall_seconds:g} s"
            return ProgramOutcome(output, fault)

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        self._kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await asyncio.gather(_drain(self._stdout), _drain(self._stderr))
                await self._process.wait()
        except TimeoutError:  # a process that an unprotected program left behind holds the pipes
            self._process._transport.close()  # type: ignore[attr-defined]  # asyncio has no other way

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _wait_ready(self, errors: asyncio.Task[bytes]) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                mark = await self._stdout.read(1)
        except TimeoutError:
            raise SandboxError(f"the sandbox did not start within {_START_SECONDS:g} s") from None
        if mark != READY:
            raise SandboxError(f"the sandbox did not start: {_last_line(await errors)}")

    async def _feed(self, stdin: bytes) -> None:
        # it may end, or close its standard input, without reading it all
        with contextlib.suppress(ConnectionError):
            self._stdin.write(stdin)
            await self._stdin.drain()
            self._stdin.close()

    async def _read_output(self) -> bytes:
        """Return the program's output, at most as much as it may print.

        Output beyond that is also read: a process with unread pipes never counts as ended.
        """
        chunks, n_bytes = [], 0
        while chunk := await self._stdout.read(_CHUNK_BYTES):
            n_bytes += len(chunk)
            if n_bytes > self._limits.output_kib * _KIB:
                self._stop(f"printed more than {self._limits.output_kib} KiB")
            else:
                chunks.append(chunk)
        return b"".join(chunks)

    async def _read_errors(self) -> bytes:
        """Return the end of what it prints on standard error."""
        errors = b""
        while chunk := await self._stderr.read(_CHUNK_BYTES):
            errors = (errors + chunk)[-_ERROR_BYTES:]
        return errors

    async def _watch_folder(self) -> None:
        while True:
            await asyncio.sleep(_FOLDER_SECONDS)
            n_bytes = 0
            with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
                for n, entry in enumerate(entries, 1):
                    n_bytes += entry.stat(follow_symlinks=False).st_size
                    if n > _MAX_FILES or n_bytes > self._limits.files_mib * _MIB:
                        most = f"{self._limits.files_mib} MiB or {_MAX_FILES} files"
                        self._stop(f"wrote more than {most}")
                        return

    def _stop(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._kill()

    def _exit_fault(self, errors: bytes) -> str:
        status, seconds = self._process.returncode, self._limits.seconds
        if status == 0:
            return ""
        if status == -signal.SIGXCPU:
            return f"took more than {seconds} s of CPU time"
        if status == -signal.SIGKILL:
            return (
                f"was killed: more than {seconds + 1} s of CPU time, "
                "or the machine's memory ran out"
            )
        if status is not None and status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return _last_line(errors) or f"exit status {status}"


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(_CHUNK_BYTES):
        pass


def _command() -> list[str]:
    """Return an interpreter without installed packages or working folder on its path."""
    return [
        sys.executable,
        "-s",
        "-S",
        "-P",
        "-B",
        str(Path(__file__).with_name("sandbox_child.py")),
    ]


def _environment(folder: str) -> dict[str, str]:
    """Return nothing of ours, and a fixed hash seed: no output may depend on chance."""
    return {
        "LC_ALL": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
    }


def _job(
    part: str, source: str, folder: str, limits: Limits, protected: bool, channel: Sequence[int]
) -> bytes:
    job = {
        "part": part,
        "source": source,
        "channel": list(channel),
        "folder": folder,
        "parent": os.getpid(),
        "protected": protected,
        "limits": asdict(limits),
        "readable": [*_SYSTEM_PATHS, *_interpreter_paths()],
        "filter": seccomp_filter(platform.machine()).hex() if protected else "",
    }
    text = json.dumps(job).encode()
    return len(text).to_bytes(4, "big") + text


@functools.cache
def _interpreter_paths() -> tuple[str, ...]:
    """Return where the standard library and the interpreter's shared libraries lie.

    Packages that are installed beside them are not among these.
    """
    names = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    library = [
        sysconfig.get_path(name, vars={**names, "installed_base": sys.base_prefix})
        for name in ("stdlib", "platstdlib")
    ]
    shared = (sysconfig.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib"))
    return tuple(dict.fromkeys(os.path.realpath(path) for path in (*library, *shared) if path))


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder by its real path: Landlock's rules are about files, not their names."""
    parent = os.path.realpath(tempfile.gettempdir())
    return tempfile.TemporaryDirectory("", "leadline-", parent, ignore_cleanup_errors=True)


def _last_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().rpartition("\n")[2].strip()[:300]
