"""The journal: what goes in comes out, in order, whole transactions or none, and every failure says
what to do.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import shutil
import sqlite3
import threading
import uuid
from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import orchestrator
from orchestrator.core.errors import JournalError
from orchestrator.core.values import (
    Answer,
    Cluster,
    Finish,
    Purpose,
    Result,
    Status,
    Trace,
    Usage,
    Verdict,
)
from orchestrator.jobs.journal import (
    Arrived,
    BatchWriter,
    Concluded,
    Event,
    Journal,
    Opened,
    Stopped,
)
from orchestrator.jobs.journal.database import checksum
from orchestrator.jobs.journal.stored import packed, unpacked
from orchestrator.testing import trace

scores = st.floats(0, 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
answers = st.none() | st.builds(Answer, texts, texts)
usages = st.builds(Usage, *[st.integers(0, 2**40)] * 4, st.floats(0, 1e9))
traces = st.builds(
    Trace,
    ordinal=st.integers(0, 2**31),
    text=texts,
    token_ids=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8).map(tuple),
    finish=st.sampled_from(Finish),
    parent=st.none() | st.integers(0, 99),
    purpose=st.sampled_from(Purpose),
    model=texts,
    depth=st.none() | st.integers(1, 64),
    usage=usages,
    answer=answers,
    metrics=st.dictionaries(texts, numbers, max_size=3),
    verdicts=st.lists(
        st.builds(Verdict, texts, scores, st.lists(scores, max_size=3).map(tuple), texts, usages),
        max_size=2,
    ).map(tuple),
    values=st.lists(numbers, max_size=3).map(tuple),
    unjudged=usages,
    suffix_ids=st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
    error=texts,
    note=texts,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


def result(problem_id: str) -> Result:
    cluster = Cluster(Answer("1/2", "=1/2"), (0, 2), 2.0)
    return Result(
        problem_id,
        Status.ANSWERED,
        cluster.answer,
        (cluster,),
        {"solve": Usage(1, 0, 5, 6, 0.5)},
        3,
        n_planned=8,
        full_tokens=40.0,
        fingerprint="f1",
    )


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(traces, max_size=5, unique_by=lambda t: t.ordinal), st.data())
def test_events_come_back_equal_and_in_order(
    journal: Journal, arrived: list[Trace], data: st.DataObject
) -> None:
    """Replay rests on it: every field of a trace, and the place of a stop among them."""
    # hypothesis runs many examples on one file, and may draw one id twice
    problem = uuid.uuid4().hex
    events: list[Arrived | Stopped] = [Arrived(problem, t, i / 3) for i, t in enumerate(arrived)]
    events.insert(data.draw(st.integers(0, len(events))), Stopped(problem, "seconds", 9.5))
    cut = data.draw(st.integers(0, len(events)))
    journal.append(events[:cut])
    journal.append(events[cut:])
    assert list(journal.events(problem)) == events


def test_everything_survives_a_reopening(tmp_path: Path) -> None:
    """Digests, meta, results, counts: what a resumed job reads."""
    with Journal(tmp_path / "j.db") as first:
        first.set_meta("plan", "{}")
        first.set_meta("plan", '{"seed": 1}')
        first.append(
            [
                Opened("p", "d1"),
                Arrived("p", trace(0, "A"), 0.1),
                Concluded(result("p")),
                Opened("q", "d2"),
                Stopped("q", "seconds", 1.0),
            ]
        )
    with Journal(tmp_path / "j.db") as again:
        assert (again.meta("plan"), again.meta("other")) == ('{"seed": 1}', None)
        assert again.digests() == {"p": "d1", "q": "d2"}
        assert again.concluded("f1") == {"p"}
        assert again.concluded("another plan") == set()
        assert list(again.results()) == [again.result("p")] == [result("p")]
        assert again.result("q") is None
        assert again.n_traces() == 1


def test_problems_do_not_mix(journal: Journal) -> None:
    """Same ordinals, other problem."""
    journal.append([Arrived("a", trace(0, "A"), 0.0), Arrived("b", trace(0, "B"), 0.0)])
    assert [e.trace.answer for e in journal.events("b") if isinstance(e, Arrived)] == [
        Answer("B", "B")
    ]
    assert list(journal.events("c")) == []


def test_a_trace_is_written_once(journal: Journal) -> None:
    """A second trace of one ordinal means that something is paired wrongly; the whole group is
    refused, and nothing of it stays.
    """
    journal.append([Arrived("p", trace(0, "A"), 0.0)])
    with pytest.raises(JournalError, match=r"UNIQUE.*another process writes to it"):
        journal.append([Arrived("p", trace(1, "A"), 0.0), Arrived("p", trace(0, "B"), 0.0)])
    assert journal.n_traces() == 1
    journal.append(
        [
            Arrived("p", trace(1, "A"), 0.0),
            Stopped("p", "seconds", 1.0),
            Stopped("p", "seconds", 1.0),
        ]
    )
    assert journal.n_traces() == 2


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    """A reader beside the writer, or after a kill, sees whole groups."""
    with Journal(tmp_path / "j.db") as journal, Journal(tmp_path / "j.db") as other:
        journal.append([Arrived("p", trace(0, "A"), 0.0)])
        assert other.n_traces() == 1
        journal._db.execute("BEGIN IMMEDIATE")
        journal._db.execute(
            "INSERT INTO events (problem, ordinal, elapsed, body) VALUES ('p', 1, 0, '{}')"
        )
        assert other.n_traces() == 1


def test_a_full_disk_says_so_and_keeps_what_is_there(journal: Journal) -> None:
    """Bounded pages stand in for a full disk: the same error from SQLite."""
    journal.append([Arrived("p", trace(0, "A"), 0.0)])
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalError, match="free some space, then run the same command again"):
        journal.append([Arrived("p", trace(1, "A" * 100_000), 0.0)])
    assert journal.n_traces() == 1


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 10])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    """Never overwritten: it may be somebody's."""
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="it is not a journal; choose another job directory"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Path and remedy."""
    with pytest.raises(
        JournalError, match=r"missing/journal.db: .*check that the directory exists"
    ):
        Journal(tmp_path / "missing" / "journal.db")


@pytest.mark.parametrize(
    "odd",
    [
        trace(0, "A", metrics={"mean_confidence": float("nan")}),
        trace(0, "A", metrics={"mean_confidence": float("inf")}),
        trace(0, "A", verdicts={"v": float("nan")}),
        replace(trace(0), verdicts=(Verdict("v", 0.5, (float("nan"),)),)),
        replace(trace(0), values=(float("inf"),)),
        replace(trace(0), text="half \ud83d"),
        replace(trace(0), token_ids=(2**31,)),
    ],
)
def test_what_could_not_be_read_again_is_not_written(journal: Journal, odd: Trace) -> None:
    """JSON has no nan, UTF-8 no lone surrogate: a row with one would make a job unresumable.

    `engines.reply` keeps them away.
    """
    with pytest.raises(
        JournalError,
        match=r"trace 0 of problem p cannot be written: .*; fix the engine or verifier",
    ):
        journal.append([Arrived("p", trace(1), 0.0), Arrived("p", odd, 0.0)])
    assert list(journal.events("p")) == []


def test_a_journal_of_before_verifiers_asked_models_is_still_read(tmp_path: Path) -> None:
    """Rows without the fields that came later are the same traces: nothing was spent on verdicts,
    and no values were given.
    """
    known = trace(0, "A", verdicts={"v": 0.5})
    with Journal(tmp_path / "journal.db") as journal:
        journal.append([Arrived("p", known, 0.0)])
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as db:
        row = json.loads(msgspec.json.encode(replace(known, token_ids=())))
        del row["values"], row["unjudged"], row["verdicts"][0]["usage"]
        db.execute("UPDATE events SET body = ?, checksum = NULL", (json.dumps(row).encode(),))
    with Journal(tmp_path / "journal.db") as journal:
        assert list(journal.events("p")) == [Arrived("p", known, 0.0)]


def _replace_in_body(path: Path, table: str, old: str, new: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        bodies = [body for (body,) in db.execute(f"SELECT body FROM {table}")]
        [body] = [body for body in bodies if old.encode() in body]
        changed = body.replace(old.encode(), new.encode())
        db.execute(f"UPDATE {table} SET body = ? WHERE body = ?", (changed, body))


def _everything(path: Path) -> tuple[object, ...]:
    with Journal.for_reading(path) as journal:
        events = [list(journal.events(id)) for id in sorted(journal.digests())]
        return journal.meta("plan"), events, list(journal.results()), journal.notes()


@pytest.mark.parametrize("table", ["events", "results"])
def test_a_digit_that_changed_on_the_disk_is_not_believed(tmp_path: Path, table: str) -> None:
    """The row is still JSON, and of the right type: only its checksum tells."""
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        journal.append([Opened("p", "d"), Arrived("p", trace(0, "41"), 0), Concluded(result("p"))])
    whole = _everything(path)
    assert whole[1] == [[Arrived("p", trace(0, "41"), 0.0)]]
    old, new = ("41", "47") if table == "events" else ('"n_traces":3', '"n_traces":5')
    _replace_in_body(path, table, old, new)
    with pytest.raises(JournalError, match=rf"a row of {table}, of problem 'p', is not as it was"):
        _everything(path)


@pytest.mark.parametrize("table", ["events", "results"])
def test_what_can_be_read_of_a_problem_is_read_and_the_rest_is_named(
    tmp_path: Path, table: str
) -> None:
    """Of three traces one is damaged, or the result, and with it which traces were dropped."""
    path = tmp_path / "journal.db"
    ended = replace(result("p"), dropped={0: 2})
    with Journal(path) as journal:
        arrived = [Arrived("p", trace(n, f"4{n}"), 0) for n in range(3)]
        journal.append([Opened("p", "d"), *arrived, Concluded(ended)])
    _replace_in_body(path, table, *(("41", "47") if table == "events" else (":3", ":5")))
    with Journal.for_reading(path) as journal:
        _, traces, [fault] = journal.readable("p")
    expected = {"events": [0, 2], "results": [0, 1, 2]}[table]
    assert [t.ordinal for t in traces] == expected
    assert f"a row of {table}, of problem 'p', is not as it was written" in str(fault)
    with pytest.warns(UserWarning, match="1 rows of problem 'p' cannot be read"):
        assert len(orchestrator.traces(tmp_path, "p")) == len(expected)


def test_an_error_that_outlives_its_journal_leaves_nothing_open(tmp_path: Path) -> None:
    """The error keeps the generator that read the rows, which ends after the file was closed."""
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        journal.append([Opened("p", "d"), *(Arrived("p", trace(n), 0) for n in range(9))])
    with Journal.for_reading(path) as journal:
        rows = journal._rows("SELECT problem FROM events")
        next(rows)
    del rows
    gc.collect()  # pytest makes an error of what a finalizer prints


def test_a_damaged_page_is_a_journal_error(tmp_path: Path) -> None:
    """Wherever it is: rows are fetched one by one, long after the query began."""
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        journal.set_meta("plan", "{}")
        for n in range(40):
            arrived = Arrived(f"p{n}", replace(trace(0, f"{n}"), text="why " * 200), 0.0)
            journal.append([Opened(f"p{n}", "d"), arrived, Concluded(result(f"p{n}"))])
    whole, rng = path.read_bytes(), random.Random(0)
    errors = []
    for _ in range(400):
        place = rng.randrange(100, len(whole))
        path.write_bytes(whole[:place] + rng.randbytes(16) + whole[place + 16 :])
        try:
            _everything(path)
        except JournalError as error:
            errors.append(str(error))
    assert len(errors) > 200
    assert all(str(path) in error for error in errors)


def test_reading_a_job_writes_nothing(tmp_path: Path) -> None:
    """A finished job on a read-only medium can be read."""
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        journal.append([Opened("p", "d"), Arrived("p", trace(0), 0.0)])
    before = path.stat().st_mtime_ns
    with Journal.for_reading(path) as journal:
        assert journal.n_traces() == 1
        assert [p.name for p in tmp_path.iterdir()] == ["journal.db"]
        with pytest.raises(JournalError, match="readonly"):
            journal.set_meta("a", "b")
    assert path.stat().st_mtime_ns == before


def test_a_running_job_is_read_as_it_is_now(journal: Journal) -> None:
    journal.append([Opened("p", "d"), Arrived("p", trace(0), 0.0)])
    with Journal.for_reading(journal.path) as reader:
        assert reader.n_traces() == 1


def test_a_journal_whose_writer_was_killed_at_once_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    assert _everything(path) == (None, [], [], (0, ""))
    sqlite3.connect(path).execute("PRAGMA journal_mode = WAL").connection.close()
    assert _everything(path) == (None, [], [], (0, ""))


@pytest.mark.parametrize("n_statements", range(1, 6))
def test_a_writer_that_is_killed_among_its_tables_leaves_all_or_none(
    tmp_path: Path, n_statements: int
) -> None:
    """With only some of them, the job could not be shown before it was run again."""

    def interrupt(statement: str) -> None:
        if "CREATE" in statement:
            seen.append(statement)
        if len(seen) == n_statements:
            for file in tmp_path.glob("journal.db*"):
                shutil.copy(file, killed / file.name)

    class Traced(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.set_trace_callback(interrupt)

    seen: list[str] = []
    killed = tmp_path / "killed"
    killed.mkdir()
    connect = sqlite3.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(connect, factory=Traced))
        Journal(tmp_path / "journal.db").__exit__()
    assert _everything(killed / "journal.db") == (None, [], [], (0, ""))


def test_rows_of_a_journal_without_checksums_are_read(tmp_path: Path) -> None:
    """An earlier version wrote none; what is added has them."""
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        journal.append([Opened("p", "d"), Arrived("p", trace(0), 0.0), Concluded(result("p"))])
    with closing(sqlite3.connect(path)) as db:
        for table in ("events", "results"):
            db.execute(f"UPDATE {table} SET checksum = NULL")
        db.commit()
    before = _everything(path)
    with Journal(path) as journal:
        journal.append([Arrived("p", trace(1), 0.0)])
    assert _everything(path)[1] == [[*before[1][0], Arrived("p", trace(1), 0.0)]]


@given(st.lists(st.integers(-(2**31), 2**31 - 1)) | st.lists(st.integers(0, 2**18)))
def test_token_ids_come_back_as_they_were(ids: list[int]) -> None:
    """Continuations and replays rest on every one of them."""
    assert unpacked(*packed(ids)) == tuple(ids)


def test_token_ids_take_the_bytes_of_the_largest(tmp_path: Path) -> None:
    """Three for the vocabularies of today, where earlier versions wrote four; both are read."""
    ids = (151_643, 0, 7)
    assert packed(ids) == (bytes([91, 0, 7, 80, 0, 0, 2, 0, 0]), 3)
    with Journal(tmp_path / "journal.db") as journal:
        journal.append([Arrived("p", replace(trace(0), token_ids=ids), 0.0)])
    before = _everything(tmp_path / "journal.db")
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as db:
        [row] = db.execute("SELECT problem, ordinal, elapsed, body FROM events")
        earlier = (*row, array("i", ids).tobytes())
        db.execute("UPDATE events SET tokens = ?, checksum = ?", (earlier[-1], checksum(*earlier)))
        db.execute("ALTER TABLE events DROP COLUMN id_bytes")
    assert _everything(tmp_path / "journal.db") == before
    with Journal(tmp_path / "journal.db") as journal:
        journal.append([Arrived("p", replace(trace(1), token_ids=ids), 0.0)])
        assert [event.trace.token_ids for event in journal.events("p")] == [ids, ids]


def test_it_uses_the_write_ahead_log(journal: Journal) -> None:
    """Safe against a killed process; readers are not blocked."""
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert isinstance(journal._db, sqlite3.Connection)


async def test_a_batch_that_a_cancelled_write_took_back_is_returned() -> None:
    """Without it, a run cancelled at its start kept traces without the opening of their problem.

    Such a job could not be resumed. Here the thread is busy, so that the write has not begun.
    """
    written: list[Event] = []
    writer, is_free = BatchWriter(written.extend), threading.Event()
    blocked = writer._executor.submit(is_free.wait)
    batch: list[Event] = [Opened("p", "d"), Arrived("p", trace(0), 0.0)]
    task = asyncio.ensure_future(writer.write(batch))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    is_free.set()
    assert [*written, *writer.close()] == batch
    assert blocked.done()
