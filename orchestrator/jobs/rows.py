"""From a file to its rows, one at a time: JSONL, JSON, CSV, Parquet and OpenAI batch JSONL.

Responsible for formats, encodings and ids only. `orchestrator.jobs.problems` builds Problems from
rows and `orchestrator.studies.evaluate` reads reference answers from them, so both agree on which
row is which. An invalid row is a Row with an `error`; an unreadable file is a PlanError. Prompts
are used only to derive the id of a row that has none.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.jobs.openai_batch import is_batch_row, problem_fields

_HEAD_BYTES = 8192
_BOM = b"\xef\xbb\xbf"
# of a CSV field, in characters: the csv module's own default (131,072) is less than a long context
_FIELD_LIMIT = 2**31 - 1


class Format(StrEnum):
    """How a file of problems is written."""

    JSONL = "jsonl"
    JSON = "json"  # one array of rows
    CSV = "csv"
    PARQUET = "parquet"
    OPENAI_BATCH = "openai-batch"


_SUFFIXES = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}
_MISNOMERS = frozenset(
    {"question", "problem", "query", "input", "instruction", "text", "prompts", "message"}
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `error`, if not empty, is the reason why the row is invalid.

    `line` is its first line, from 1 (in Parquet and JSON: the number of the row). `id` is the row's
    own, or derived (`derived`), or `file:line` if it has no usable one. Absent values are left out
    of `fields`, never None. An OpenAI batch row is flattened: `messages` or `prompt` are added to
    its top-level fields, and the rest of its body is under `body`.
    """

    line: int
    id: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    derived: bool = False


@dataclass(frozen=True, slots=True)
class _Record:
    line: int
    fields: Mapping[str, Any]
    error: str = ""


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


def detect_format(path: Path) -> Format:
    """Return the format of a file, by suffix and content.

    PlanError when it is missing, a directory, empty, binary or in no such format. A JSONL file
    whose first well-formed row has `custom_id` and `body` is an OpenAI batch.
    """
    if match := re.fullmatch(r"([a-z][a-z0-9+.-]+):/+(.*)", str(path)):  # Path drops a slash
        raise PlanError(
            f"{match[1]}://{match[2]} is an address, and only local files are read: download it "
            "and name the file"
        )
    head = _head(path)
    if head.startswith(b"PAR1"):
        return Format.PARQUET
    suffix = _SUFFIXES.get(path.suffix.lower())
    if suffix is Format.PARQUET:
        raise PlanError(
            f"{path} is named {path.suffix} but is not a Parquet file (it does not begin with PAR1)"
        )
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PlanError(f"{path} is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {path.name}")
    if b"\0" in head:
        raise PlanError(f"{path} is a binary file; problems are read from JSONL, CSV or Parquet")
    text = head.removeprefix(_BOM).lstrip()
    if suffix is None and not text.startswith(b"{"):
        raise PlanError(
            f"{path}: its name does not show its format; let it end in .jsonl, .csv or .parquet"
        )
    if suffix is Format.CSV:
        return Format.CSV
    if path.suffix.lower() == ".json" and text.startswith(b"["):
        return Format.JSON
    first = next((r.fields for r in _jsonl(path) if not r.error), {})
    return Format.OPENAI_BATCH if is_batch_row(first) else Format.JSONL


def iter_rows(path: Path, kind: Format) -> Iterator[Row]:
    """Yield the rows of a file in order, blank lines skipped.

    A row without an id gets one derived from its prompt or messages alone, so it survives
    reordering and added answers or tags. A row that repeats an earlier row's id is invalid.
    PlanError when the file as a whole is not in this format.
    """
    owners: dict[str, int] = {}  # id -> the line that has it
    reserved = re.compile(rf"{re.escape(path.name)}:\d+")
    for record in _READERS[kind](path):
        fields = {name: value for name, value in record.fields.items() if value is not None}
        error = record.error
        if kind is Format.OPENAI_BATCH and not error:
            fields, error = problem_fields(fields)
        own_id = fields.pop("id", None)
        id, fault = ("", "") if record.error else _identified(own_id, fields)
        # A row that is wrong in another way still owns its id: results, OpenAI batch lines above
        # all, are joined by it.
        if id and owners.setdefault(id, record.line) != record.line:
            whose = "without an id of its own, its prompt" if own_id is None else f"its id {id!r}"
            fault = f"{whose} is already that of line {owners[id]}; give each row a different id"
        elif reserved.fullmatch(id):
            fault = f"its id {id!r} is kept for rows without a usable id; choose another"
        if fault or not id:
            id = f"{path.name}:{record.line}"
        yield Row(record.line, id, fields, error or fault, derived=own_id is None)


def row_from(fields: Mapping[str, Any]) -> Row:
    """Return a row that comes from no file: its line is 0, its id "" if it has no usable one."""
    rest = {name: value for name, value in fields.items() if value is not None}
    own_id = rest.pop("id", None)
    id, fault = _identified(own_id, rest)
    return Row(0, id, rest, fault, derived=own_id is None)


