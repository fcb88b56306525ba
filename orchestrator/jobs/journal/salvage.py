"""Makes a new journal of what can be read of a damaged one, and sets the damaged one aside.

The one rule: nothing readable is lost. The damaged file is read from a copy, keeps its content
under another name, and makes way only for a journal that is complete on the disk. Rows are copied
as they are, with their numbers and checksums. Traces are also found where no other page leads to
theirs any more; results then follow from them. Not covered: whose job it is (the caller holds its
lock).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import msgspec

from orchestrator.core.errors import JournalError
from orchestrator.core.values import Result, Status
from orchestrator.jobs.journal.database import ERRORS, columns, failure, insert, writable
from orchestrator.jobs.journal.events import LOST_DIGEST, DamagedRow
from orchestrator.jobs.journal.examination import has_tables
from orchestrator.jobs.journal.rows import (
    EVENT,
    PROBLEM,
    RESULT,
    Row,
    event_of,
    result_of,
    stored_result,
)

_META = ("key", "value")
_NUMBERED_EVENT = ("seq", *EVENT)
_META_KEYS = ("fingerprint", "plan", "spent", "versions")
_BY_SEQ = "FROM events NOT INDEXED ORDER BY seq"
_LEAF = b"\x0d"  # the first byte of a leaf of a table with row numbers
_LOST = "the journal was damaged, and traces of this problem may be lost"
# SQLite's header: https://sqlite.org/fileformat.html, 1.3
_N_HEAD, _PAGE_SIZE = 100, slice(16, 18)
_SIZE, _SIZE_IS_OF, _CHANGES = slice(28, 32), slice(92, 96), slice(24, 28)


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repaired journal contains.

    `n_again` problems had no result and may have lost traces: the next run tries them again.
    `n_incomplete` have a result, and fewer traces than it counts.
    """

    n_problems: int
    n_traces: int
    n_results: int
    n_again: int
    n_incomplete: int
    aside: Path


def repair(path: Path, plan_file: Path) -> Repair:
    """Replace a damaged journal; JournalError if nothing of it can be read: it then stays.

    `plan_file` is the job's plan.json, for a journal whose plan cannot be read.
    """
    source = _interrupted(path) or path
    new = path.with_name(f"{path.name}.repaired")
    _remove(new)
    try:
        with tempfile.TemporaryDirectory(prefix=".salvage-", dir=path.parent) as folder:
            copy = Path(folder) / "journal.db"
            with closing(_opened_copy(source, copy)) as old, closing(writable(new)) as db:
                counts = _Salvage(copy, old, db).run(plan_file)
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _sync(new)
        aside = _set_aside(path) if source is path else source
        new.replace(path)
        _sync(path.parent)
    except ERRORS as error:
        raise failure(path, error) from error
    except OSError as error:
        raise JournalError(f"{path} was not repaired, and is as it was: {error}") from error
    finally:
        _remove(new)
    return Repair(*counts, aside)


def _interrupted(path: Path) -> Path | None:
    """Return where a repair that was killed has set the file aside, which is still in place."""
    for aside in path.parent.glob(f"{path.name}.damaged-[0-9]*"):
        if path.exists() and not aside.name.endswith("-wal") and aside.samefile(path):
            return aside
    return None


