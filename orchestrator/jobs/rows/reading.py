"""From a location to its rows, one at a time, each with its id and its place.

Responsible for ids and for which reader a document needs. `orchestrator.jobs.problems` builds
Problems from rows and `orchestrator.studies.evaluate` reads reference answers from them, so both
agree on which row is which. An invalid row is a Row with an `error`; an unreadable file is a
PlanError. Prompts are used only to derive the id of a row that has none.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.jobs.openai_batch import is_batch_row, problem_fields
from orchestrator.jobs.rows.columns import Guess, Mapper, no_question
from orchestrator.jobs.rows.content.media import MediaFault, with_files
from orchestrator.jobs.rows.formats.arrow import arrow, parquet
from orchestrator.jobs.rows.formats.cells import cells
from orchestrator.jobs.rows.formats.text import json_array, jsonl
from orchestrator.jobs.rows.location import documents, remote_errors
from orchestrator.jobs.rows.record import BOM, Document, Format, Record, shortened
from orchestrator.plan.file.sources import Location
from orchestrator.plan.keys import Columns

COPIED = "_leadline"  # the field of a copied row for what it was where it came from
_HEAD_BYTES = 8192
_SUFFIXES = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".tab": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".feather": Format.ARROW,
    ".ipc": Format.ARROW,
}
_READERS = {
    Format.JSONL: jsonl,
    Format.JSON: json_array,
    Format.OPENAI_BATCH: jsonl,
    Format.COPY: jsonl,
    Format.CSV: cells,
    Format.PARQUET: parquet,
    Format.ARROW: arrow,
}
_CACHE_KIB = 65_536  # of the table of ids; a larger one is on disk


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `error`, if not empty, is the reason why the row is invalid.

    `line` is its first line, from 1 (in Parquet and JSON: the number of the row), `place` its file
    and line. `id` is the row's own, or derived (`derived`), or its place if it has no usable one.
    Absent values are left out of `fields`, never None. An OpenAI batch row is flattened: `messages`
    or `prompt` are added to its top-level fields, and the rest of its body is under `body`.
    `guess` names the fields that were read from columns of other names.
    """

    line: int
    id: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    derived: bool = False
    place: str = ""
    format: Format = Format.JSONL
    guess: Guess = ()


def has_problem_suffix(path: str | Path) -> bool:
    """Tell whether a path ends like that of a problem file: .jsonl, .csv, .parquet and so on."""
    return Path(path).suffix.lower() in _SUFFIXES


def is_problem_file(text: str) -> bool:
    """Tell whether a text is a file, or is meant as one: one word with a suffix of such files."""
    if has_problem_suffix(text) and not any(map(str.isspace, text)):
        return True
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def detect_format(document: Document) -> Format:
    """Return the format of a document, by suffix and content.

    PlanError when it is missing, a directory, empty, binary or in no such format. A JSONL file
    whose first well-formed row has `custom_id` and `body` is an OpenAI batch.
    """
    if document.records is not None:
        return Format.ARROW
    name, head = document.name, _head(document)
    if head.startswith(b"PAR1"):
        return Format.PARQUET
    suffix = _SUFFIXES.get(document.suffix)
    if head.startswith(b"ARROW1") or suffix is Format.ARROW:
        return Format.ARROW
    if suffix is Format.PARQUET:
        raise PlanError(
            f"{name} is named {document.suffix} but is not a Parquet file (it does not begin with "
            "PAR1)"
        )
    _require_utf8(document, head)
    text = head.removeprefix(BOM).lstrip()
    if suffix is Format.CSV or (
        suffix is None and document.label == "stdin" and text[:1] not in b"{["
    ):
        return Format.CSV
    if suffix is None and not text.startswith((b"{", b"[")):
        raise PlanError(
            f"{name}: its name does not show its format; let it end in .jsonl, .csv, .tsv, "
            ".parquet or .arrow"
        )
    if document.suffix in (".json", "") and text.startswith(b"["):
        return Format.JSON
    first = next((r.fields for r in jsonl(document) if not r.error), {})
    if COPIED in first:
        return Format.COPY
    return Format.OPENAI_BATCH if is_batch_row(first) else Format.JSONL


def _require_utf8(document: Document, head: bytes) -> None:
    name = document.name
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PlanError(f"{name} is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {document.label}")
    if b"\0" in head:
        raise PlanError(
            f"{name} is a binary file; problems are read from JSONL, JSON, CSV, Parquet or Arrow"
        )