def _identified(own_id: object, fields: Mapping[str, Any]) -> tuple[str, str]:
    return _derived_id(fields) if own_id is None else _own_id(own_id)


def _own_id(own_id: object) -> tuple[str, str]:
    if isinstance(own_id, str) and own_id.strip():
        return own_id, ""
    if isinstance(own_id, int) and not isinstance(own_id, bool):
        return str(own_id), ""
    shortened = _shortened(repr(own_id))
    return "", f"its id is {shortened}; an id must be a non-empty text or a whole number"


def _derived_id(fields: Mapping[str, Any]) -> tuple[str, str]:
    question = [fields.get("prompt"), fields.get("messages")]
    if question == [None, None]:
        return "", no_question(fields)
    try:
        text = msgspec.json.encode(question, order="deterministic")
    except (TypeError, ValueError) as error:  # a Parquet value that JSON has no form for
        return "", f"no id can be derived from its prompt: {error}"
    return "q-" + hashlib.blake2b(text, digest_size=8).hexdigest(), ""


def no_question(fields: Mapping[str, Any]) -> str:
    """Return the error of a row without a question, naming the field that was probably meant."""
    meant = next((name for name in fields if name.lower() in _MISNOMERS), None)
    hint = f"; rename {meant!r} to 'prompt'" if meant else ""
    return f"it has neither 'prompt' nor 'messages'{hint}"


def _jsonl(path: Path) -> Iterator[_Record]:
    for line, text in _lines(path):
        if not text.strip():
            continue
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            hint = (
                "; JSON has no NaN or Infinity: write null"
                if re.search(r"\b(NaN|Infinity)\b", text)
                else ""
            )
            yield _Record(line, {}, f"{error}{hint}")
            continue
        if isinstance(value, dict):
            yield _Record(line, value)
        else:
            yield _Record(line, {}, f"a row is an object, {{...}}, not {_shortened(text)}")


def _json(path: Path) -> Iterator[_Record]:
    try:
        values = msgspec.json.decode(path.read_bytes().removeprefix(_BOM), type=list[Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise PlanError(f"{path} begins with [ but is not a JSON array: {error}") from error
    for position, value in enumerate(values, start=1):
        is_row = isinstance(value, dict)
        fault = "" if is_row else f"a row is an object, {{...}}, not {_shortened(repr(value))}"
        yield _Record(position, value if is_row else {}, fault)


def _csv(path: Path) -> Iterator[_Record]:
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        # strict: a quote in the wrong place is an error of its row, not a guess
        reader = csv.reader((text for _, text in _lines(path)), strict=True)
        header: list[str] | None = None
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if header is None:
                    raise PlanError(f"{path}:{start}: the header is not CSV: {error}") from error
                yield _Record(
                    start,
                    {},
                    f"{error}; put fields with quotes in quotes and double the inner ones",
                )
                continue
            if cells is None:
                return
            if not any(cells):
                continue
            if header is None:
                header = _header(path, cells)
            elif len(cells) != len(header):
                yield _Record(
                    start,
                    {},
                    f"it has {len(cells)} fields and the header {len(header)}; "
                    "put fields with commas in quotes",
                )
            else:
                yield _Record(
                    start, {name: cell for name, cell in zip(header, cells, strict=True) if cell}
                )
    finally:
        csv.field_size_limit(limit)


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(f"{path}: the header has {twice[0]!r} twice; rename one of the columns")
    if not {"id", "prompt", "messages"} & set(names):
        raise PlanError(
            f"{path}: the first line must be a header with 'prompt' or 'messages'; "
            f"it has {_shortened(', '.join(names))}"
        )
    return names


def _parquet(path: Path) -> Iterator[_Record]:
    try:
        import pyarrow  # an extra; and a second to import
        from pyarrow import parquet
    except ImportError as error:
        raise PlanError(
            f"{path}: reading Parquet needs pyarrow: pip install 'leadline[parquet]'"
        ) from error
    line = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                for fields in batch.to_pylist():
                    line += 1
                    yield _Record(line, fields)
    # damaged files raise the plain errors too
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise PlanError(
            f"{path} cannot be read as Parquet (after row {line}): {error}; restore the file or "
            "write it again"
        ) from error


_READERS = {
    Format.JSONL: _jsonl,
    Format.JSON: _json,
    Format.OPENAI_BATCH: _jsonl,
    Format.CSV: _csv,
    Format.PARQUET: _parquet,
}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text), split at line feeds only.

    JSON and CSV may hold every other kind of line end.
    """
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                yield line, (raw.removeprefix(_BOM) if line == 1 else raw).decode()
            except UnicodeDecodeError as error:
                raise PlanError(
                    f"{path}:{line}: byte {error.start + 1} is not UTF-8; convert the file, "
                    f"e.g. iconv -f CP1252 -t UTF-8 {path.name}"
                ) from error


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise PlanError(f"{path} is a directory; name the file of problems in it")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise PlanError(f"there is no file {path}") from error
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
    if not head.removeprefix(_BOM):
        raise PlanError(f"{path} is empty; write one problem per line")
    return head


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 60 else f"{text[:57]}..."