def _set_aside(path: Path) -> Path:
    """Give the file a second name, and its log one beside that; return the name."""
    names = (path.with_name(f"{path.name}.damaged-{n}") for n in count(1))
    aside = next(name for name in names if not name.exists())
    try:
        os.link(path, aside)
    except OSError:  # the file system has no links
        shutil.copy2(path, aside)
    log = _log_of(path)
    if log.exists():
        log.replace(_log_of(aside))
    return aside


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _remove(path: Path) -> None:
    for name in (path, _log_of(path), path.with_name(f"{path.name}-shm")):
        name.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _opened_copy(source: Path, copy: Path) -> sqlite3.Connection:
    """Return a connection to a copy of a journal and its log that can at least be opened."""
    shutil.copyfile(source, copy)
    if _log_of(source).exists():
        shutil.copyfile(_log_of(source), _log_of(copy))
    _correct_size(copy)
    db = _connected(copy)
    if has_tables(db):
        return db
    db.close()
    with closing(writable(copy.with_name("empty.db"))) as empty:
        empty.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [page_size] = empty.execute("PRAGMA page_size").fetchone()
    # the first page lists the tables, which every journal has in the same places
    with copy.open("r+b") as file:
        file.write(copy.with_name("empty.db").read_bytes()[:page_size])
    _correct_size(copy)
    return _connected(copy)


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.text_factory = lambda data: data.decode(errors="replace")
    return db


