"""Runs a Python program that nobody trusts, and says what it printed and how it ended. Linux only.

The one rule: whatever the program does, `run` comes back within its limits, nothing of it is alive
afterwards, and it has written nothing but, where that is allowed, plain files in a folder of its
own, which is then removed. What it may do is decided in the program's own process (`sandbox_child.py`)
before the program begins; time, output and the folder's size are watched from here. Cancelling
`run` kills the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from verifiers.programs.places import places
from verifiers.programs.sandbox_child import READY
from verifiers.programs.syscalls import machines, seccomp_filter

# an interpreter starts in some hundredths of a second; on a busy machine it may take many times
# that
_START_SECONDS = 120.0
_WATCH_SECONDS = 0.05  # how often the folder is looked at
_SETTLE_SECONDS = 5.0  # a killed process is gone in milliseconds
_MAX_FILES = 1000
_ERROR_BYTES = 2000
_MIB, _KIB = 1 << 20, 1 << 10
# Where shared libraries, time zones and the system's encodings lie. Nothing here is anybody's
# secret.
_SYSTEM_PATHS = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/usr/share/zoneinfo", "/etc/localtime", "/dev/urandom"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use: CPU seconds, wall-clock seconds, address space, what it prints, and
    the files in its folder together.

    `files_mib` 0: it can write no file at all, which is strict. Else the kernel bounds each file,
    and their sum is looked at 20 times a second: a fast disk may take some hundred MiB before the
    program is killed.
    """

    seconds: int = 10
    wall_seconds: float = 60.0
    memory_mib: int = 1024
    output_kib: int = 1024
    files_mib: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program printed, and why it did not end well: "" when it ended by itself with status
    0, and with a test came through it.
    """

    output: bytes
    fault: str


class Unready(RuntimeError):
    """The sandbox could not be put up, so the program was not started."""


async def run(
    program: str,
    stdin: bytes = b"",
    *,
    test: str = "",
    limits: Limits | None = None,
    protected: bool = True,
) -> Outcome:
    """Return the outcome of a program, and of a test that runs in its names after it. Unready when
    the sandbox cannot be had.

    Waits for a place: as many run at once as there are cores.
    """
    limits = limits or Limits()
    token = secrets.token_hex(16) if test else ""
    async with places():
        with _own_folder() as folder:
            process = await asyncio.create_subprocess_exec(
                *_command(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(folder),
                cwd=folder,
                start_new_session=True,
            )
            watched = _Watched(process, folder, limits)
            try:
                return _untokened(
                    await watched.outcome(
                        _job(program, test, token, folder, limits, protected) + stdin
                    ),
                    token,
                )
            finally:
                await watched.end()


def supported() -> bool:
    """Tell whether programs can be run here at all, protected or not."""
    return sys.platform == "linux"


@functools.cache
def lacking() -> str:
    """Return what this machine lacks to run untrusted programs, as found by running one that tries
    to get out; "" when all is there.
    """
    if not supported():
        return f"untrusted programs are run on Linux only, and this is {platform.system()}"
    if platform.machine() not in machines():
        return f"untrusted programs are run on {' and '.join(machines())} only, and this is {platform.machine()}"
    with _own_folder() as folder, tempfile.NamedTemporaryFile() as outside:
        job = _job(_PROBE, "", "", folder, Limits(files_mib=1), True) + outside.name.encode()
        try:
            done = subprocess.run(
                _command(),
                input=job,
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
    said = (
        _last_line(done.stderr)
        or _last_line(done.stdout[1:])
        or f"it ended with status {done.returncode}"
    )
    return f"{said} (Landlock needs Linux 5.13 with it enabled; in a container, its policy must allow Landlock and seccomp)"


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


class _Watched:
    """One program while it runs."""

    def __init__(self, process: asyncio.subprocess.Process, folder: str, limits: Limits) -> None:
        self._process = process
        self._folder = folder
        self._limits = limits
        self._fault = ""
        self._tasks: list[asyncio.Task[object]] = []

    async def outcome(self, given: bytes) -> Outcome:
        """Feed it, and return what it came to."""
        self._tasks.append(asyncio.create_task(self._feed(given)))
        errors = asyncio.create_task(self._last_words())
        self._tasks.append(errors)
        await self._started(errors)
        if self._limits.files_mib:
            self._tasks.append(asyncio.create_task(self._watch_folder()))
        try:
            async with asyncio.timeout(self._limits.wall_seconds):
                output = await self._printed()
                await self._process.wait()
                words = await errors
        except TimeoutError:
            return Outcome(b"", f"took more than {self._limits.wall_seconds:g} s")
        if self._fault:
            return Outcome(output, self._fault)
        return Outcome(output, self._how_it_ended(words))

    async def end(self) -> None:
        """Kill it and wait until it is gone, but not for a stray process of an unprotected one that
        keeps its pipes open.
        """
        self._kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._process.wait()

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _started(self, errors: asyncio.Task[bytes]) -> None:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                mark = await self._process.stdout.read(1)
        except TimeoutError:
            raise Unready(f"the sandbox did not start within {_START_SECONDS:g} s") from None
        if mark != READY:
            raise Unready(f"the sandbox did not start: {_last_line(await errors)}")

    async def _feed(self, given: bytes) -> None:
        assert self._process.stdin is not None
        # it ended, or closed its standard input, without reading it all
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(given)
            await self._process.stdin.drain()
            self._process.stdin.close()

    async def _printed(self) -> bytes:
        assert self._process.stdout is not None
        parts, n = [], 0
        while chunk := await self._process.stdout.read(1 << 16):
            n += len(chunk)
            if n > self._limits.output_kib * _KIB:
                self._stop(f"printed more than {self._limits.output_kib} KiB")
                break
            parts.append(chunk)
        return b"".join(parts)

    async def _last_words(self) -> bytes:
        assert self._process.stderr is not None
        words = b""
        while chunk := await self._process.stderr.read(1 << 16):
            words = (words + chunk)[-_ERROR_BYTES:]
        return words

    async def _watch_folder(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            n_bytes = 0
            with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
                for n, entry in enumerate(entries, 1):
                    n_bytes += entry.stat(follow_symlinks=False).st_size
                    if n > _MAX_FILES or n_bytes > self._limits.files_mib * _MIB:
                        self._stop(
                            f"wrote more than {self._limits.files_mib} MiB or {_MAX_FILES} files"
                        )
                        return

    def _stop(self, fault: str) -> None:
        self._fault = fault
        self._kill()

    def _how_it_ended(self, errors: bytes) -> str:
        status = self._process.returncode
        if status == 0:
            return ""
        if status == -signal.SIGXCPU:
            return f"took more than {self._limits.seconds} s of CPU time"
        if status == -signal.SIGKILL:
            return f"was killed: more than {self._limits.seconds + 1} s of CPU time, or the machine's memory ran out"
        if status is not None and status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return _last_line(errors) or f"exit status {status}"


def _command() -> list[str]:
    """No environment's packages, no user's, no working folder on its path, no byte code written."""
    return [
        sys.executable,
        "-s",
        "-S",
        "-P",
        "-B",
        str(Path(__file__).with_name("sandbox_child.py")),
    ]


def _environment(folder: str) -> dict[str, str]:
    """Nothing of ours; a fixed hash seed, so that a program's output does not depend on chance."""
    return {
        "LC_ALL": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
    }


