"""The index of a job: a row for each problem, and its first page, in a temporary SQLite file.

One process writes it and others read it meanwhile. The one rule: all that a page of the table needs
is here, so that it is answered without the journal. Not covered: what is read into it (`indexer`),
and the questions that the pages ask of it (`query`).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from orchestrator.core.values import Problem
from orchestrator.report.page.overview import Rows
from orchestrator.report.page.table import ProblemRow
from orchestrator.report.tags import tag_values
from orchestrator.studies.evaluate import ReferenceRow

TEXTS = ("id", "question", "answer", "reference")
VALUES = (
    *("outcome", "tokens", "attempts", "n_right", "agreement", "depth", "n_dropped", "n_cancelled"),
    *("n_failed", "n_unread", "n_cut_off", "seconds", "tied", "lost_to_reading", "lost_to_length"),
    *("without_drops", "pruning_error", "outvoted"),
)
_FACETS = (*TEXTS, "text", *VALUES)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS problems (
    place INTEGER PRIMARY KEY,  -- in the table of problems
    id TEXT NOT NULL UNIQUE,
    problem BLOB,               -- NULL where the row of the file is invalid
    reference BLOB,
    row BLOB NOT NULL,
    is_done INTEGER NOT NULL,   -- whether it has a result
    seq INTEGER                 -- of its last event; NULL before one was read
);
CREATE INDEX IF NOT EXISTS by_completion ON problems (seq) WHERE is_done;
-- apart from the texts, so that a filter reads little
CREATE TABLE IF NOT EXISTS facets (place INTEGER PRIMARY KEY, {", ".join(_FACETS)});
CREATE TABLE IF NOT EXISTS tags (
    place INTEGER, name TEXT, value TEXT, PRIMARY KEY (name, value, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_by_place ON tags (place);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
_encode = msgspec.json.Encoder().encode
_row = msgspec.json.Decoder(ProblemRow).decode
_problem = msgspec.json.Decoder(Problem).decode
_reference = msgspec.json.Decoder(ReferenceRow).decode


@dataclass(frozen=True, slots=True)
class Indexed:
    """What the index has of a problem; `problem` is None where its row in the file is invalid."""

    place: int
    id: str
    problem: Problem | None
    reference: ReferenceRow | None
    row: ProblemRow


class Index:
    """The index of one job, for its one writer or for a reader."""

    def __init__(self, path: Path) -> None:
        """Open or create the file."""
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode = WAL", "synchronous = OFF", "cache_size = -65536"):
            self.db.execute(f"PRAGMA {setting}")
        self.db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block writes, or nothing of it."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:  # a cancelled block as well leaves no half of its changes
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def clear(self) -> None:
        """Forget all problems."""
        for table in ("problems", "facets", "tags"):
            self.db.execute(f"DELETE FROM {table}")

    def put(self, problems: Iterable[tuple[Indexed, int | None]]) -> None:
        """Write problems, each with the number of its last event, in place of what is there."""
        stored, facets, tags = [], [], []
        for one, seq in problems:
            place, row = one.place, one.row
            problem, reference = (
                None if value is None else _encode(value) for value in (one.problem, one.reference)
            )
            is_done = row.result is not None
            stored.append((place, one.id, problem, reference, _encode(row), is_done, seq))
            texts = [natural(getattr(row, name)) for name in TEXTS]
            searched = "\n".join(getattr(row, name) or "" for name in TEXTS).lower()
            facets.append((place, *texts, searched, *(getattr(row, name) for name in VALUES)))
            named = tag_values([row.result]) if row.result else {}
            tags += [(place, name, value) for name, of in named.items() for value in of.values()]
        self._insert("problems", 7, stored)
        self._insert("facets", 1 + len(_FACETS), facets)
        self.db.executemany("DELETE FROM tags WHERE place = ?", ((row[0],) for row in stored))
        self._insert("tags", 3, tags)

    def _insert(self, table: str, n: int, rows: Sequence[tuple[object, ...]]) -> None:
        places = ", ".join("?" * n)
        self.db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", rows)

    def get(self, ids: Sequence[str]) -> dict[str, Indexed]:
        """Return what is known of these problems, by id; those that are not here are left out."""
        marks = ", ".join("?" * len(ids))
        sql = f"SELECT place, id, problem, reference, row FROM problems WHERE id IN ({marks})"
        return {
            id: Indexed(
                place,
                id,
                None if problem is None else _problem(problem),
                None if reference is None else _reference(reference),
                _row(row),
            )
            for place, id, problem, reference, row in self.db.execute(sql, list(ids))
        }

    def n_problems(self) -> int:
        """Return how many problems there are."""
        return int(self.db.execute("SELECT COUNT(*) FROM facets").fetchone()[0])

    def done(self) -> set[str]:
        """Return the ids of the problems that have a result."""
        return {row[0] for row in self.db.execute("SELECT id FROM problems WHERE is_done")}

    def set_fact(self, name: str, value: object) -> None:
        """Store a fact about the job, as JSON."""
        self.db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, _encode(value)))

    def fact(self, name: str) -> bytes | None:
        """Return a fact about the job, as JSON; None if it is not there."""
        row = self.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def rows(self) -> Rows:
        """Return the rows in the order of the table."""
        return _Rows(self.db, "ORDER BY place")

    def completed(self) -> Rows:
        """Return the rows of the problems with events and a result, by their last event."""
        return _Rows(self.db, "WHERE is_done AND seq IS NOT NULL ORDER BY seq")


class _Rows:
    def __init__(self, db: sqlite3.Connection, rest: str) -> None:
        self._db, self._rest = db, rest

    def __iter__(self) -> Iterator[ProblemRow]:
        for (row,) in self._db.execute(f"SELECT row FROM problems {self._rest}"):
            yield _row(row)

    def __len__(self) -> int:
        return int(self._db.execute(f"SELECT COUNT(*) FROM problems {self._rest}").fetchone()[0])


def natural(text: str | None) -> str | None:
    """Return a text whose order is that of numbers where it has numbers, whatever its case."""
    if text is None:
        return None
    return re.sub(r"0*(\d+)", lambda n: f"{len(n[1]):03}{n[1]}", text).casefold()
