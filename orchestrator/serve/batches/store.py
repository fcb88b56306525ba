"""Uploaded files and batches on disk: what is there after a kill is what was promised before it.

    DATA/files/ID/       content, record.json
    DATA/batches/ID/     record.json, problems.jsonl, output.jsonl, errors.jsonl, and the job

The one rule: a directory appears under its name only when it is whole, and a record is replaced in
one step. An object belongs to the key that made it, and nobody else sees it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from orchestrator.jobs.files import make_private, write_atomically
from orchestrator.serve.protocol.faults import missing

T = TypeVar("T")
JSON = dict[str, Any]
_ID = re.compile(r"(file|batch)[-_][0-9a-f]{32}")
OUTPUT, ERRORS, PROBLEMS = "output.jsonl", "errors.jsonl", "problems.jsonl"
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(slots=True)
class FileRecord:
    """An uploaded file, or one that a batch has written; `place` is its path below the store."""

    id: str
    owner: str
    filename: str
    purpose: str
    created_at: int
    bytes: int
    place: str
    made_ns: int = field(default_factory=time.time_ns)

    def document(self) -> JSON:
        """Return it as in the protocol."""
        fields = ("id", "filename", "purpose", "created_at", "bytes")
        values = {name: getattr(self, name) for name in fields}
        return {"object": "file", "status": "processed", **values}


@dataclass(slots=True)
class BatchRecord:
    """A batch; times are Unix times by status, such as `completed_at`."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    status: str = "validating"
    metadata: dict[str, str] | None = None
    counts: dict[str, int] = field(
        default_factory=lambda: {"total": 0, "completed": 0, "failed": 0}
    )
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: list[JSON] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    made_ns: int = field(default_factory=time.time_ns)

    @property
    def is_unfinished(self) -> bool:
        """Whether there is still something to do."""
        return self.status in UNFINISHED

    def document(self) -> JSON:
        """Return it as in the protocol."""
        names = (
            *("id", "endpoint", "input_file_id", "completion_window", "created_at", "status"),
            *("metadata", "output_file_id", "error_file_id"),
        )
        errors = {"object": "list", "data": self.errors} if self.errors else None
        return {
            "object": "batch",
            **{name: getattr(self, name) for name in names},
            "request_counts": self.counts,
            "errors": errors,
            "expires_at": None,
            **{f"{name}_at": at for name, at in self.times.items()},
        }


class Store:
    """The files and batches of a directory."""

    def __init__(self, root: Path) -> None:
        """Create what is not there, and remove what a killed process did not finish."""
        self.root = root
        for name in ("files", "batches"):
            make_private(root / name)
            for leftover in (root / name).glob(".new-*"):
                shutil.rmtree(leftover)

    def add_file(self, owner: str, filename: str, purpose: str, parts: Iterable[bytes]) -> JSON:
        """Store an uploaded file; it is on disk when this returns."""
        id = _new_id("file-")
        temporary = self.root / "files" / f".new-{id}"
        make_private(temporary)
        with (temporary / "content").open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        record = FileRecord(
            id, owner, filename, purpose, int(time.time()), size, f"files/{id}/content"
        )
        write_atomically(temporary / "record.json", msgspec.json.encode(record))
        _publish(temporary, self.root / "files" / id)
        return record.document()

    def file(self, id: str, owner: str) -> FileRecord:
        """Return a file's record; Fault 404 where the owner has none."""
        return self._owned("files", "file", id, owner, FileRecord)

    def files(self, owner: str) -> list[FileRecord]:
        """Return an owner's files, the latest first."""
        return self._all("files", owner, FileRecord)

    def remove_file(self, id: str, owner: str) -> None:
        """Remove a file; what a batch has read of it remains."""
        self.file(id, owner)
        shutil.rmtree(self.root / "files" / id)

    def content(self, record: FileRecord) -> Path:
        """Return where the content of a file is."""
        return self.root / record.place

    def new_batch(self, record: BatchRecord) -> BatchRecord:
        """Store a batch unless there is one of this id, and return the one that is there."""
        place = self.directory(record.id)
        if not place.exists():
            temporary = place.with_name(f".new-{record.id}")
            make_private(temporary)
            source = self.content(self.file(record.input_file_id, record.owner))
            shutil.copyfile(source, temporary / "input.jsonl")
            write_atomically(temporary / "record.json", msgspec.json.encode(record))
            _publish(temporary, place)
        return self.batch(record.id, record.owner)

    def directory(self, id: str) -> Path:
        """Return the directory of a batch, which is that of its job."""
        return self.root / "batches" / id

    def batch(self, id: str, owner: str) -> BatchRecord:
        """Return a batch; Fault 404 where the owner has none."""
        return self._owned("batches", "batch", id, owner, BatchRecord)

    def batches(self, owner: str | None = None) -> list[BatchRecord]:
        """Return the batches of an owner, or all, the latest first."""
        return self._all("batches", owner, BatchRecord)

    def save(self, batch: BatchRecord) -> None:
        """Replace a batch's record."""
        write_atomically(self.directory(batch.id) / "record.json", msgspec.json.encode(batch))

    def publish_result(self, batch: BatchRecord, name: str) -> str:
        """Return the id of the file that a batch has written; the same each time."""
        digest = hashlib.blake2b(f"{batch.id}/{name}".encode(), digest_size=16).hexdigest()
        id, place = f"file-{digest}", f"batches/{batch.id}/{name}"
        size = (self.root / place).stat().st_size
        made = int(time.time())
        record = FileRecord(id, batch.owner, name, "batch_output", made, size, place)
        make_private(self.root / "files" / id)
        write_atomically(self.root / "files" / id / "record.json", msgspec.json.encode(record))
        return id

    def _owned(self, folder: str, what: str, id: str, owner: str, kind: type[T]) -> T:
        path = self.root / folder / id / "record.json"
        if not _ID.fullmatch(id) or not path.is_file():
            raise missing(what, id)
        record = msgspec.json.decode(path.read_bytes(), type=kind)
        if getattr(record, "owner", None) != owner:
            raise missing(what, id)
        return record

    def _all(self, folder: str, owner: str | None, kind: type[T]) -> list[T]:
        paths = (self.root / folder).glob("[!.]*/record.json")
        records: list[Any] = [msgspec.json.decode(p.read_bytes(), type=kind) for p in paths]
        own = (r for r in records if owner is None or r.owner == owner)
        return sorted(own, key=made, reverse=True)


def made(record: FileRecord | BatchRecord) -> tuple[int, int]:
    """Return when a record was made, finer than the protocol's seconds, to sort by."""
    return record.created_at, record.made_ns


def batch_id(owner: str, key: str | None) -> str:
    """Return a new id, or the one that belongs to an owner's idempotency key."""
    if key is None:
        return _new_id("batch_")
    digest = hashlib.blake2b(f"{owner}\0{key}".encode(), digest_size=16).hexdigest()
    return f"batch_{digest}"


def _new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


def _publish(temporary: Path, place: Path) -> None:
    """Give a directory its name, so that it survives a power cut too."""
    temporary.rename(place)
    descriptor = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
