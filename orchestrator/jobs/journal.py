"""The journal: every annotated trace, stop and result of a job, in one SQLite file.

Events are stored in order of arrival, by one writer, many in one transaction (group commit). The
journal is append-only but for `retract`, which makes room for another try at a problem that failed.
The one rule: an event is journalled before anything else sees it, so killing the process at any
moment loses at most the traces in flight. WAL with synchronous=NORMAL survives killed processes; a
power cut may undo the last transactions but never corrupts the file. The journal is the same for
every strategy.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Self, TypeAlias

import msgspec

from orchestrator.core.errors import JournalError
from orchestrator.core.values import Problem, Result, Status, Trace, changed
from orchestrator.core.votes import pruned

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS problems (problem TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY,
    problem TEXT NOT NULL,
    ordinal INTEGER,         -- of a trace; NULL for a stop
    elapsed REAL NOT NULL,   -- seconds since the problem was opened, over all runs of the job
    body BLOB NOT NULL,      -- a trace as JSON without its token ids, or the reason of a stop
    tokens BLOB              -- token ids, int32
);
CREATE UNIQUE INDEX IF NOT EXISTS one_trace_per_ordinal ON events (problem, ordinal);
CREATE TABLE IF NOT EXISTS results (problem TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""
_encode = msgspec.json.Encoder().encode
_decode_trace = msgspec.json.Decoder(Trace).decode
_result_decoder = msgspec.json.Decoder(Result)


@dataclass(frozen=True, slots=True)
class Opened:
    """A problem was opened; `digest` fixes its text."""

    problem_id: str
    digest: str


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
        self.path = path
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
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
        row = self._query("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact about the job."""
        self._query("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def append(self, events: Sequence[Event]) -> None:
        """Write events in one transaction: all of them or, with a JournalError, none.

        A trace that is already in the journal is an error.
        """
        traces: list[tuple[object, ...]] = []
        results: list[tuple[object, ...]] = []
        opened: list[tuple[object, ...]] = []
        for event in events:
            if isinstance(event, Arrived):
                trace = event.trace
                traces.append(
                    (event.problem_id, trace.ordinal, event.elapsed, *self._encoded(event))
                )
            elif isinstance(event, Concluded):
                results.append((event.result.problem_id, _encode(event.result)))
            elif isinstance(event, Opened):
                opened.append((event.problem_id, event.digest))
            else:
                traces.append((event.problem_id, None, event.elapsed, event.reason.encode(), None))
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO problems VALUES (?, ?)", opened)
            self._db.executemany(
                "INSERT INTO events (problem, ordinal, elapsed, body, tokens) "
                "VALUES (?, ?, ?, ?, ?)",
                traces,
            )
            self._db.executemany("INSERT INTO results VALUES (?, ?)", results)
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
        return dict(self._query("SELECT problem, digest FROM problems"))

    def concluded(self) -> set[str]:
        """Return the ids of the problems that have a result."""
        return {str(row[0]) for row in self._query("SELECT problem FROM results")}

    def failed(self) -> set[str]:
        """Return the ids of the problems that have the result that they failed."""
        # `instr` first: most results need not be parsed
        rows = self._query(
            "SELECT problem FROM results WHERE instr(body, CAST(? AS BLOB)) "
            "AND json_extract(CAST(body AS TEXT), '$.status') = ?",
            (f'"status":"{Status.FAILED}"', Status.FAILED.value),
        )
        return {str(row[0]) for row in rows}

    def retract(self, problem_id: str, ordinals: Sequence[int]) -> None:
        """Remove a problem's result, its stops and these traces, in one transaction."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM results WHERE problem = ?", (problem_id,))
            self._db.execute(
                "DELETE FROM events WHERE problem = ? AND ordinal IS NULL", (problem_id,)
            )
            self._db.executemany(
                "DELETE FROM events WHERE problem = ? AND ordinal = ?",
                [(problem_id, ordinal) for ordinal in ordinals],
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise self._failed(error) from error

    def results(self) -> Iterator[Result]:
        """Yield every result, in no particular order."""
        for (body,) in self._query("SELECT body FROM results"):
            yield _decode_result(body)

    def result(self, problem_id: str) -> Result | None:
        """Return one problem's result, or None."""
        row = self._query("SELECT body FROM results WHERE problem = ?", (problem_id,)).fetchone()
        return None if row is None else _decode_result(row[0])

    def events(self, problem_id: str) -> Iterator[Arrived | Stopped]:
        """Yield one problem's traces and stops in order of arrival."""
        rows = self._query(
            "SELECT ordinal, elapsed, body, tokens FROM events WHERE problem = ? ORDER BY seq",
            (problem_id,),
        )
        for ordinal, elapsed, body, tokens in rows:
            if ordinal is None:
                yield Stopped(problem_id, body.decode(), elapsed)
            else:
                yield Arrived(
                    problem_id,
                    changed(_decode_trace(body), token_ids=tuple(array("i", tokens))),
                    elapsed,
                )

    def traces(self, problem_id: str) -> Sequence[Trace]:
        """Return one problem's traces in order of arrival, as its selector sees them.

        Traces that its result lists as dropped count as cancelled.
        """
        traces = [e.trace for e in self.events(problem_id) if isinstance(e, Arrived)]
        result = self.result(problem_id)
        return traces if result is None else pruned(traces, result.dropped)

    def pool(self, problem_id: str) -> list[Trace]:
        """Return `traces` without their token ids, which no vote reads."""
        return [changed(trace, token_ids=()) for trace in self.traces(problem_id)]

    def arrived(self, problem_id: str) -> list[Trace]:
        """Return one problem's traces as they arrived, dropped or not, without their token ids."""
        events = self.events(problem_id)
        return [changed(e.trace, token_ids=()) for e in events if isinstance(e, Arrived)]

    def n_traces(self) -> int:
        """Return how many traces the journal contains."""
        return int(self._query("SELECT COUNT(ordinal) FROM events").fetchone()[0])

    def notes(self) -> tuple[int, str]:
        """Return how many traces have a note on an undecided answer or verdict, and the first note.

        (0, "") without any.
        """
        # CAST: SQLite would take a BLOB for its own binary JSON. Cancelled traces carry notes of
        # another kind.
        noted = "FROM events WHERE ordinal IS NOT NULL"
        noted += " AND json_extract(CAST(body AS TEXT), '$.note') != ''"
        noted += " AND json_extract(CAST(body AS TEXT), '$.finish') != 'cancelled'"
        n = int(self._query(f"SELECT COUNT(*) {noted}").fetchone()[0])
        first = (
            self._query(
                f"SELECT json_extract(CAST(body AS TEXT), '$.note') {noted} ORDER BY seq LIMIT 1"
            ).fetchone()
            if n
            else None
        )
        return n, str(first[0]) if first else ""

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> JournalError:
        remedy = {
            "SQLITE_FULL": "free some space, then run the same command again; "
            "everything journalled so far is kept",
            "SQLITE_NOTADB": "it is not a journal; choose another job directory",
            "SQLITE_CORRUPT": "the file is damaged; restore it or choose another job directory",
            "SQLITE_READONLY": "make it writable or choose another job directory",
            "SQLITE_CANTOPEN": "check that the directory exists and is writable",
        }
        name = getattr(error, "sqlite_errorname", "")
        base = "_".join(name.split("_")[:2])
        return JournalError(
            f"{self.path}: {error} ({name or type(error).__name__}); "
            f"{remedy.get(base, 'see the message')}"
        )


def digest(problem: Problem) -> str:
    """Return the digest of a problem's prompt and domain."""
    return blake2b(
        msgspec.json.encode((problem.prompt, problem.domain)), digest_size=16
    ).hexdigest()