class Rows:
    """The rows of a location, in order, blank lines skipped; they can be read again.

    A row without an id gets one derived from its prompt or messages alone, so it survives
    reordering and added answers or tags. A row that repeats an earlier row's id is invalid.
    PlanError when there is nothing to read, or when a file as a whole is not in its format.
    """

    def __init__(self, location: Location, columns: Columns | None = None) -> None:
        self._columns = columns or Columns()
        self._location = location
        self._formats: dict[str, Format] = {}
        self.documents = documents(location)

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows."""
        ids = _Ids()
        mapper = Mapper(self._columns, str(self._location))
        is_one = len(self.documents) == 1
        for document in self.documents:
            yield from self._of(document, mapper, ids, is_one)
        mapper.finish()

    def format(self) -> Format:
        """Return the format of the first document."""
        return self._format(self.documents[0])

    def _format(self, document: Document) -> Format:
        if document.label not in self._formats:
            self._formats[document.label] = detect_format(document)
        return self._formats[document.label]

    def _of(self, document: Document, mapper: Mapper, ids: _Ids, is_one: bool) -> Iterator[Row]:
        kind = self._format(document)
        reserved = re.compile(rf"{re.escape(document.label)}:\d+")
        for record in _records(document, kind):
            place = f"{document.label}:{record.line}"
            if kind is Format.COPY:
                yield _copied(record, place)
                continue
            fields, error, guess = _fields(record, kind, mapper)
            fields, error = self._with_files(fields, error)
            own_id = fields.pop("id", None)
            id, fault = ("", "") if record.error else _identified(own_id, fields)
            # A row that is wrong in another way still owns its id: results, OpenAI batch lines
            # above all, are joined by it.
            if id and (owner := ids.owner(id, f"line {record.line}" if is_one else place)):
                whose = (
                    "without an id of its own, its prompt" if own_id is None else f"its id {id!r}"
                )
                fault = f"{whose} is already that of {owner}; give each row a different id"
            elif reserved.fullmatch(id):
                fault = f"its id {id!r} is kept for rows without a usable id; choose another"
            if fault or not id:
                id = place
            derived = own_id is None
            yield Row(record.line, id, fields, error or fault, derived, place, kind, guess)

    def _with_files(self, fields: dict[str, Any], error: str) -> tuple[dict[str, Any], str]:
        """Return fields with local media as data, where the columns name their folder."""
        if error or not self._columns.media:
            return fields, error
        try:
            return with_files(fields, Path(self._columns.media)), ""
        except MediaFault as fault:
            return fields, str(fault)


def _records(document: Document, kind: Format) -> Iterator[Record]:
    records = document.records() if document.records else _READERS[kind](document)
    if not document.is_remote:
        yield from records
        return
    with remote_errors(document.name):
        yield from records


def _fields(record: Record, kind: Format, mapper: Mapper) -> tuple[dict[str, Any], str, Guess]:
    if record.error:
        return {}, record.error, ()
    if kind is Format.OPENAI_BATCH:
        fields, error = problem_fields({k: v for k, v in record.fields.items() if v is not None})
        return dict(fields), error, ()
    return mapper.mapped(record)


def _copied(record: Record, place: str) -> Row:
    """Return a row of a copy as it was where it came from."""
    fields = dict(record.fields)
    origin = fields.pop(COPIED, None)
    if record.error or not isinstance(origin, dict):
        return Row(record.line, place, {}, record.error or "it is no row of a copy", False, place)
    return Row(
        record.line,
        str(fields.pop("id", place)),
        fields,
        str(origin.get("error", "")),
        bool(origin.get("derived", False)),
        str(origin.get("place", place)),
        Format(origin.get("format", Format.JSONL)),
    )


def row_from(fields: Mapping[str, Any], mapper: Mapper | None = None) -> Row:
    """Return a row that comes from no file: its line is 0, its id "" if it has no usable one."""
    rest, error, guess = (mapper or Mapper(Columns(), "")).mapped(Record(0, fields))
    own_id = rest.pop("id", None)
    id, fault = _identified(own_id, rest)
    return Row(0, id, rest, error or fault, derived=own_id is None, guess=guess)


class _Ids:
    """The ids of a location so far, with the places of their rows; many are on disk."""

    def __init__(self) -> None:
        # a private database without a name, which is deleted when it is closed
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute("CREATE TABLE ids (digest INTEGER PRIMARY KEY, place TEXT)")
        self._db.execute("BEGIN")

    def owner(self, id: str, place: str) -> str:
        """Return the place of the earlier row with this id, or "" and note this one."""
        digest = hashlib.blake2b(id.encode(errors="surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest, "big", signed=True)
        if self._db.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (key, place)).rowcount:
            return ""
        return str(self._db.execute("SELECT place FROM ids WHERE digest = ?", (key,)).fetchone()[0])

    def __del__(self) -> None:
        """Delete the ids."""
        self._db.close()


def _identified(own_id: object, fields: Mapping[str, Any]) -> tuple[str, str]:
    return _derived_id(fields) if own_id is None else _own_id(own_id)


def _own_id(own_id: object) -> tuple[str, str]:
    if isinstance(own_id, str) and own_id.strip():
        return own_id, ""
    if isinstance(own_id, int) and not isinstance(own_id, bool):
        return str(own_id), ""
    given = shortened(repr(own_id))
    return "", f"its id is {given}; an id must be a non-empty text or a whole number"


def _derived_id(fields: Mapping[str, Any]) -> tuple[str, str]:
    question = [fields.get("prompt"), fields.get("messages")]
    if question == [None, None]:
        return "", no_question(fields)
    try:
        text = msgspec.json.encode(question, order="deterministic")
    except (TypeError, ValueError) as error:  # a Parquet value that JSON has no form for
        return "", f"no id can be derived from its prompt: {error}"
    return "q-" + hashlib.blake2b(text, digest_size=8).hexdigest(), ""


def _head(document: Document) -> bytes:
    with document.open() as file:
        head = file.read(_HEAD_BYTES)
    if not head.removeprefix(BOM):
        raise PlanError(f"{document.name} is empty; write one problem per line")
    return head
