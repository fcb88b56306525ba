"""What is wrong with a journal: its file, its rows, and what they say of each other.

The one rule: nothing is written, and whatever is wrong is a fault in the answer, not an error. Not
covered: what to do about it (`salvage`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import JournalError
from orchestrator.jobs.journal.database import ERRORS, readable
from orchestrator.jobs.journal.events import DamagedRow
from orchestrator.jobs.journal.journal import Journal

_MAX_FAULTS = 20  # of the file: one damaged page may cause hundreds
_STRAYS = """
SELECT COUNT(DISTINCT problem) FROM (SELECT problem FROM events UNION SELECT problem FROM results)
WHERE problem NOT IN (SELECT problem FROM problems)
"""


@dataclass(frozen=True, slots=True)
class Examination:
    """What a journal contains as far as it can be read, and its faults.

    `damaged` are the errors of single rows, which the next run of the job turns into failures;
    `is_broken`: the file itself is damaged, or rows are of problems that it does not know.
    """

    n_problems: int = 0
    n_traces: int = 0
    n_results: int = 0
    file_faults: tuple[str, ...] = ()
    n_stray: int = 0  # problems that have traces or a result and were never opened
    damaged: tuple[str, ...] = ()

    @property
    def is_broken(self) -> bool:
        """Whether the journal has to be repaired before it can be used."""
        return bool(self.file_faults or self.n_stray)


def examination(path: Path) -> Examination:
    """Return what a journal contains and what is wrong with it."""
    try:
        faults = tuple(_file_faults(path))
        with Journal.for_reading(path) as journal:
            counts = journal.n_problems(), journal.n_traces(), journal.n_results()
            damaged = tuple(str(fault) for fault in _damaged_rows(journal))
        return Examination(*counts, faults, _n_stray(path), damaged)
    except (JournalError, *ERRORS) as error:
        return Examination(file_faults=(str(error),))


def _file_faults(path: Path) -> Iterator[str]:
    with closing(readable(path)) as db:
        for (line,) in db.execute(f"PRAGMA integrity_check({_MAX_FAULTS})"):
            if line != "ok":
                yield line


def _n_stray(path: Path) -> int:
    with closing(readable(path)) as db:
        return int(db.execute(_STRAYS).fetchone()[0])


def _damaged_rows(journal: Journal) -> Iterator[DamagedRow]:
    for problem_id in journal.problem_ids():
        yield from journal.readable(problem_id)[2]


def has_tables(db: sqlite3.Connection) -> bool:
    """Tell whether a file can be opened, and knows its tables."""
    try:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
    except ERRORS:
        return False
    return {"meta", "problems", "events", "results"} <= names
