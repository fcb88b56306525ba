"""Reads JSONL and JSON arrays, row by row.

Not covered: OpenAI batches, which are JSONL whose rows have another meaning
(`orchestrator.jobs.openai_batch`).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.jobs.rows.record import BOM, Document, Record, shortened

_CHUNK = 1 << 20  # bytes
_TAIL = 16  # characters: more than the longest literal of JSON
_BLANK = re.compile(r"[ \t\r\n]*")


def jsonl(document: Document) -> Iterator[Record]:
    """Yield the rows of a JSONL file, blank lines skipped."""
    for line, text in lines(document):
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
            yield Record(line, {}, f"{error}{hint}")
            continue
        if isinstance(value, dict):
            yield Record(line, value)
        else:
            yield Record(line, {}, f"a row is an object, {{...}}, not {shortened(text)}")


def json_array(document: Document) -> Iterator[Record]:
    """Yield the elements of a file that is one JSON array; only some of it is in memory."""
    try:
        for position, value in enumerate(_elements(document), start=1):
            is_row = isinstance(value, dict)
            fault = "" if is_row else f"a row is an object, {{...}}, not {shortened(repr(value))}"
            yield Record(position, value if is_row else {}, fault)
    except (ValueError, RecursionError) as error:
        raise PlanError(
            f"{document.name} begins with [ but is not a JSON array: {error}"
        ) from error


def _elements(document: Document) -> Iterator[Any]:
    chunks = _chunks(document)
    decode = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
    text = next(chunks, "").removeprefix("\ufeff")
    place = _skip(text, 0) + 1  # behind the bracket
    is_first = True
    while True:
        while (place := _skip(text, place)) >= len(text):
            text, place = _more(chunks, ""), 0
        if text[place] == "]" and is_first:
            break
        while True:
            try:
                value, end = decode(text, place)
            except json.JSONDecodeError as error:
                # near the end of the text, the element may continue in the next chunk
                is_open = error.msg.startswith("Unterminated") or error.pos > len(text) - _TAIL
                if not is_open or (chunk := next(chunks, "")) == "":
                    raise
                text, place = text[place:] + chunk, 0
                continue
            break
        yield value
        place, is_first = end, False
        while (place := _skip(text, place)) >= len(text):
            text, place = _more(chunks, ""), 0
        if text[place] == "]":
            break
        if text[place] != ",":
            raise ValueError(f"expected , or ] instead of {shortened(text[place:])!r}")
        place += 1
    for rest in (text[place + 1 :], *chunks):
        if rest.strip():
            raise ValueError(f"there is more behind its end: {shortened(rest)!r}")


def _skip(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    return match.end() if match else place


def _more(chunks: Iterator[str], rest: str) -> str:
    chunk = next(chunks, "")
    if not chunk:
        raise ValueError("it ends before the array does")
    return rest + chunk


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}: write null")


def _chunks(document: Document) -> Iterator[str]:
    """Yield the text of a document piece by piece; an array may be one long line."""
    decoder, n_before = codecs.getincrementaldecoder("utf-8")(), 0
    with document.open() as file:
        while True:
            raw = file.read(_CHUNK)
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                raise PlanError(
                    f"{document.name}: byte {n_before + error.start + 1} is not UTF-8; convert the "
                    f"file, e.g. iconv -f CP1252 -t UTF-8 {document.label}"
                ) from error
            n_before += len(raw)
            if text:
                yield text
            if not raw:
                return


def lines(document: Document) -> Iterator[tuple[int, str]]:
    """Yield (line number, text), split at line feeds only.

    JSON and CSV may hold every other kind of line end. PlanError for text that is not UTF-8.
    """
    with document.open() as file:
        for line, raw in enumerate(file, start=1):
            try:
                yield line, (raw.removeprefix(BOM) if line == 1 else raw).decode()
            except UnicodeDecodeError as error:
                raise PlanError(
                    f"{document.name}:{line}: byte {error.start + 1} is not UTF-8; convert the "
                    f"file, e.g. iconv -f CP1252 -t UTF-8 {document.label}"
                ) from error
