"""Calls of the system on a job's directory that fail, or that kill the process.

strace counts the calls of a process on the job's files and tampers with one of them: it returns
ENOSPC or EIO, once or from then on, or kills the process before the call is made. Afterwards the
command is run again without: nothing that was journalled is lost, and the job comes to its end.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import cases

from processes.command import Command, Ended, run, served
from processes.signals import JobFolder

_WRITING = (
    "pwrite64",
    "write",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fallocate",
    "rename",
    "unlink",
    "mkdir",
)
_READING = ("openat", "pread64", "read", "newfstatat", "fstat", "getdents64")
_CALLS = ",".join(("openat", *_WRITING, *_READING))
_FILES = ("journal.db", "journal.db-wal", "journal.db-shm", "lock")
_REPLACED = ("plan.json", "plan.toml", "results.jsonl")
Fault = tuple[str, int, str]  # a call, its number, and what strace makes of it


def is_possible() -> bool:
    """Tell whether strace is there, and may trace."""
    if shutil.which("strace") is None:
        return False
    command = ["strace", "-o", "/dev/null", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fail_calls(
    directory: Path, seed: int, n: int, strategy: str, echo: Callable[[str], None]
) -> Counter[str]:
    """Tamper with `n` calls, each in a job of its own; return how the commands ended.

    The calls are drawn from all of a job, without repetition until each was met. AssertionError
    where a job is not whole in the end.
    """
    rng, ends = random.Random(seed), Counter[str]()
    names = [strategy] if strategy else sorted(cases.CASES)
    faults: list[Fault] = []
    for number in range(n):
        if not faults:
            faults = _faults(_calls(JobFolder(directory / f"all-{number}", "adaptive", "number")))
            rng.shuffle(faults)
        job = JobFolder(directory / str(number), names[number % len(names)], cases.DOMAIN)
        fault = faults.pop()
        try:
            ends[_fail(job, fault)] += 1
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {job.folder}, {fault}: {error}") from error
        shutil.rmtree(job.folder)
        if (number + 1) % 50 == 0 or number == n - 1:
            echo(f"{number + 1} calls tampered with: {dict(ends)}")
    return ends


def _fail(job: JobFolder, fault: Fault) -> str:
    """Run a job with a fault and then without; return the fault and how the first run ended."""
    name, number, what = fault
    ended, _ = _traced(job, [f"inject={name}:{what}:when={number}"])
    assert not ended.has_traceback, ended.output[-4000:]
    codes = {-9} if "KILL" in what else {0, 1, 2}
    assert ended.code in {*codes, 0}, f"it ended with {ended.code}: {ended.output[-2000:]}"
    assert ended.code != 1 or "leadline: " in ended.output, f"it says nothing: {ended.output}"
    before, n_served = job.contents(), len(served(job.log))
    job.check(before, n_served)
    again = run(job.arguments, job.output)
    assert (again.code, again.has_traceback) == (0, False), again.output[-4000:]
    job.check(before, n_served)
    job.check_end()
    return f"{what.partition(':')[0]} -> {ended.code}"


def _calls(job: JobFolder) -> Mapping[str, int]:
    """Return how many calls of each kind one thread of an undisturbed job makes, at most."""
    ended, text = _traced(job, [])
    assert ended.code == 0, ended.output
    counts = Counter(re.findall(r"^(\d+) +(\w+)\(", text, re.MULTILINE))
    most: dict[str, int] = {}
    for (_, name), n in counts.items():
        most[name] = max(n, most.get(name, 0))
    return most


def _faults(calls: Mapping[str, int]) -> list[Fault]:
    """Return every call with everything that can become of it."""
    kinds = {
        "signal=KILL": (*_WRITING, "openat"),
        "error=ENOSPC": (*_WRITING, "openat"),
        "error=EIO": (*_WRITING, *_READING),
    }
    faults = [
        (name, number, what)
        for what, names in kinds.items()
        for name in names
        for number in range(1, calls.get(name, 0) + 1)
    ]
    lasting = [(n, k, w) for n, k, w in faults if "error" in w and n in _WRITING]
    return [*faults, *((name, number, f"{what}:lasting") for name, number, what in lasting)]


def _traced(job: JobFolder, tampering: list[str]) -> tuple[Ended, str]:
    """Run a job's command under strace; return its end and the calls on the job's files."""
    command = Command(job.arguments, job.output, waits=True)
    trace = job.folder / "trace"
    paths = [job.out, *(job.out / name for name in (*_FILES, *_REPLACED))]
    paths += [job.out / f".{name}.{command.pid}" for name in _REPLACED]
    options = ["-f", "-p", str(command.pid), "-o", str(trace), "-e", f"trace={_CALLS}"]
    for path in paths:
        options += ["-P", str(path)]
    for one in tampering:
        if ":lasting" in one:
            one = one.replace(":lasting", "") + "+"
        options += ["-e", one]
    with subprocess.Popen(["strace", *options], stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        line = strace.stderr.readline()
        while "attached" not in line:
            assert line, "strace could not attach"
            line = strace.stderr.readline()
        command.send(signal.SIGCONT)
        ended = command.end()
        strace.communicate()
    return ended, trace.read_text(errors="replace")
