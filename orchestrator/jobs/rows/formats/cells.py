"""Reads files of cells: CSV, TSV and the like, with any delimiter.

The delimiter is a tab in a .tsv file; elsewhere the one of comma, semicolon, tab and bar that
splits the header into most columns, the comma first.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from orchestrator.core.errors import PlanError
from orchestrator.jobs.rows.formats.text import lines
from orchestrator.jobs.rows.record import Document, Record

# of a field, in characters: the csv module's own default (131,072) is less than a long context
_FIELD_LIMIT = 2**31 - 1
_DELIMITERS = (",", ";", "\t", "|")


def cells(document: Document) -> Iterator[Record]:
    """Yield the rows below the header; empty cells are left out."""
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        delimiter = "\t" if document.suffix in (".tsv", ".tab") else _delimiter(document)
        # strict: a quote in the wrong place is an error of its row, not a guess
        texts = (text for _, text in lines(document))
        reader = csv.reader(texts, strict=True, delimiter=delimiter)
        header: list[str] | None = None
        while True:
            start = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                if header is None:
                    raise PlanError(
                        f"{document.name}:{start}: the header is not CSV: {error}"
                    ) from error
                fault = f"{error}; put fields with quotes in quotes and double the inner ones"
                yield Record(start, {}, fault, in_cells=True)
                continue
            if row is None:
                return
            if not any(row):
                continue
            if header is None:
                header = _header(document, row)
            else:
                yield _record(start, header, row, delimiter)
    finally:
        csv.field_size_limit(limit)


def _record(line: int, header: list[str], row: list[str], delimiter: str) -> Record:
    if len(row) != len(header):
        names = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
        fault = (
            f"it has {len(row)} fields and the header {len(header)}; "
            f"put fields with {names[delimiter]} in quotes"
        )
        return Record(line, {}, fault, in_cells=True)
    fields = {name: cell or None for name, cell in zip(header, row, strict=True)}
    return Record(line, fields, in_cells=True, in_table=True)


def _delimiter(document: Document) -> str:
    header = next((text for _, text in lines(document) if text.strip()), "")

    def n_columns(delimiter: str) -> int:
        try:
            return len(next(csv.reader([header], delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(_DELIMITERS, key=n_columns)  # of equals the first


def _header(document: Document, row: list[str]) -> list[str]:
    names = [cell.strip() for cell in row]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(
            f"{document.name}: the header has {twice[0]!r} twice; rename one of the columns"
        )
    return names
