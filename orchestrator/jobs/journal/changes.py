"""What is new in a journal since a place in it, for readers that follow a job as it runs.

The one rule: a connection lives as long as one call, so that a job that ends meanwhile can still
fold its log into the file. Not covered: results without a new event, and rows that were replaced
in place, which a reader finds by reading everything once more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from orchestrator.jobs.journal.database import failure, readable

_LAST = "SELECT seq, problem, elapsed FROM events WHERE seq = (SELECT MAX(seq) FROM events)"


@dataclass(frozen=True, slots=True)
class Place:
    """The last event that was read; without arguments, the place before all events."""

    seq: int = 0
    problem: str = ""
    elapsed: float = 0.0


@dataclass(frozen=True, slots=True)
class Changes:
    """The problems with events after a place, each with the number of its last one, in that order.

    `is_rewritten`: the event at that place is another one now, so nothing is known of those before.
    """

    problems: Mapping[str, int]
    place: Place
    is_rewritten: bool = False


def changes_since(path: Path, place: Place) -> Changes:
    """Return what was appended to a journal after a place; JournalError if it cannot be read."""
    try:
        with closing(readable(path)) as db:
            db.execute("BEGIN")  # one state of the file for all that follows
            at_place = "SELECT seq, problem, elapsed FROM events WHERE seq = ?"
            row = db.execute(at_place, (place.seq,)).fetchone()
            if place.seq and (row is None or Place(*row) != place):
                return Changes({}, Place(), is_rewritten=True)
            last = db.execute(_LAST).fetchone()
            # the index of ordinals answers the first query without reading a single trace
            new = "+seq > 0" if not place.seq else f"seq > {place.seq}"
            sql = f"SELECT problem, MAX(seq) FROM events WHERE {new} GROUP BY problem ORDER BY 2"
            return Changes(dict(db.execute(sql)), Place(*last) if last else place)
    except sqlite3.Error as error:
        raise failure(path, error) from error


def stamp(path: Path) -> tuple[int, ...]:
    """Return what changes whenever something is written to a file or its log; zeros without any."""
    found = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            state = file.stat()
        except OSError:
            found += [0, 0, 0]
            continue
        found += [state.st_ino, state.st_size, state.st_mtime_ns]
    return tuple(found)
