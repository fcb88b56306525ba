"""The SQLite file of a journal: its tables, connections to it, and the checksums of its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from struct import Struct
from zlib import crc32

from orchestrator.core.errors import JournalError
from orchestrator.jobs.journal.events import DAMAGED

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
    body BLOB NOT NULL,      -- a trace as JSON (jobs.journal.stored), or the reason of a stop
    tokens BLOB,             -- token ids: the lowest byte of all of them, then the next
    checksum INTEGER,        -- CRC-32 of the row; NULL in rows of earlier versions
    id_bytes INTEGER         -- bytes of each token id; NULL in rows of earlier versions: int32
);
CREATE UNIQUE INDEX IF NOT EXISTS one_trace_per_ordinal ON events (problem, ordinal);
CREATE TABLE IF NOT EXISTS results (
    problem TEXT PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER
) WITHOUT ROWID;
"""
# SQLite's message on a damaged schema quotes it, and may be no UTF-8
ERRORS = (sqlite3.Error, UnicodeDecodeError)
_length = Struct(">Q").pack
_N_ROWS = 32  # of one statement: twice as many are not faster
# since earlier versions
_ADDED = (
    ("events", "checksum"),
    ("results", "checksum"),
    ("problems", "plan"),
    ("events", "id_bytes"),
)


def writable(path: Path) -> sqlite3.Connection:
    """Return a connection to a file that is created if it is missing, with today's tables."""
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")  # all tables or, after a kill, none
        for table, column in _ADDED:
            if column not in columns(db, table):
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
                if column == "plan":
                    own = "SELECT value FROM meta WHERE key = 'fingerprint'"
                    db.execute(f"UPDATE problems SET plan = ({own})")
    except ERRORS:
        db.close()
        raise
    return db


def readable(path: Path) -> sqlite3.Connection:
    """Return a connection that writes nothing.

    SQLite would create files beside one that has a log, even to read it. A file without a log has
    no writer, and is opened as one that does not change.
    """
    log = path.with_name(f"{path.name}-wal")
    is_settled = not log.exists() or not log.stat().st_size
    uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if is_settled else ''}"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    if not columns(db, "meta"):  # its writer was killed before the tables were there
        db.close()
        db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        db.executescript(_SCHEMA)
    return db


def columns(db: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns; none if there is no such table."""
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


def checksum(*row: object) -> int:
    """Return the CRC-32 of the values of a row."""
    pieces: list[bytes] = []
    for value in row:
        part = value if type(value) is bytes else repr(value).encode(errors="replace")
        pieces += _length(len(part)), part
    return crc32(b"".join(pieces))


def insert(
    db: sqlite3.Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Insert rows into a table, in place of those with the same primary key.

    Many at once: between two statements another thread may take the interpreter from this one.
    """
    place = f"({', '.join('?' * len(columns))})"
    verb = "INSERT" if table == "events" else "INSERT OR REPLACE"
    sql = f"{verb} INTO {table} ({', '.join(columns)}) VALUES {place}"
    n_together = len(rows) // _N_ROWS * _N_ROWS
    sql_together = sql + f", {place}" * (_N_ROWS - 1)
    for start in range(0, n_together, _N_ROWS):
        db.execute(sql_together, [*chain.from_iterable(rows[start : start + _N_ROWS])])
    db.executemany(sql, rows[n_together:])


def failure(path: Path, error: Exception) -> JournalError:
    """Return the error that names the file and the remedy."""
    remedy = {
        "SQLITE_FULL": "free some space, then run the same command again; "
        "everything journalled so far is kept",
        "SQLITE_NOTADB": "it is not a journal; choose another job directory",
        "SQLITE_CORRUPT": DAMAGED,
        "SQLITE_READONLY": "make it writable or choose another job directory",
        "SQLITE_CANTOPEN": "check that the directory exists and is writable",
        "SQLITE_CONSTRAINT": "another process writes to it; end that one, and run this again",
    }
    name = getattr(error, "sqlite_errorname", "")
    base = "_".join(name.split("_")[:2])
    if isinstance(error, UnicodeDecodeError):
        return JournalError(f"{path}: its schema cannot be read; {DAMAGED}")
    return JournalError(
        f"{path}: {error} ({name or type(error).__name__}); {remedy.get(base, 'see the message')}"
    )
