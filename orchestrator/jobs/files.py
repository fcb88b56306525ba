"""Atomic writes and digests of a job's files: a file is replaced as a whole or not at all.

Not covered: the content of the files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from orchestrator.core.errors import JournalError, PlanError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content in one step, as `write_parts_atomically` does."""
    write_parts_atomically(path, (content,))


def write_parts_atomically(path: Path, parts: Iterable[bytes]) -> None:
    """Replace a file's content in one step; the parts are written one after another.

    JournalError naming the file when the write fails; the old content then remains.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise JournalError(
            f"{path}: {error.strerror}; {_remedy(error)}, then run the same command again"
        ) from error


def make_private(directory: Path) -> None:
    """Create a directory that only its owner can enter; an existing one stays as it is.

    Prompts, answers and the errors of servers are nobody else's business. OSError when that fails.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files of writers that were killed; no other writer may be active."""
    for path in directory.glob(".*.*"):
        if re.fullmatch(r"\.[\w.-]+\.\d+", path.name) and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def _remedy(error: OSError) -> str:
    """Return what helps against a failed write."""
    remedies = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some of your quota",
        errno.EROFS: "its file system is read-only: make it writable",
        errno.EACCES: "make its directory writable",
        errno.EPERM: "make its directory writable",
        errno.ENOENT: "restore its directory, which was removed",
        errno.EISDIR: "remove the directory of that name",
        errno.EIO: "check the disk",
    }
    return remedies.get(error.errno or 0, "make it writable")


def indented_json(value: object) -> bytes:
    """Return a value as indented JSON that ends with a line feed."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def sha256(path: Path) -> str:
    """Return the digest of a file's content; PlanError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
