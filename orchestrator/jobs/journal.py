"""The journal: every annotated trace, stop and result of a job, in one SQLite file.

Events are stored in order of arrival, by one writer, many in one transaction (group commit). The
journal is append-only, but a problem's events are replaced as a whole when a grown job or another
try takes them over (`jobs.growth`). The one rule: an event is journalled before anything else sees
it, so killing the process at any moment loses at most the traces in flight. WAL with
synchronous=NORMAL survives killed processes; a power cut may undo the last transactions but never
corrupts the file. The journal is the same for every strategy.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar
from zlib import crc32

import msgspec

from orchestrator.core.errors import JournalError
from orchestrator.core.values import Problem, Result, Status, Trace, changed
from orchestrator.core.votes import pruned

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS problems (
    problem TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    plan TEXT                -- the fingerprint of its events' plan; NULL: that of the job
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY,
    problem TEXT NOT NULL,
    ordinal INTEGER,         -- of a trace; NULL for a stop
    elapsed REAL NOT NULL,   -- seconds since the problem was opened, over all runs of the job
    body BLOB NOT NULL,      -- a trace as JSON without its token ids, or the reason of a stop
    tokens BLOB,             -- token ids, int32
    checksum INTEGER         -- CRC-32 of the row; NULL in rows of earlier versions
);
CREATE UNIQUE INDEX IF NOT EXISTS one_trace_per_ordinal ON events (problem, ordinal);
CREATE TABLE IF NOT EXISTS results (
    problem TEXT PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER
) WITHOUT ROWID;
"""
# since earlier versions
_ADDED = (("events", "checksum"), ("results", "checksum"), ("problems", "plan"))
_DAMAGED = "the file is damaged; restore it or choose another job directory"
_Row: TypeAlias = tuple[Any, ...]
_encode = msgspec.json.Encoder().encode
_decode_trace = msgspec.json.Decoder(Trace).decode
_result_decoder = msgspec.json.Decoder(Result)


@dataclass(frozen=True, slots=True)
class Opened:
    """A problem was opened, or taken over; `digest` fixes its text, `plan` is a fingerprint."""

    problem_id: str
    digest: str
    plan: str | None = None  # None: the job's own


@dataclass(frozen=True, slots=True)
class Arrived:
    """An annotated trace arrived."""

    problem_id: str
    trace: Trace
    elapsed: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """A budget that only the driver can see ended the exploration."""

    problem_id: str
    reason: str
    elapsed: float


@dataclass(frozen=True, slots=True)
class Concluded:
    """A problem has its result."""

    result: Result


