"""Files as a job writes and identifies them: replaced whole or not at all, known by their digest.

It knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from orchestrator.core.errors import JournalError, PlanError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content in one step.

    JournalError naming the file when the disk refuses; the old content then stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise JournalError(
            f"{path}: {error.strerror}; free some space or make it writable, "
            "then run the same command again"
        ) from error


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