def _job(
    program: str, test: str, token: str, folder: str, limits: Limits, protected: bool
) -> bytes:
    job = {
        "program": program, "test": test, "token": token, "folder": folder, "parent": os.getpid(), "protected": protected,
        "seconds": limits.seconds, "memory_mib": limits.memory_mib, "files_mib": limits.files_mib,
        "readable": [*_SYSTEM_PATHS, *_interpreter_paths()],
        "filter": seccomp_filter(platform.machine()).hex() if protected else "",
    }  # fmt: skip
    text = json.dumps(job).encode()
    return len(text).to_bytes(4, "big") + text


@functools.cache
def _interpreter_paths() -> tuple[str, ...]:
    """The standard library, and the folder of the interpreter's shared libraries; without the
    packages installed beside it.
    """
    names = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    library = [
        sysconfig.get_path(name, vars={**names, "installed_base": sys.base_prefix})
        for name in ("stdlib", "platstdlib")
    ]
    shared = (sysconfig.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib"))
    return tuple(dict.fromkeys(os.path.realpath(path) for path in (*library, *shared) if path))


@contextlib.contextmanager
def _own_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="leadline-")
    try:
        yield os.path.realpath(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _untokened(outcome: Outcome, token: str) -> Outcome:
    """Take the token off the output; where it is missing, the test was not come through."""
    if outcome.fault or not token:
        return outcome
    output = outcome.output.removesuffix(token.encode())
    return Outcome(
        output, "" if len(output) < len(outcome.output) else "ended before its test was through"
    )


def _last_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().rpartition("\n")[2].strip()[:300]
