"""Events and results as rows of the journal's tables, and back.

The one rule: a row ends with the checksum of what stands before it. Not covered: what the body of a
row looks like (`stored`), and which file it is in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from orchestrator.core.errors import JournalError
from orchestrator.core.values import Result
from orchestrator.jobs.journal.database import checksum
from orchestrator.jobs.journal.events import Arrived, DamagedRow, Stopped
from orchestrator.jobs.journal.stored import (
    decode_result,
    decode_trace,
    encode_result,
    encode_trace,
    packed,
    unpacked,
)

Row: TypeAlias = tuple[Any, ...]
EVENT = ("problem", "ordinal", "elapsed", "body", "tokens", "id_bytes", "checksum")
RESULT = ("problem", "body", "checksum")
PROBLEM = ("problem", "digest", "plan")


def stored_event(path: Path, event: Arrived | Stopped) -> Row:
    """Return the row of an event; JournalError for a trace that could not be read again."""
    elapsed = float(event.elapsed)
    if isinstance(event, Stopped):
        return _checked((event.problem_id, None, elapsed, event.reason.encode(), None, None))
    trace = event.trace
    try:
        body, (tokens, id_bytes) = encode_trace(trace), packed(trace.token_ids)
    # a UnicodeEncodeError is a ValueError
    except (ValueError, TypeError, OverflowError) as error:
        raise JournalError(
            f"{path}: trace {trace.ordinal} of problem {event.problem_id} cannot be written: "
            f"{error}; fix the engine or verifier that produced it"
        ) from error
    return _checked((event.problem_id, trace.ordinal, elapsed, body, tokens, id_bytes))


def stored_result(result: Result) -> Row:
    """Return the row of a result."""
    row = (result.problem_id, encode_result(result))
    return (*row, checksum(*row))


def event_of(path: Path, row: Row, *, with_ids: bool = True) -> Arrived | Stopped:
    """Return the event of a row; DamagedRow if it was changed or cannot be read."""
    problem_id, ordinal, elapsed, body, tokens, id_bytes, written = row
    with _guarded(path, "events", problem_id, written, row):
        if ordinal is None:
            return Stopped(problem_id, body.decode(), elapsed)
        ids = unpacked(tokens, id_bytes) if with_ids else ()
        return Arrived(problem_id, decode_trace(body, ids), elapsed)


def result_of(path: Path, row: Row) -> Result:
    """Return the result of a row; DamagedRow if it was changed or cannot be read."""
    problem_id, body, written = row
    with _guarded(path, "results", problem_id, written, row):
        return decode_result(body)


def require_intact_result(path: Path, row: Row) -> None:
    """Raise DamagedRow if a result was changed or, without a checksum, cannot be read."""
    if row[-1] is None or row[-1] != checksum(*row[:-1]):
        result_of(path, row)


def _checked(event: Row) -> Row:
    return (*event, _event_checksum(event))


def _event_checksum(event: Row) -> int:
    # rows of earlier versions, and stops, have no number of bytes
    return checksum(*(event if event[-1] is not None else event[:-1]))


@contextmanager
def _guarded(
    path: Path, table: str, problem_id: str, written: int | None, row: Row
) -> Iterator[None]:
    """Raise DamagedRow if a row was changed, or is not read by the block."""
    if written is not None:
        found = _event_checksum(row[:-1]) if table == "events" else checksum(*row[:-1])
        if written != found:
            raise DamagedRow(path, problem_id, table, "is not as it was written")
    try:
        yield
    except (msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
        raise DamagedRow(path, problem_id, table, f"cannot be read: {error}") from error
