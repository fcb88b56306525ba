"""What a reader of one format takes and gives: a document, and its records with their places.

A reader is a function from a document to records. It knows nothing of columns, ids and problems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Any, BinaryIO

BOM = b"\xef\xbb\xbf"
_COMPRESSED = {".gz", ".bz2", ".xz"}


class Format(StrEnum):
    """How a file of problems is written."""

    JSONL = "jsonl"
    JSON = "json"  # one array of rows
    CSV = "csv"  # with any delimiter
    PARQUET = "parquet"
    ARROW = "arrow"  # a file or a stream
    OPENAI_BATCH = "openai-batch"
    COPY = "copy"  # JSONL that a job wrote of rows from elsewhere (`orchestrator.jobs.rows.copy`)


@dataclass(frozen=True, slots=True)
class Document:
    """One file of rows; `name` is its name in errors, `label` the one in the places of rows.

    `open` returns its content from the start, decompressed, each time it is called. A document of
    a library that reads its own formats has `records` instead.
    """

    name: str
    label: str
    open: Callable[[], BinaryIO]
    records: Callable[[], Iterator[Record]] | None = None
    is_remote: bool = False

    @property
    def suffix(self) -> str:
        """The suffix that shows the format, in lower case."""
        path = PurePath(self.label)
        return (PurePath(path.stem) if path.suffix.lower() in _COMPRESSED else path).suffix.lower()


@dataclass(frozen=True, slots=True)
class Record:
    """One row as its format has it; `line` is its first line or its number, from 1.

    `error`, if not empty, is why it cannot be read. `in_cells`: its values are cells of a text
    file; `in_table`: all rows of its file have the same columns.
    """

    line: int
    fields: Mapping[str, Any]
    error: str = ""
    in_cells: bool = False
    in_table: bool = False


def shortened(text: str) -> str:
    """Return the first 60 characters of a text, for a message."""
    text = text.strip()
    return text if len(text) <= 60 else f"{text[:57]}..."
