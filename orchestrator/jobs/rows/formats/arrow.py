"""Reads Parquet, and Arrow files and streams, batch by batch; pyarrow is an extra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from orchestrator.core.errors import PlanError
from orchestrator.jobs.rows.record import Document, Record

_N_ROWS = 1024  # of a batch
_BUFFER_BYTES = 1 << 20  # of a column of Parquet: without a buffer pyarrow reads a row group whole
_FILE = b"ARROW1"  # an Arrow file begins with it, a stream does not


def parquet(document: Document) -> Iterator[Record]:
    """Yield the rows of a Parquet file."""
    _require_pyarrow(document)
    from pyarrow import parquet as pq

    def batches(file: BinaryIO) -> Iterator[Any]:
        with pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as table:
            yield from table.iter_batches(batch_size=_N_ROWS)

    yield from _records(document, batches, "Parquet")


def arrow(document: Document) -> Iterator[Record]:
    """Yield the rows of an Arrow file or stream."""
    _require_pyarrow(document)
    from pyarrow import ipc

    def batches(file: BinaryIO) -> Iterator[Any]:
        is_file = file.read(len(_FILE)) == _FILE
        file.seek(0)
        if not is_file:
            with ipc.open_stream(file) as stream:
                yield from stream
            return
        with ipc.open_file(file) as table:
            for i in range(table.num_record_batches):
                yield table.get_batch(i)

    yield from _records(document, batches, "Arrow")


def _records(document: Document, batches: Any, kind: str) -> Iterator[Record]:
    import pyarrow

    line = 0
    try:
        with document.open() as file:
            for batch in batches(file):
                for start in range(0, batch.num_rows, _N_ROWS):
                    for fields in batch.slice(start, _N_ROWS).to_pylist():
                        line += 1
                        yield Record(line, fields, in_table=True)
    # damaged files raise the plain errors too
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise PlanError(
            f"{document.name} cannot be read as {kind} (after row {line}): {error}; restore the "
            "file or write it again"
        ) from error


def _require_pyarrow(document: Document) -> None:
    try:
        import pyarrow  # noqa: F401 - an extra; and a second to import
    except ImportError as error:
        raise PlanError(
            f"{document.name}: reading Parquet and Arrow needs pyarrow: "
            "pip install 'leadline[parquet]'"
        ) from error
