"""The journal's connection to SQLite: counts statements, fails them, and kills the process at one.

The one rule: a failing statement has no effect, as SQLite promises of a full disk or a failed read;
what the journal makes of it is the journal's.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from simulation.loop import Killed

ERRORS = {
    "full": ("database or disk is full", "SQLITE_FULL"),
    "io": ("disk I/O error", "SQLITE_IOERR_WRITE"),
}


@dataclass(slots=True)
class Disk:
    """What happens at which statement of a life: "full" and "io" fail it and all later ones.

    "before" and "after" kill the process there; `on_kill` is called first.
    """

    at: int = -1
    what: str = ""
    on_kill: Callable[[], None] = lambda: None
    is_broken: bool = False
    n_statements: int = 0
    writes: list[str] = field(default_factory=list)

    def run(self, statement: Callable[..., Any], sql: str, *args: Any) -> Any:
        """Run a statement, unless this is the one."""
        is_end = sql.startswith("ROLLBACK")
        if sql.startswith(("SELECT", "PRAGMA")):
            return statement(sql, *args)
        number, self.n_statements = self.n_statements, self.n_statements + 1
        is_now = number == self.at
        if is_now and self.what == "before":
            self._kill()
        if self.what in ERRORS and number >= self.at >= 0 and not is_end:
            text, name = ERRORS[self.what]
            error = sqlite3.OperationalError(text)
            error.sqlite_errorname = name
            raise error
        result = statement(sql, *args)
        if is_now and self.what == "after":
            self._kill()
        return result

    def _kill(self) -> None:
        self.on_kill()
        raise Killed


class _Connection(sqlite3.Connection):
    disk: Disk

    def execute(self, sql: str, *args: Any) -> Any:
        return self.disk.run(super().execute, sql, *args)

    def executemany(self, sql: str, *args: Any) -> Any:
        return self.disk.run(super().executemany, sql, *args)

    def executescript(self, sql: str) -> Any:
        return self.disk.run(super().executescript, sql)


@contextmanager
def mounted(disk: Disk) -> Iterator[None]:
    """Let journals write through this disk during the block."""
    connect = sqlite3.connect
    connection = type("Connection", (_Connection,), {"disk": disk})

    def through(path: Any, *args: Any, **options: Any) -> sqlite3.Connection:
        if Path(str(path)).name == "journal.db":
            options["factory"] = connection
        return connect(path, *args, **options)

    with mock.patch.object(sqlite3, "connect", through):
        yield


def copied(directory: Path, copy: Path) -> None:
    """Copy what a killed process leaves: its files as they are, with SQLite's log."""
    copy.mkdir()
    for file in directory.iterdir():
        if file.is_file() and not file.name.endswith("-shm") and file.name != "lock":
            shutil.copyfile(file, copy / file.name)