def _correct_size(path: Path) -> None:
    """Write into a file's header how many pages it has: SQLite opens none that lacks some."""
    with path.open("r+b") as file:
        head = bytearray(file.read(_N_HEAD))
        page_size = int.from_bytes(head[_PAGE_SIZE], "big")
        if len(head) < _N_HEAD or not page_size:
            return
        head[_SIZE] = (-(-path.stat().st_size // page_size)).to_bytes(4, "big")
        head[_SIZE_IS_OF] = head[_CHANGES]
        file.seek(0)
        file.write(head)


def _leaves(path: Path) -> Iterator[int]:
    """Yield the numbers of the pages with events: no other table has leaves of their kind."""
    with path.open("rb") as file:
        page_size = int.from_bytes(file.read(_N_HEAD)[_PAGE_SIZE], "big")
        for page in range(2, path.stat().st_size // page_size + 1):
            file.seek((page - 1) * page_size)
            if file.read(1) == _LEAF:
                yield page


def _is_intact(table: str, row: Row) -> bool:
    try:
        if table == "events":
            event_of(Path(), row[1:])
        elif table == "results":
            result_of(Path(), row)
    except DamagedRow:
        return False
    return True


@dataclass(slots=True)
class _Salvage:
    """Copies what can be read from one open journal, at this path, to another."""

    path: Path
    old: sqlite3.Connection
    new: sqlite3.Connection
    lost: set[str] = field(default_factory=set)  # the tables of which some rows are not intact

    def run(self, plan_file: Path) -> tuple[int, int, int, int, int]:
        """Copy everything; return the counts of a `Repair`."""
        self.new.execute("BEGIN")
        has_all = self._copy_events()
        self._copy("problems", PROBLEM, self._keyed("problems", PROBLEM, self._ids("events")))
        self._copy("results", RESULT, self._keyed("results", RESULT, self._ids("problems")))
        strays = [*self._ids("events"), *self._ids("results")]
        self._copy("problems", PROBLEM, ((one, LOST_DIGEST, None) for one in strays))
        self._copy("meta", _META, self._keyed("meta", _META, _META_KEYS))
        if not any(map(self._n, ("events", "problems", "results"))):
            raise JournalError(f"{plan_file.parent}: nothing of its journal can be read; it stays")
        self._restore_plan(plan_file)
        n_again = 0 if has_all else self._fail_open()
        self.new.execute("COMMIT")
        n_results = self._n("results") - n_again
        return self._n("problems"), self._n("events"), n_results, n_again, self._n_incomplete()

    def _copy_events(self) -> bool:
        """Copy all events that can be read; tell whether these are certainly all there were."""
        is_sound = self._is_sound()
        sql = f"SELECT {self._selected('events', _NUMBERED_EVENT)} {_BY_SEQ}"
        self._copy("events", _NUMBERED_EVENT, self._read("events", sql))
        if is_sound and "events" not in self.lost:
            return True
        self._copy("events", _NUMBERED_EVENT, self._in_leaves(sql))
        return False

    def _in_leaves(self, sql: str) -> Iterator[Row]:
        """Yield the events of each page that has some, as if the page were all of their table."""
        db = self.old
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA writable_schema = ON")
        [version] = db.execute("PRAGMA schema_version").fetchone()
        for n, page in enumerate(_leaves(self.path), 1):
            db.execute("UPDATE sqlite_schema SET rootpage = ? WHERE name = 'events'", (page,))
            db.execute(f"PRAGMA schema_version = {version + n}")  # the table is looked up again
            if not (yield from self._read("events", sql)):
                yield from self._read("events", f"{sql} DESC")  # what is behind the damage

    def _copy(self, table: str, names: Sequence[str], rows: Iterable[Row]) -> None:
        places = ", ".join("?" * len(names))
        sql = f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({places})"
        self.new.executemany(sql, rows)

    def _keyed(self, table: str, names: Sequence[str], known: Iterable[str]) -> Iterator[Row]:
        """Yield the rows of a table that can be read: from both ends, then those of known keys."""
        selected = f"SELECT {self._selected(table, names)} FROM {table}"
        if not (yield from self._read(table, f"{selected} ORDER BY {names[0]}")):
            yield from self._read(table, f"{selected} ORDER BY {names[0]} DESC")
            for key in [*known]:
                yield from self._read(table, f"{selected} WHERE {names[0]} = ?", key)

    def _read(self, table: str, sql: str, *values: object) -> Generator[Row, None, bool]:
        """Yield the intact rows up to one that cannot be reached; return whether there was none."""
        try:
            for row in self.old.execute(sql, values):
                if _is_intact(table, row):
                    yield row
                else:
                    self.lost.add(table)
        except ERRORS:
            self.lost.add(table)
            return False
        return True

    def _selected(self, table: str, names: Sequence[str]) -> str:
        there = columns(self.old, table)
        return ", ".join(name if name in there else "NULL" for name in names)

    def _ids(self, table: str) -> Iterator[str]:
        return (one for (one,) in self.new.execute(f"SELECT DISTINCT problem FROM {table}"))

    def _n(self, table: str) -> int:
        counted = "ordinal" if table == "events" else "*"
        return int(self.new.execute(f"SELECT COUNT({counted}) FROM {table}").fetchone()[0])

    def _restore_plan(self, plan_file: Path) -> None:
        if self.new.execute("SELECT 1 FROM meta WHERE key = 'fingerprint'").fetchone():
            return
        try:
            written = msgspec.json.decode(plan_file.read_bytes(), type=dict[str, object])
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return
        mine = str(written.get("fingerprint", ""))
        keys = {"plan": "plan", f"plan {mine}": "plan", "versions": "versions"}
        rows = [
            (key, msgspec.json.encode(written[name]).decode())
            for key, name in keys.items()
            if name in written
        ]
        self._copy("meta", _META, [*rows, ("fingerprint", mine)])

    def _is_sound(self) -> bool:
        try:
            return bool(self.old.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except ERRORS:
            return False

    def _fail_open(self) -> int:
        """Make the problems without a result failed ones: their traces may not be all."""
        sql = (
            "SELECT problem, COALESCE(plan, (SELECT value FROM meta WHERE key = 'fingerprint'), '')"
            " FROM problems WHERE problem NOT IN (SELECT problem FROM results)"
        )
        failed = [
            Result(one, Status.FAILED, fingerprint=plan, error=_LOST)
            for one, plan in self.new.execute(sql).fetchall()
        ]
        insert(self.new, "results", RESULT, [stored_result(result) for result in failed])
        return len(failed)

    def _n_incomplete(self) -> int:
        """Return how many results count more traces than there are."""
        sql = (
            "SELECT COUNT(*) FROM results WHERE json_valid(CAST(body AS TEXT)) AND "
            "IFNULL(json_extract(CAST(body AS TEXT), '$.n_traces'), 0) > "
            "(SELECT COUNT(ordinal) FROM events WHERE events.problem = results.problem)"
        )
        return int(self.new.execute(sql).fetchone()[0])
