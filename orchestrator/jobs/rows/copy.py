"""The copy that a job keeps of rows from elsewhere: one JSONL file in its directory.

What cannot be read again as it was, standard input above all, is read once and kept, so that the
job can be resumed, shown and evaluated without its source. A copied row has the field `_leadline`
for its place, and its error if it has one; so the copy reads back as the same rows.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.core.errors import JournalError
from orchestrator.jobs.rows.reading import COPIED, Row, Rows
from orchestrator.jobs.rows.record import Format

COPY_FILE = "problems-copy.jsonl"


def write_copy(rows: Rows, directory: Path, limit: int = 0) -> Copy:
    """Return a new copy of the rows, of the first `limit` if that is not 0; not yet in its place.

    PlanError when they cannot be read, JournalError when the copy cannot be written.
    """
    path = directory / f".{COPY_FILE}.{os.getpid()}"
    copy = Copy(path, directory / COPY_FILE)
    encode, digest = msgspec.json.Encoder().encode, hashlib.sha256()
    guesses: dict[tuple[str, str], None] = {}
    try:
        with path.open("wb") as file:
            for n, row in enumerate(rows, start=1):
                guesses.update(dict.fromkeys(row.guess))
                line = _line(row, encode)
                digest.update(line)
                file.write(line)
                if n == limit:
                    break
    except OSError as error:
        copy.discard()
        raise JournalError(f"{path}: {error.strerror}; free some space") from error
    except BaseException:  # also on Ctrl-C: half a copy must not stay
        copy.discard()
        raise
    copy.sha256, copy.guesses = digest.hexdigest(), tuple(guesses)
    return copy


class Copy:
    """A copy that is not yet in its place, with its digest and the guesses about columns."""

    def __init__(self, written: Path, path: Path) -> None:
        self.written = written
        self.path = path
        self.sha256 = ""
        self.guesses: tuple[tuple[str, str], ...] = ()

    def keep(self) -> None:
        """Put the copy in its place, instead of an earlier one."""
        self.written.replace(self.path)

    def discard(self) -> None:
        """Remove the copy."""
        self.written.unlink(missing_ok=True)


def _line(row: Row, encode: Any) -> bytes:
    origin: dict[str, object] = {"place": row.place}
    if row.error:
        origin["error"] = row.error
    if row.derived:
        origin["derived"] = True
    if row.format is Format.OPENAI_BATCH:
        origin["format"] = row.format.value
    try:
        return bytes(encode({"id": row.id, **row.fields, COPIED: origin})) + b"\n"
    except (TypeError, ValueError) as error:  # a Parquet value that JSON has no form for
        origin["error"] = row.error or f"a field cannot be kept as JSON: {error}"
        return bytes(encode({"id": row.id, COPIED: origin})) + b"\n"
