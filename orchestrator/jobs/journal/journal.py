"""The journal: every annotated trace, stop and result of a job, in one SQLite file.

Events are stored in order of arrival, by one writer, many in one transaction (group commit). The
journal is append-only, but a problem's events are replaced as a whole when a grown job or another
try takes them over (`jobs.growth`), and damaged rows by failures (`replace_damaged`). The one rule:
an event is journalled before anything else sees it, so killing the process at any moment loses at
most the traces in flight. WAL with synchronous=NORMAL survives killed processes; a power cut may
undo the last transactions but never corrupts the file. The journal is the same for every strategy.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, Self, TypeAlias

import msgspec

from orchestrator.core.errors import JournalError
from orchestrator.core.values import Finish, Result, Status, Trace, changed
from orchestrator.core.votes import pruned
from orchestrator.jobs.journal.database import checksum, columns, failure, readable, writable
from orchestrator.jobs.journal.events import (
    Arrived,
    Concluded,
    DamagedRow,
    Event,
    Opened,
    Stopped,
)

_Row: TypeAlias = tuple[Any, ...]
_encode = msgspec.json.Encoder().encode
_decode_trace = msgspec.json.Decoder(Trace).decode
_result_decoder = msgspec.json.Decoder(Result)


def _decode_result(body: bytes) -> Result:
    """Return a stored result; in version 0.1 `n_planned` was `n_full`."""
    if b'"n_full":' in body:
        row = msgspec.json.decode(body)
        if "n_full" in row:
            body = msgspec.json.encode({"n_planned": row.pop("n_full"), **row})
    return _result_decoder.decode(body)


class Journal:
    """An open journal file.

    Any thread may call it, one at a time. An sqlite3 error becomes a JournalError that names the
    remedy.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file."""
        self._open(path, writable)

    @classmethod
    def for_reading(cls, path: Path) -> Self:
        """Open the file of a job without writing anything, as on a read-only medium."""
        journal = cls.__new__(cls)
        journal._open(path, readable)
        return journal

    def _open(self, path: Path, connect: Callable[[Path], sqlite3.Connection]) -> None:
        self.path = path
        try:
            self._db = connect(path)
        except sqlite3.Error as error:
            raise failure(self.path, error) from error
        try:
            has_checksums = "checksum" in columns(self._db, "events")
            self._checksum = "checksum" if has_checksums else "NULL"
        except sqlite3.Error as error:
            self._db.close()
            raise failure(self.path, error) from error

    def __enter__(self) -> Self:
        """Return the journal, which is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._db.close()

    def meta(self, key: str) -> str | None:
        """Return what `set_meta` stored, or None."""
        row = self._row("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact about the job."""
        try:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        except sqlite3.Error as error:
            raise failure(self.path, error) from error

    def append(self, events: Sequence[Event], replacing: Collection[str] = ()) -> None:
        """Write events in one transaction: all of them or, with a JournalError, none.

        They come in place of all earlier events of the problems `replacing`. A result replaces an
        earlier one; a trace that is already in the journal is an error.
        """
        traces: list[_Row] = []
        results: list[_Row] = []
        opened: list[_Row] = []
        for event in events:
            if isinstance(event, Arrived):
                trace = event.trace
                traces.append(
                    (event.problem_id, trace.ordinal, float(event.elapsed), *self._encoded(event))
                )
            elif isinstance(event, Concluded):
                results.append((event.result.problem_id, _encode(event.result)))
            elif isinstance(event, Opened):
                opened.append((event.problem_id, event.digest, event.plan))
            else:
                reason = event.reason.encode()
                traces.append((event.problem_id, None, float(event.elapsed), reason, None))
        with self._transaction() as db:
            db.executemany("DELETE FROM events WHERE problem = ?", ((one,) for one in replacing))
            db.executemany(
                "INSERT OR REPLACE INTO problems (problem, digest, plan) VALUES (?, ?, ?)", opened
            )
            db.executemany(
                "INSERT INTO events (problem, ordinal, elapsed, body, tokens, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                ((*row, checksum(*row)) for row in traces),
            )
            db.executemany(
                "INSERT OR REPLACE INTO results (problem, body, checksum) VALUES (?, ?, ?)",
                ((*row, checksum(*row)) for row in results),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes, or nothing of it; JournalError if that fails."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise failure(self.path, error) from error

    def _encoded(self, event: Arrived) -> tuple[bytes, bytes]:
        trace = event.trace
        try:
            # JSON has no nan: it would be written as null, and the journal could not be read again.
            numbers = (
                *trace.metrics.values(),
                *trace.values,
                *(n for v in trace.verdicts for n in (v.score, *v.steps)),
            )
            if not all(map(isfinite, numbers)):
                raise ValueError("a metric, a value or a score is not finite")
            return _encode(changed(trace, token_ids=())), array("i", trace.token_ids).tobytes()
        # a UnicodeEncodeError is a ValueError
        except (ValueError, TypeError, OverflowError) as error:
            raise JournalError(
                f"{self.path}: trace {trace.ordinal} of problem {event.problem_id} cannot be "
                f"written: {error}; "
                "fix the engine or verifier that produced it"
            ) from error

    def digests(self) -> dict[str, str]:
        """Return the digest of every problem ever opened."""
        return dict(self._rows("SELECT problem, digest FROM problems"))

    def digest_of(self, problem_id: str) -> str | None:
        """Return the digest of a problem, or None if it was never opened."""
        row = self._row("SELECT digest FROM problems WHERE problem = ?", problem_id)
        return None if row is None else str(row[0])

    def n_results(self) -> int:
        """Return how many problems have a result."""
        return int((self._row("SELECT COUNT(*) FROM results") or (0,))[0])

    def conclusion(self, problem_id: str) -> tuple[str, Status | None]:
        """Return the fingerprint and the status of a problem's result; "" and None without one."""
        fields = ("fingerprint", "status")
        columns = ", ".join(f"json_extract(CAST(body AS TEXT), '$.{name}')" for name in fields)
        row = self._row(f"SELECT {columns} FROM results WHERE problem = ?", problem_id)
        return ("", None) if row is None else (str(row[0]), Status(row[1]))

    def plans(self, but: str = "") -> dict[str, str]:
        """Return the fingerprint of the plan of each problem opened, of all but one plan."""
        own = self.meta("fingerprint")
        sql = "SELECT problem, COALESCE(plan, ?) AS p FROM problems WHERE p != ?"
        return dict(self._rows(sql, own, but))

    def has_begun(self) -> bool:
        """Tell whether there is any event, so that something would be lost with the journal."""
        return self._row("SELECT 1 FROM events LIMIT 1") is not None

    def forget(self) -> None:
        """Remove the problems and results of a job that has not begun."""
        assert not self.has_begun()
        try:
            self._db.executescript("BEGIN; DELETE FROM problems; DELETE FROM results; COMMIT;")
        except sqlite3.Error as error:
            raise failure(self.path, error) from error

    def concluded(self, plan: str | None = None) -> set[str]:
        """Return the ids of the problems with a result: of any plan, or by a plan's fingerprint."""
        if plan is None:
            return {str(row[0]) for row in self._rows("SELECT problem FROM results")}
        # in a text of JSON the quotes would be escaped: this finds the field alone
        sql = "SELECT problem FROM results WHERE instr(body, CAST(? AS BLOB))"
        return {str(row[0]) for row in self._rows(sql, f'"fingerprint":"{plan}"')}

    def failed(self) -> set[str]:
        """Return the ids of the problems that have the result that they failed."""
        # `instr` first: most results need not be parsed
        rows = self._rows(
            "SELECT problem FROM results WHERE instr(body, CAST(? AS BLOB)) AND CASE WHEN "
            "json_valid(CAST(body AS TEXT)) "
            "THEN json_extract(CAST(body AS TEXT), '$.status') = ? END",
            f'"status":"{Status.FAILED}"',
            Status.FAILED.value,
        )
        return {str(row[0]) for row in rows}

    def results(self) -> Iterator[Result]:
        """Yield every result, in no particular order."""
        for row in self._stored_results():
            yield self._result(row)

    def result(self, problem_id: str) -> Result | None:
        """Return one problem's result, or None."""
        return self.results_of([problem_id]).get(problem_id)

    def results_of(self, problem_ids: Sequence[str]) -> dict[str, Result]:
        """Return the results of some problems, by id; those without one are left out."""
        places = ", ".join("?" * len(problem_ids))
        rows = self._stored_results(f"WHERE problem IN ({places})", *problem_ids)
        return {row[0]: self._result(row) for row in rows}

    def events(self, problem_id: str) -> Iterator[Arrived | Stopped]:
        """Yield one problem's traces and stops in order of arrival."""
        for row in self._stored_events("WHERE problem = ? ORDER BY seq", problem_id):
            yield self._event(row)

    def readable(self, problem_id: str) -> tuple[Result | None, list[Trace], list[DamagedRow]]:
        """Return a result and `arrived` as far as they can be read, and an error for other rows."""
        read: list[Trace] = []
        faults: list[DamagedRow] = []
        for row in self._stored_events("WHERE problem = ? ORDER BY seq", problem_id):
            try:
                event = self._event(row)
                read += [event.trace] if isinstance(event, Arrived) else []
            except DamagedRow as fault:
                faults.append(fault)
        try:
            result = self.result(problem_id)
        except DamagedRow as fault:
            result = None
            faults.append(fault)
        return result, read, faults

    def replace_damaged(self) -> list[DamagedRow]:
        """Turn damaged rows into failures, in one transaction, and return their errors.

        A damaged result, or a damaged trace or stop of a problem without a result, makes its
        problem one that failed: another try keeps what can be read. Traces of problems with a
        result are not read.
        """
        faults: dict[str, DamagedRow] = {}
        rows: list[_Row] = []
        for row in self._stored_results():
            try:
                self._result(row)
            except DamagedRow as fault:
                faults[fault.problem_id] = fault
        again = [self._stored_events("WHERE problem = ?", id) for id in self.failed() | {*faults}]
        open_ones = self._stored_events("WHERE problem NOT IN (SELECT problem FROM results)")
        for row in chain(open_ones, *again):
            try:
                self._event(row)
            except DamagedRow as fault:
                faults[fault.problem_id] = fault
                seq, problem_id, ordinal = row[:3]
                lost = Trace(ordinal or 0, finish=Finish.FAILED, error=fault.fault)
                body = b"a damaged stop" if ordinal is None else _encode(lost)
                stored = (problem_id, ordinal, 0.0, body, None if ordinal is None else b"")
                rows.append((*stored[2:], checksum(*stored), seq))
        plans = self.plans() if faults else {}
        failed = [
            Result(id, Status.FAILED, fingerprint=plans.get(id, ""), error=fault.fault)
            for id, fault in faults.items()
        ]
        bodies = [(result.problem_id, _encode(result)) for result in failed]
        with self._transaction() as db:
            db.executemany(
                "UPDATE events SET elapsed = ?, body = ?, tokens = ?, checksum = ? WHERE seq = ?",
                rows,
            )
            db.executemany(
                "INSERT OR REPLACE INTO results (problem, body, checksum) VALUES (?, ?, ?)",
                [(*row, checksum(*row)) for row in bodies],
            )
        return list(faults.values())

    def traces(self, problem_id: str) -> Sequence[Trace]:
        """Return one problem's traces in order of arrival, as its selector sees them.

        Traces that its result lists as dropped count as cancelled.
        """
        traces = [e.trace for e in self.events(problem_id) if isinstance(e, Arrived)]
        result = self.result(problem_id)
        return traces if result is None else pruned(traces, result.dropped)

    def pool(self, problem_id: str) -> list[Trace]:
        """Return `traces` without their token ids, which no vote reads."""
        traces, result = self.arrived(problem_id), self.result(problem_id)
        return traces if result is None else list(pruned(traces, result.dropped))

    def arrived(self, problem_id: str) -> list[Trace]:
        """Return one problem's traces as they arrived, dropped or not, without their token ids."""
        rows = self._stored_events("WHERE problem = ? ORDER BY seq", problem_id)
        events = [self._event(row, with_ids=False) for row in rows]
        return [event.trace for event in events if isinstance(event, Arrived)]

    def n_traces(self) -> int:
        """Return how many traces the journal contains."""
        row = self._row("SELECT COUNT(ordinal) FROM events")
        return int(row[0]) if row else 0

    def notes(self) -> tuple[int, str]:
        """Return how many traces have a note on an undecided answer or verdict, and the first note.

        (0, "") without any.
        """
        # CAST: SQLite would take a BLOB for its own binary JSON. Cancelled traces carry notes of
        # another kind. A damaged row has no note.
        note = "json_extract(CAST(body AS TEXT), '$.note')"
        finish = "json_extract(CAST(body AS TEXT), '$.finish')"
        noted = (
            "FROM events WHERE ordinal IS NOT NULL AND CASE WHEN json_valid(CAST(body AS TEXT)) "
            f"THEN {note} != '' AND {finish} != 'cancelled' END"
        )
        counts = self._row(f"SELECT COUNT(*) {noted}")
        first = self._row(f"SELECT {note} {noted} ORDER BY seq LIMIT 1")
        return (int(counts[0]), str(first[0])) if counts and first else (0, "")

    def _rows(self, sql: str, *values: object) -> Iterator[_Row]:
        """Yield the rows of a query; JournalError where the file cannot be read."""
        try:
            # No `yield from`: it would close the cursor with this generator, which an error may
            # keep until after the file is closed.
            for row in self._db.execute(sql, values):  # noqa: UP028
                yield row
        except sqlite3.Error as error:
            raise failure(self.path, error) from error

    def _row(self, sql: str, *values: object) -> _Row | None:
        return next(self._rows(sql, *values), None)

    def _stored_results(self, rest: str = "", *values: object) -> Iterator[_Row]:
        """Yield results as they are stored, with their checksums."""
        return self._rows(f"SELECT problem, body, {self._checksum} FROM results {rest}", *values)

    def _stored_events(self, rest: str, *values: object) -> Iterator[_Row]:
        """Yield events as they are stored, with their numbers and checksums."""
        columns = f"seq, problem, ordinal, elapsed, body, tokens, {self._checksum}"
        return self._rows(f"SELECT {columns} FROM events {rest}", *values)

    def _result(self, row: _Row) -> Result:
        problem_id, body, written = row
        with self._guarded("results", problem_id, written, (problem_id, body)):
            return _decode_result(body)

    def _event(self, row: _Row, *, with_ids: bool = True) -> Arrived | Stopped:
        _, problem_id, ordinal, elapsed, body, tokens, written = row
        stored = (problem_id, ordinal, elapsed, body, tokens)
        with self._guarded("events", problem_id, written, stored):
            if ordinal is None:
                return Stopped(problem_id, body.decode(), elapsed)
            trace = _decode_trace(body)
            if with_ids:
                trace = changed(trace, token_ids=tuple(array("i", tokens)))
            return Arrived(problem_id, trace, elapsed)

    @contextmanager
    def _guarded(
        self, table: str, problem_id: str, written: int | None, stored: _Row
    ) -> Iterator[None]:
        """Raise DamagedRow if a row was changed, or is not read by the block."""
        if written is not None and written != checksum(*stored):
            raise DamagedRow(self.path, problem_id, table, "is not as it was written")
        try:
            yield
        except (msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
            raise DamagedRow(self.path, problem_id, table, f"cannot be read: {error}") from error
