"""What the pages ask of an index: rows of the table, filtered and in order, and neighbours.

The one rule: the answers are those of the pages' own `Columns` in a report (`web/src/source`), so
filters and their names are the same on both sides. The last order is kept while nothing changes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.report.live.index import TEXTS, VALUES, Index, Indexed
from orchestrator.report.page.table import MOST_TAGS

VIEWS = {
    "dropped": "n_dropped > 0",
    "other vote": "without_drops = 'other'",
    "pruning error": "pruning_error",
    "unread": "lost_to_reading",
    "cut off": "lost_to_length",
    "tied": "tied",
    "failures": "n_failed > 0",
    "split": "outvoted",
}
MOST_ROWS = 1_000  # of one page
_MOST_FILTERS = 64  # in one query; SQLite has a limit on the depth of a statement
_MOST_VALUES = 24  # of a tag that can be chosen
_N_ORDERS = 8  # that are kept


class BadQuery(Exception):
    """A query that no page would send; the message says why."""


class Query(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """Which problems, in which order, and which of these rows; as `Query` of the pages."""

    text: str = ""
    outcomes: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    sort: str = ""
    descending: bool = False
    start: int = 0
    end: int = 0

    @property
    def order(self) -> tuple[object, ...]:
        """What its rows depend on, whichever of them are shown."""
        return self.text, self.outcomes, self.views, self.tags, self.sort, self.descending


class Row(msgspec.Struct, frozen=True):
    """A row of the table."""

    id: str
    outcome: str
    question: str
    answer: str | None
    reference: str | None
    tokens: int
    attempts: int
    n_right: int | None
    agreement: float | None
    depth: float | None
    n_dropped: int
    tied: bool


class Page(msgspec.Struct, frozen=True):
    """Some of the `n` rows that match, of `n_all`, and what can be chosen."""

    rows: Sequence[Row]
    n: int
    n_all: int
    outcomes: dict[str, int]
    views: dict[str, int]
    tags: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class _Order:
    places: list[int]
    at: dict[int, int]  # the position of each place


_decode_row = msgspec.json.Decoder(Row).decode
_decode_query = msgspec.json.Decoder(Query).decode


def parsed(text: str) -> Query:
    """Return the query in a JSON text; BadQuery if it is none."""
    try:
        query = _decode_query(text)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadQuery(f"query: {error}") from error
    if unknown := set(query.views) - set(VIEWS):
        raise BadQuery(f"query: there is no view {min(unknown)!r}; there are: {', '.join(VIEWS)}")
    if query.sort and not query.sort.startswith("tag:") and query.sort not in (*TEXTS, *VALUES):
        raise BadQuery(f"query: there is no column {query.sort!r} to sort by")
    if len(query.outcomes) + len(query.tags) > _MOST_FILTERS:
        raise BadQuery(f"query: outcomes and tags may be at most {_MOST_FILTERS}")
    if not 0 <= query.start <= query.end <= query.start + MOST_ROWS:
        raise BadQuery(f"query: from and to must be those of at most {MOST_ROWS:,} rows")
    return query


class Reader:
    """Answers questions about one job; any thread may call it."""

    def __init__(self, path: Path) -> None:
        """Open the index of a job."""
        self._index = Index(path)
        self._lock = threading.Lock()
        self._version = -1
        self._orders: OrderedDict[tuple[object, ...], _Order] = OrderedDict()
        self._choices: dict[str, Any] = {}

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._index.close()

    def version(self) -> int:
        """Return a number that changes with the index."""
        with self._lock:
            return int(self._index.db.execute("PRAGMA data_version").fetchone()[0])

    def fact(self, name: str) -> bytes | None:
        """Return a fact about the job, as JSON."""
        with self._lock:
            return self._index.fact(name)

    def problem(self, id: str) -> Indexed | None:
        """Return what is known of a problem; None if there is none."""
        with self._lock:
            return self._index.get([id]).get(id)

    def page(self, query: Query) -> Page:
        """Return the rows that a query names."""
        with self._lock:
            order = self._ordered(query)
            shown = order.places[query.start : query.end]
            marks = ", ".join("?" * len(shown))
            sql = f"SELECT place, row FROM problems WHERE place IN ({marks})"
            rows = dict(self._index.db.execute(sql, shown))
            choices = self._chosen()
            return Page([_decode_row(rows[p]) for p in shown], len(order.places), **choices)

    def neighbours(self, id: str, query: Query) -> tuple[str | None, str | None]:
        """Return the ids before and after a problem in the order of a query.

        In that of the file if it is not among those; None where there is none.
        """
        with self._lock:
            found = self._one("SELECT place FROM problems WHERE id = ?", id)
            if found is None:
                return None, None
            order = self._ordered(query)
            if found not in order.at:
                order = self._ordered(Query())
            at = order.at[found]
            around = (order.places[i : i + 1] if i >= 0 else [] for i in (at - 1, at + 1))
            before, after = (
                self._one("SELECT id FROM problems WHERE place = ?", *one) if one else None
                for one in around
            )
            return before, after

    def _one(self, sql: str, *values: object) -> Any:
        row = self._index.db.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def _ordered(self, query: Query) -> _Order:
        """Return the places of the problems that match, in order."""
        self._renew()
        found = self._orders.get(query.order)
        if found is None:
            sql, values = _statement(query)
            places = [row[0] for row in self._index.db.execute(sql, values)]
            found = _Order(places, {place: i for i, place in enumerate(places)})
            self._orders[query.order] = found
        self._orders.move_to_end(query.order)
        while len(self._orders) > _N_ORDERS:
            self._orders.popitem(last=False)
        return found

    def _renew(self) -> None:
        """Forget what was derived from an earlier state of the index."""
        version = int(self._index.db.execute("PRAGMA data_version").fetchone()[0])
        if version != self._version:
            self._version = version
            self._orders.clear()
            self._choices = {}

    def _chosen(self) -> dict[str, Any]:
        """Return the number of problems, and what can be chosen among them."""
        if not self._choices:
            db = self._index.db
            sums = ", ".join(f"TOTAL({rule})" for rule in VIEWS.values())
            n_all, *views = db.execute(f"SELECT COUNT(*), {sums} FROM facets").fetchone()
            outcomes = "SELECT outcome, COUNT(*) FROM facets GROUP BY outcome ORDER BY MIN(place)"
            self._choices = {
                "n_all": n_all,
                "outcomes": dict(db.execute(outcomes)),
                "views": dict(zip(VIEWS, map(int, views), strict=True)),
                "tags": _tags(db),
            }
        return self._choices


def _tags(db: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the values of each tag that has few, as numbers where they are."""
    found: dict[str, list[str]] = {}
    names = [row[0] for row in db.execute("SELECT DISTINCT name FROM tags")]
    for name in names:
        # each step skips to the next value in the key, however many problems have this one
        sql = "SELECT MIN(value) FROM tags WHERE name = ? AND value > ?"
        values: list[str] = []
        last = db.execute("SELECT MIN(value) FROM tags WHERE name = ?", (name,)).fetchone()[0]
        while last is not None and len(values) <= _MOST_VALUES:
            values.append(last)
            last = db.execute(sql, (name, last)).fetchone()[0]
        if len(values) <= _MOST_VALUES:
            found[name] = sorted(values, key=_as_number)
    kept = sorted(found, key=lambda name: len(found[name]))[:MOST_TAGS]
    return {name: found[name] for name in kept}


def _as_number(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _statement(query: Query) -> tuple[str, list[object]]:
    """Return the statement for the places of a query, and its values."""
    rules, values = ["1"], list[object]()
    if query.outcomes:
        rules.append(f"outcome IN ({', '.join('?' * len(query.outcomes))})")
        values += query.outcomes
    if text := query.text.strip().lower():
        rules.append("INSTR(text, ?)")
        values.append(text)
    rules += [f"({VIEWS[name]})" for name in query.views]
    for tag in query.tags:
        rules.append("place IN (SELECT place FROM tags WHERE name = ? AND value = ?)")
        values += tag
    way = "DESC" if query.descending else "ASC"
    if not query.sort:
        order = f"place {way}"
    elif query.sort.startswith("tag:"):
        key = "(SELECT value FROM tags WHERE name = ? AND tags.place = facets.place)"
        order = f"{key} IS NULL, {key} {way}, place"
        values += [query.sort[4:]] * 2
    else:
        order = f"{query.sort} IS NULL, {query.sort} {way}, place"
    return f"SELECT place FROM facets WHERE {' AND '.join(rules)} ORDER BY {order}", values
