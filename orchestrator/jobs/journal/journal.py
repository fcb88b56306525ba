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
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Self

from orchestrator.core.values import Finish, Result, Status, Trace
from orchestrator.core.votes import pruned
from orchestrator.jobs.journal.database import (
    ERRORS,
    columns,
    failure,
    insert,
    readable,
    writable,
)
from orchestrator.jobs.journal.events import Arrived, Concluded, DamagedRow, Event, Opened, Stopped
from orchestrator.jobs.journal.rows import (
    EVENT,
    PROBLEM,
    RESULT,
    Row,
    event_of,
    require_intact_result,
    result_of,
    stored_event,
    stored_result,
)

# Fields of a stored result. In a text of JSON their quotes would be escaped: they are found alone.
_FAILED = f'"status":"{Status.FAILED}"'


def _result_of(plan: str) -> str:
    return f'"fingerprint":"{plan}"'


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
        except ERRORS as error:
            raise failure(self.path, error) from error
        try:
            self._lacking = set(EVENT) - columns(self._db, "events")
        except ERRORS as error:
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
        except ERRORS as error:
            raise failure(self.path, error) from error

    def append(self, events: Sequence[Event], replacing: Collection[str] = ()) -> None:
        """Write events in one transaction: all of them or, with a JournalError, none.

        They come in place of all earlier events of the problems `replacing`. A result replaces an
        earlier one; a trace that is already in the journal is an error.
        """
        traces: list[Row] = []
        results: list[Row] = []
        opened: list[Row] = []
        for event in events:
            if isinstance(event, Concluded):
                results.append(stored_result(event.result))
            elif isinstance(event, Opened):
                opened.append((event.problem_id, event.digest, event.plan))
            else:
                traces.append(stored_event(self.path, event))
        with self._transaction() as db:
            db.executemany("DELETE FROM events WHERE problem = ?", ((one,) for one in replacing))
            insert(db, "problems", PROBLEM, opened)
            insert(db, "events", EVENT, traces)
            insert(db, "results", RESULT, results)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes, or nothing of it; JournalError if that fails."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException as error:  # a cancelled block as well leaves no half of its changes
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if not isinstance(error, ERRORS):
                raise
            raise failure(self.path, error) from error

    def digests(self) -> dict[str, str]:
        """Return the digest of every problem ever opened."""
        return dict(self._rows("SELECT problem, digest FROM problems"))

    def digests_of(self, problem_ids: Sequence[str]) -> dict[str, str]:
        """Return the digests of those of some problems that were ever opened."""
        places = ", ".join("?" * len(problem_ids))
        sql = f"SELECT problem, digest FROM problems WHERE problem IN ({places})"
        return dict(self._rows(sql, *problem_ids))

    def problem_ids(self) -> Iterator[str]:
        """Yield the id of every problem ever opened, in their order."""
        return (str(row[0]) for row in self._rows("SELECT problem FROM problems ORDER BY problem"))

    def n_problems(self) -> int:
        """Return how many problems were ever opened."""
        return int((self._row("SELECT COUNT(*) FROM problems") or (0,))[0])

    def n_results(self) -> int:
        """Return how many problems have a result."""
        return int((self._row("SELECT COUNT(*) FROM results") or (0,))[0])

    def conclusion(self, problem_id: str) -> tuple[str, Status | None]:
        """Return the fingerprint and the status of a problem's result; "" and None without one."""
        fields = ("fingerprint", "status")
        columns = ", ".join(f"json_extract(CAST(body AS TEXT), '$.{name}')" for name in fields)
        row = self._row(f"SELECT {columns} FROM results WHERE problem = ?", problem_id)
        return ("", None) if row is None else (row[0] or "", Status(row[1]))

    def conclusions(self, problem_ids: Sequence[str], plan: str) -> dict[str, bool]:
        """Return whether each of some problems failed, of those with a result by this plan."""
        places = ", ".join("?" * len(problem_ids))
        sql = (
            f"SELECT problem, instr(body, CAST(? AS BLOB)) FROM results WHERE problem IN ({places})"
            " AND instr(body, CAST(? AS BLOB))"
        )
        rows = self._rows(sql, _FAILED, *problem_ids, _result_of(plan))
        return {str(id): bool(failed) for id, failed in rows}

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
        except ERRORS as error:
            raise failure(self.path, error) from error

    def concluded(self, plan: str | None = None) -> set[str]:
        """Return the ids of the problems with a result: of any plan, or by a plan's fingerprint."""
        if plan is None:
            return {str(row[0]) for row in self._rows("SELECT problem FROM results")}
        sql = "SELECT problem FROM results WHERE instr(body, CAST(? AS BLOB))"
        return {str(row[0]) for row in self._rows(sql, _result_of(plan))}

    def unfinished(self, plan: str) -> set[str]:
        """Return the ids of opened problems that failed, or have no result by this plan."""
        sql = (
            "SELECT problem FROM problems LEFT JOIN results USING (problem) WHERE body IS NULL "
            "OR NOT instr(body, CAST(? AS BLOB)) OR instr(body, CAST(? AS BLOB))"
        )
        return {str(row[0]) for row in self._rows(sql, _result_of(plan), _FAILED)}

    def failed(self) -> set[str]:
        """Return the ids of the problems that have the result that they failed."""
        # `instr` first: most results need not be parsed
        rows = self._rows(
            "SELECT problem FROM results WHERE instr(body, CAST(? AS BLOB)) AND CASE WHEN "
            "json_valid(CAST(body AS TEXT)) "
            "THEN json_extract(CAST(body AS TEXT), '$.status') = ? END",
            _FAILED,
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
        rows: list[Row] = []
        for row in self._stored_results():
            try:
                require_intact_result(self.path, row)
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
                event: Arrived | Stopped = Stopped(problem_id, "a damaged stop", 0.0)
                if ordinal is not None:
                    lost = Trace(ordinal, finish=Finish.FAILED, error=fault.fault)
                    event = Arrived(problem_id, lost, 0.0)
                rows.append((*stored_event(self.path, event)[2:], seq))
        plans = self.plans() if faults else {}
        failed = [
            Result(id, Status.FAILED, fingerprint=plans.get(id, ""), error=fault.fault)
            for id, fault in faults.items()
        ]
        places = ", ".join(f"{column} = ?" for column in EVENT[2:])
        with self._transaction() as db:
            db.executemany(f"UPDATE events SET {places} WHERE seq = ?", rows)
            insert(db, "results", RESULT, [stored_result(result) for result in failed])
        return list(faults.values())

    def traces(self, problem_id: str) -> Sequence[Trace]:
        """Return one problem's traces in order of arrival, as its selector sees them.

        Traces that its result lists as dropped count as cancelled.
        """
        result = self.result(problem_id)
        traces = [e.trace for e in self.events(problem_id) if isinstance(e, Arrived)]
        return pruned(traces, result.dropped if result else {})

    def pool(self, problem_id: str) -> list[Trace]:
        """Return `traces` without their token ids, which no vote reads."""
        result = self.result(problem_id)
        return list(pruned(self.arrived(problem_id), result.dropped if result else {}))

    def arrived(self, problem_id: str) -> list[Trace]:
        """Return one problem's traces as they arrived, dropped or not, without their token ids."""
        rows = self._stored_events("WHERE problem = ? ORDER BY seq", problem_id)
        events = [self._event(row, with_ids=False) for row in rows]
        return [event.trace for event in events if isinstance(event, Arrived)]

    def problems_by_last_event(self) -> list[str]:
        """Return the ids of the problems with events, in the order of their last ones."""
        sql = "SELECT problem FROM events GROUP BY problem ORDER BY MAX(seq)"
        return [str(row[0]) for row in self._rows(sql)]

    def n_traces(self) -> int:
        """Return how many traces the journal contains."""
        return int((self._row("SELECT COUNT(ordinal) FROM events") or (0,))[0])

    def notes(self) -> tuple[int, str]:
        """Return how many traces have a note on an undecided answer or verdict, and the first note.

        (0, "") without any.
        """
        # CAST: SQLite would take a BLOB for its own binary JSON. Cancelled traces carry notes of
        # another kind. A damaged row has no note.
        note = "json_extract(CAST(body AS TEXT), '$.note')"
        finish = "IFNULL(json_extract(CAST(body AS TEXT), '$.finish'), '')"
        noted = (
            "FROM events WHERE ordinal IS NOT NULL AND CASE WHEN json_valid(CAST(body AS TEXT)) "
            f"THEN {note} != '' AND {finish} != 'cancelled' END"
        )
        counts = self._row(f"SELECT COUNT(*) {noted}")
        first = self._row(f"SELECT {note} {noted} ORDER BY seq LIMIT 1")
        return (int(counts[0]), str(first[0])) if counts and first else (0, "")

    def _rows(self, sql: str, *values: object) -> Iterator[Row]:
        """Yield the rows of a query; JournalError where the file cannot be read."""
        try:
            # No `yield from`: it would close the cursor with this generator, which an error may
            # keep until after the file is closed.
            for row in self._db.execute(sql, values):  # noqa: UP028
                yield row
        except ERRORS as error:
            raise failure(self.path, error) from error

    def _row(self, sql: str, *values: object) -> Row | None:
        return next(self._rows(sql, *values), None)

    def _stored_results(self, rest: str = "", *values: object) -> Iterator[Row]:
        """Yield results as they are stored, with their checksums."""
        return self._rows(f"SELECT {self._selected(RESULT)} FROM results {rest}", *values)

    def _stored_events(self, rest: str, *values: object) -> Iterator[Row]:
        """Yield events as they are stored, with their numbers and checksums."""
        return self._rows(f"SELECT seq, {self._selected(EVENT)} FROM events {rest}", *values)

    def _selected(self, names: Sequence[str]) -> str:
        """Return columns as a query selects them: NULL for those that an earlier version lacks."""
        return ", ".join("NULL" if name in self._lacking else name for name in names)

    def _result(self, row: Row) -> Result:
        return result_of(self.path, row)

    def _event(self, row: Row, *, with_ids: bool = True) -> Arrived | Stopped:
        return event_of(self.path, row[1:], with_ids=with_ids)
