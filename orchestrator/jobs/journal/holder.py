"""Lets one process at a time use a job directory, also where hosts share it.

The one rule: a lock of the kernel decides wherever it reaches; it is released however its process
ends. Some shared file systems keep locks to each host (NFS with `local_lock`, some that run in user
space). For them the process also leaves a record of itself, whose number it raises every few
seconds: the record of another host that still counts is a living process. A process that was
stopped for longer than that and then continues finds the other's record, and ends.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import filelock
import msgspec

from orchestrator.core.errors import JobBusyError, JournalError

BEAT_SECONDS = 2.0  # between two numbers of a record
N_WATCHED = 4  # of them that must pass without a new number before a record counts as left behind
LOCK, RECORD = "lock", "holder.json"


@dataclass(frozen=True, slots=True)
class Record:
    """The process that uses a directory; `kernel` is the same for all containers of a host."""

    host: str
    kernel: str
    pid: int
    token: str  # of this use
    number: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(slots=True)
class Holder:
    """This process's use of a directory."""

    directory: Path
    _lock: os.stat_result  # of the lock file when it was locked
    _record: Record
    _ended: threading.Event = field(default_factory=threading.Event)

    def require(self) -> None:
        """Raise JournalError if another process may use the directory by now."""
        if not _is_same(self._lock, self.directory / LOCK):
            raise JournalError(
                f"job directory {self.directory}: its file `lock` was removed or replaced while "
                "this process was using it, so another one may write to the job too; make sure "
                "that none does, then run the same command again"
            )
        other = _read(self.directory)
        if other is not None and other.token != self._record.token:
            raise JournalError(
                f"job directory {self.directory}: {other} has taken it over while this process was "
                "stopped; wait for that one, or end it and run the same command again"
            )

    def beat(self) -> None:
        """Raise the number of the record until the directory is released or taken over."""
        number = 0
        while not self._ended.wait(BEAT_SECONDS):
            other = _read(self.directory)
            if other is None or other.token != self._record.token:
                return
            number += 1
            # a full disk: only where no lock reaches would another host take the directory over
            with suppress(OSError):
                _write(self.directory, replace(self._record, number=number))

    def release(self) -> None:
        """Remove the record, if it is still this process's."""
        self._ended.set()
        other = _read(self.directory)
        if other is not None and other.token == self._record.token:
            (self.directory / RECORD).unlink(missing_ok=True)


@contextmanager
def held(directory: Path) -> Iterator[Holder]:
    """Yield the only use of a directory; JobBusyError when another process has it."""
    lock = filelock.FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise _busy(directory, _read(directory)) from error
    except OSError as error:
        raise JournalError(
            f"job directory {directory}: {error.strerror}; to run or continue a job, it must be "
            "writable (a finished one can be read anywhere: leadline eval)"
        ) from error
    try:
        record = Record(socket.gethostname(), _kernel(), os.getpid(), uuid.uuid4().hex)
        _refuse_living(directory, record)
        with suppress(OSError):  # a full disk: the lock is enough, and the journal names the fault
            _write(directory, record)
        holder = Holder(directory, os.stat(directory / LOCK), record)
        beating = threading.Thread(target=holder.beat, daemon=True, name="leadline-holder")
        beating.start()
        try:
            yield holder
        finally:
            holder.release()
            beating.join()
    finally:
        lock.release()


def _refuse_living(directory: Path, mine: Record) -> None:
    """Raise JobBusyError if the record of another host still counts; this takes some seconds."""
    first = last = _read(directory)
    if first is None or first.kernel == mine.kernel:  # the lock of this kernel is ours
        return
    for _ in range(N_WATCHED):
        time.sleep(BEAT_SECONDS)
        last = _read(directory)
        if last is None:
            return
        if last != first:
            raise _busy(directory, last)


def _busy(directory: Path, record: Record | None) -> JobBusyError:
    who = "" if record is None else f" ({record})"
    return JobBusyError(
        f"job directory {directory}: another process is using it{who}; "
        "wait for it or choose another with --out"
    )


def _read(directory: Path) -> Record | None:
    try:
        return msgspec.json.decode((directory / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):  # none, or damaged
        return None


def _write(directory: Path, record: Record) -> None:
    temporary = directory / f".{RECORD}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.encode(record))
    temporary.replace(directory / RECORD)


def _kernel() -> str:
    """Return what identifies the running kernel, within which locks reach everywhere."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode()}"


def _is_same(known: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(known, path.stat())
    except OSError:
        return False
