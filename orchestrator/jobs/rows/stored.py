"""Lists and mappings that are in memory while they are small, and in a temporary file beyond.

So what grows with the rows of a job takes no memory. The file has no name: it is gone when the
process ends, however it ends. Not covered: what must survive the process (`orchestrator.jobs`).
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

import msgspec

T = TypeVar("T")
N_IN_MEMORY = 50_000
_BLOCK = 256  # values between two places that are known
_CHUNK = 1 << 20  # bytes
_CACHE_KIB = 16_384  # of a mapping on disk


class StoredList(Sequence[T]):
    """A list that is only appended to; it can be read by several readers at once."""

    def __init__(self, kind: Any) -> None:
        """Create an empty list of values of this type, which msgspec must know."""
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind).decode
        self._values: list[T] = []  # those not in the file
        self._places = array("Q")  # of every _BLOCK-th value in the file
        self._file: Any = None
        self._n_stored = self._n_bytes = 0

    def append(self, value: T) -> None:
        """Add a value at the end."""
        self._values.append(value)
        if len(self._values) >= N_IN_MEMORY:
            self._store()

    def settled(self) -> Sequence[T]:
        """Return the list; as a tuple while it is small."""
        return self if self._n_stored else tuple(self._values)

    def _store(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the list
        lines = []
        for number, value in enumerate(self._values, start=self._n_stored):
            if number % _BLOCK == 0:
                self._places.append(self._n_bytes)
            lines.append(self._encode(value) + b"\n")
            self._n_bytes += len(lines[-1])
        self._file.writelines(lines)
        self._file.flush()
        self._n_stored += len(self._values)
        self._values = []

    def __len__(self) -> int:
        """Return how many values there are."""
        return self._n_stored + len(self._values)

    def __iter__(self) -> Iterator[T]:
        """Yield the values in order."""
        return self._from(0)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """Return a value, or those of a slice."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return [self[i] for i in range(start, stop, step)]
            return list(itertools.islice(self._from(start), max(0, stop - start)))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return next(self._from(place))

    def _from(self, start: int) -> Iterator[T]:
        if start < self._n_stored:
            lines = self._lines(self._places[start // _BLOCK])
            for line in itertools.islice(lines, start % _BLOCK, None):
                yield self._decode(line)
        yield from self._values[max(0, start - self._n_stored) :]

    def _lines(self, place: int) -> Iterator[bytes]:
        rest, end, file = b"", self._n_bytes, self._file.fileno()
        while place < end:
            chunk = os.pread(file, min(_CHUNK, end - place), place)
            place += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines

    def __del__(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()


class StoredDict(Mapping[str, T], Generic[T]):
    """A mapping from texts in order of insertion; a key is set once."""

    def __init__(self, kind: Any) -> None:
        """Create an empty mapping to values of this type, which msgspec must know."""
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind).decode
        self._values: dict[str, T] = {}
        self._db: sqlite3.Connection | None = None
        self._n_stored = 0

    def __setitem__(self, key: str, value: T) -> None:
        """Set the value of a new key."""
        self._values[key] = value
        if len(self._values) >= N_IN_MEMORY:
            self._store()

    def settled(self) -> Mapping[str, T]:
        """Return the mapping; as a dict while it is small."""
        return self if self._n_stored else self._values

    def _store(self) -> None:
        if self._db is None:
            self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}"):
                self._db.execute(f"PRAGMA {setting}")
            self._db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, key TEXT UNIQUE, value BLOB)")
        rows = ((key, self._encode(value)) for key, value in self._values.items())
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO t (key, value) VALUES (?, ?)", rows)
        self._db.execute("COMMIT")
        self._n_stored += len(self._values)
        self._values = {}

    def __getitem__(self, key: str) -> T:
        """Return the value of a key."""
        if key in self._values:
            return self._values[key]
        query = "SELECT value FROM t WHERE key = ?"
        found = self._db.execute(query, (key,)).fetchone() if self._db else None
        if found is None:
            raise KeyError(key)
        value: T = self._decode(found[0])
        return value

    def __iter__(self) -> Iterator[str]:
        """Yield the keys in order of insertion."""
        if self._db is not None:
            yield from (row[0] for row in self._db.execute("SELECT key FROM t ORDER BY n"))
        yield from self._values

    def __len__(self) -> int:
        """Return how many keys there are."""
        return self._n_stored + len(self._values)

    def __del__(self) -> None:
        """Remove the table."""
        if self._db is not None:
            self._db.close()