T = TypeVar("T")
Event: TypeAlias = Opened | Arrived | Stopped | Concluded


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
        self._open(path, _writable)

    @classmethod
    def for_reading(cls, path: Path) -> Self:
        """Open the file of a job without writing anything, as on a read-only medium."""
        journal = cls.__new__(cls)
        journal._open(path, _readable)
        return journal

    def _open(self, path: Path, connect: Callable[[Path], sqlite3.Connection]) -> None:
        self.path = path
        try:
            self._db = connect(path)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        try:
            self._has_checksums = "checksum" in _columns(self._db, "events")
        except sqlite3.Error as error:
            self._db.close()
            raise self._failed(error) from error

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
            raise self._failed(error) from error

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
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "DELETE FROM events WHERE problem = ?", ((one,) for one in replacing)
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO problems (problem, digest, plan) VALUES (?, ?, ?)", opened
            )
            self._db.executemany(
                "INSERT INTO events (problem, ordinal, elapsed, body, tokens, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                ((*row, checksum(*row)) for row in traces),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO results (problem, body, checksum) VALUES (?, ?, ?)",
                ((*row, checksum(*row)) for row in results),
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise self._failed(error) from error

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

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

    def plans(self, but: str) -> dict[str, str]:
        """Return the fingerprint of the plan of each problem that was opened under another one."""
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
            raise self._failed(error) from error

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
            "SELECT problem FROM results WHERE instr(body, CAST(? AS BLOB)) "
            "AND json_extract(CAST(body AS TEXT), '$.status') = ?",
            f'"status":"{Status.FAILED}"',
            Status.FAILED.value,
        )
        return {str(row[0]) for row in rows}

    def results(self) -> Iterator[Result]:
        """Yield every result, in no particular order."""
        for row in self._checked("problem, body", "results"):
            yield self._decoded(_decode_result, row[1], row[0])

    def result(self, problem_id: str) -> Result | None:
        """Return one problem's result, or None."""
        rows = self._checked("problem, body", "results", "WHERE problem = ?", problem_id)
        row = next(rows, None)
        return None if row is None else self._decoded(_decode_result, row[1], row[0])

    def events(self, problem_id: str) -> Iterator[Arrived | Stopped]:
        """Yield one problem's traces and stops in order of arrival."""
        for _, ordinal, elapsed, body, tokens in self._event_rows(problem_id):
            if ordinal is None:
                yield Stopped(problem_id, self._decoded(bytes.decode, body, problem_id), elapsed)
            else:
                trace = self._decoded(_decode_trace, body, problem_id)
                ids = self._decoded(_decode_ids, tokens, problem_id)
                yield Arrived(problem_id, changed(trace, token_ids=ids), elapsed)

    def traces(self, problem_id: str) -> Sequence[Trace]:
        """Return one problem's traces in order of arrival, as its selector sees them.

        Traces that its result lists as dropped count as cancelled.
        """
        traces = [e.trace for e in self.events(problem_id) if isinstance(e, Arrived)]
        result = self.result(problem_id)
        return traces if result is None else pruned(traces, result.dropped)

    def _event_rows(self, problem_id: str) -> Iterator[_Row]:
        columns = "problem, ordinal, elapsed, body, tokens"
        return self._checked(columns, "events", "WHERE problem = ? ORDER BY seq", problem_id)

    def pool(self, problem_id: str) -> list[Trace]:
        """Return `traces` without their token ids, which no vote reads."""
        traces, result = self.arrived(problem_id), self.result(problem_id)
        return traces if result is None else list(pruned(traces, result.dropped))

    def arrived(self, problem_id: str) -> list[Trace]:
        """Return one problem's traces as they arrived, dropped or not, without their token ids."""
        rows = self._event_rows(problem_id)
        return [
            self._decoded(_decode_trace, body, problem_id)
            for _, ordinal, _, body, _ in rows
            if ordinal is not None
        ]

    def n_traces(self) -> int:
        """Return how many traces the journal contains."""
        row = self._row("SELECT COUNT(ordinal) FROM events")
        return int(row[0]) if row else 0

    def notes(self) -> tuple[int, str]:
        """Return how many traces have a note on an undecided answer or verdict, and the first note.

        (0, "") without any.
        """
        # CAST: SQLite would take a BLOB for its own binary JSON. Cancelled traces carry notes of
        # another kind.
        noted = "FROM events WHERE ordinal IS NOT NULL"
        noted += " AND json_extract(CAST(body AS TEXT), '$.note') != ''"
        noted += " AND json_extract(CAST(body AS TEXT), '$.finish') != 'cancelled'"
        counts = self._row(f"SELECT COUNT(*) {noted}")
        first = self._row(
            f"SELECT json_extract(CAST(body AS TEXT), '$.note') {noted} ORDER BY seq LIMIT 1"
        )
        return (int(counts[0]), str(first[0])) if counts and first else (0, "")

    def _rows(self, sql: str, *values: object) -> Iterator[_Row]:
        """Yield the rows of a query; JournalError where the file cannot be read."""
        try:
            yield from self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _row(self, sql: str, *values: object) -> _Row | None:
        return next(self._rows(sql, *values), None)

    def _checked(self, columns: str, table: str, rest: str = "", *values: object) -> Iterator[_Row]:
        """Yield rows without their checksums; JournalError for one that was changed."""
        known = "checksum" if self._has_checksums else "NULL"
        for *row, written in self._rows(f"SELECT {columns}, {known} FROM {table} {rest}", *values):
            if written is not None and written != checksum(*row):
                raise JournalError(
                    f"{self.path}: a row of {table}, of problem {row[0]!r}, is not as it was "
                    f"written; {_DAMAGED}"
                )
            yield tuple(row)

    def _decoded(self, decode: Callable[[Any], T], content: object, problem_id: object) -> T:
        try:
            return decode(content)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise JournalError(
                f"{self.path}: a row of problem {problem_id!r} cannot be read: {error}; {_DAMAGED}"
            ) from error

    def _failed(self, error: sqlite3.Error) -> JournalError:
        remedy = {
            "SQLITE_FULL": "free some space, then run the same command again; "
            "everything journalled so far is kept",
            "SQLITE_NOTADB": "it is not a journal; choose another job directory",
            "SQLITE_CORRUPT": _DAMAGED,
            "SQLITE_READONLY": "make it writable or choose another job directory",
            "SQLITE_CANTOPEN": "check that the directory exists and is writable",
        }
        name = getattr(error, "sqlite_errorname", "")
        base = "_".join(name.split("_")[:2])
        return JournalError(
            f"{self.path}: {error} ({name or type(error).__name__}); "
            f"{remedy.get(base, 'see the message')}"
        )


def _writable(path: Path) -> sqlite3.Connection:
    """Return a connection to a file that is created if it is missing, with today's tables."""
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_SCHEMA)
        for table, column in _ADDED:
            if column not in _columns(db, table):
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
                if column == "plan":
                    own = "SELECT value FROM meta WHERE key = 'fingerprint'"
                    db.execute(f"UPDATE problems SET plan = ({own})")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _readable(path: Path) -> sqlite3.Connection:
    """Return a connection that writes nothing.

    SQLite would create files beside one that has a log, even to read it. A file without a log has
    no writer, and is opened as one that does not change.
    """
    log = path.with_name(f"{path.name}-wal")
    is_settled = not log.exists() or not log.stat().st_size
    uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if is_settled else ''}"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    if not _columns(db, "meta"):  # its writer was killed before the tables were there
        db.close()
        db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        db.executescript(_SCHEMA)
    return db


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


def checksum(*row: object) -> int:
    """Return the CRC-32 of the values of a row."""
    total = 0
    for value in row:
        data = value if isinstance(value, bytes) else repr(value).encode(errors="replace")
        total = crc32(data, crc32(len(data).to_bytes(8, "big"), total))
    return total


def _decode_ids(tokens: bytes) -> tuple[int, ...]:
    return tuple(array("i", tokens))


def digest(problem: Problem) -> str:
    """Return the digest of a problem's prompt and domain."""
    return blake2b(
        msgspec.json.encode((problem.prompt, problem.domain)), digest_size=16
    ).hexdigest()
