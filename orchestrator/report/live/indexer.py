"""Follows the journals of jobs and keeps the index of each up to date, in a process of its own.

A problem is read as a whole whenever its journal has something new of it. The one rule: the job
never waits for it: journals are opened for reading only, for a moment each time, and the process
has the lowest priority, so on a busy machine the pages are late and the job is not. It ends when
its standard input does, however the process that started it ended.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from orchestrator.core.errors import JournalError, PlanError
from orchestrator.core.values import Problem, Result, Trace
from orchestrator.jobs.finished import JobReader
from orchestrator.jobs.job import is_running, spent_by
from orchestrator.jobs.journal import Journal, Place, changes_since, stamp
from orchestrator.report.live.head import Head, Identity, identity_of, read_head
from orchestrator.report.live.index import Index, Indexed
from orchestrator.report.page.overview import JobHead, overview
from orchestrator.report.page.studies import SweepPage
from orchestrator.report.page.table import problem_row
from orchestrator.report.scored import Outcome, Parts, ScoredProblem, scored_problems
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.studies.evaluate import (
    ReferenceRow,
    text_of,
)

_BATCH = 128  # problems that are read and written at once
_PAUSE_SECONDS = 0.5  # between two looks at the journals
# How many times the CPU time of its making an overview is shown: while things change, when quiet.
_BUSY_FACTOR, _QUIET_FACTOR = 5.0, 1.0
_N_FAILURES = 6  # looks in a row that failed, before the pages say so


@dataclass(frozen=True, slots=True)
class State:
    """How far the index is: problems of the job, and those that the journal has news of.

    `is_running` is None where that is unknown.
    """

    n_problems: int = 0
    n_waiting: int = 0
    is_running: bool | None = None
    error: str = ""


class JobIndexer:
    """Keeps the index of one job up to date."""

    def __init__(self, directory: Path, problems: str, index: Index, workers: AnswerWorkers):
        """Prepare; `problems` is a file with the references, if not the job's own."""
        self._directory, self._problems = directory, problems
        self._journal = directory / "journal.db"
        self._index, self._workers = index, workers
        self._head: Head | None = None
        self._begun: Identity | None = None  # of what is in the index; None until it is
        self._stamp: tuple[int, ...] = ()
        self._place = Place()
        self._waiting: dict[str, int | None] = {}  # problems to be read, with their last events
        self._open: dict[str, int] = {}  # problems that were read and had no result
        self._next = self._n_failures = 0
        self._state: State | None = None
        self._is_stale = False  # the overview
        self._is_reconciled = True
        self._overview_at = self._overview_seconds = 0.0

    async def look(self) -> None:
        """Read what is new in the journal, if there is anything."""
        try:
            found = stamp(self._journal)
            if found != self._stamp or self._waiting:
                self._notice()
                await self._read_waiting()
                self._stamp = found  # what was written meanwhile is found by the next look
                self._is_reconciled = False
            elif not self._is_reconciled:  # once whenever the journal is quiet
                self._reconcile()
                await self._read_waiting()
                self._is_reconciled = True
            else:
                self._refresh(_QUIET_FACTOR)
            self._n_failures = 0
            self._write_state(len(self._waiting))
        except (JournalError, PlanError) as error:  # such as a log that is removed at this moment
            self._n_failures += 1
            if self._n_failures == _N_FAILURES:
                self._write_state(len(self._waiting), str(error))

    def set_sweep(self, page: SweepPage) -> None:
        """Store the page of a sweep."""
        self._index.set_fact("sweep", page)

    # --- what is new

    def _notice(self) -> None:
        """Add the problems with something new to those that are waiting."""
        with Journal.for_reading(self._journal) as journal:
            identity = identity_of(self._directory, journal)
            if self._begun != identity:
                self._begin(journal, identity)
            known = list(self._open)
            for start in range(0, len(known), _BATCH):
                for id in journal.results_of(known[start : start + _BATCH]):
                    self._waiting[id] = self._open[id]
        changes = changes_since(self._journal, self._place)
        if changes.is_rewritten:
            self._begun = None
            self._notice()
            return
        self._waiting.update(changes.problems)
        self._place = changes.place

    def _reconcile(self) -> None:
        """Notice results that came without a new event."""
        with Journal.for_reading(self._journal) as journal:
            new = journal.concluded() - self._index.done()
        self._waiting.update((id, self._open.get(id)) for id in sorted(new))

    def _begin(self, journal: Journal, identity: Identity) -> None:
        """Read the plan and the problem file, and begin the index with what they have."""
        reader = JobReader(self._directory, journal)
        if self._index.fact("overview") is None:  # so that there is a page while files are read
            empty = overview(JobHead(self._directory, reader.plan), (), ())
            self._index.set_fact("overview", empty)
        self._head, contents = read_head(reader, self._problems, self._workers)
        self._begun, self._place, self._open, self._next = None, Place(), {}, 0
        self._waiting = dict.fromkeys(sorted(reader.concluded))
        with self._index.transaction():
            self._index.clear()
            self._state = None
            rows = iter(contents)
            while batch := list(islice(rows, _BATCH)):
                self._index.put((self._unread(*row), None) for row in batch)
            self._write_overview(journal)
            self._write_state(len(self._waiting))
        self._begun = identity

    def _unread(
        self,
        id: str,
        problem: Problem | None,
        reference: ReferenceRow | None = None,
        result: Result | None = None,
    ) -> Indexed:
        """Return a problem as it is before anything of it was read, with the next place."""
        assert self._head is not None
        domain = self._head.plan.domain
        outcome = Outcome(result.status.value) if result else Outcome.OPEN
        text = None if reference is None else text_of(reference.answer)
        shown = problem or Problem(id, "", domain)
        scored = ScoredProblem(shown, result, outcome, text, (), None, (), ())
        self._next += 1
        row = problem_row(scored, self._head.explorer)
        return Indexed(self._next - 1, id, problem, reference, row)

    # --- reading

    async def _read_waiting(self) -> None:
        """Read the problems that are waiting, and write the overview when it is time for it."""
        while self._waiting:
            ids = list(self._waiting)[:_BATCH]
            with Journal.for_reading(self._journal) as journal:
                await self._read(journal, {id: self._waiting[id] for id in ids})
            for id in ids:
                del self._waiting[id]
            self._is_stale = True
            self._refresh(_BUSY_FACTOR)

    async def _read(self, journal: Journal, seqs: Mapping[str, int | None]) -> None:
        """Read problems of the journal, and write them to the index."""
        assert self._head is not None
        head, ids = self._head, list(seqs)
        known = self._index.get(ids)
        known |= self._newcomers(journal, [id for id in ids if id not in known])
        results, pools = self._contents(journal, ids)
        parts = Parts(
            head.plan.domain,
            ids,
            {id: one.problem for id in ids if (one := known[id]).problem is not None},
            results,
            pools,
            {id: one.reference for id in ids if (one := known[id]).reference is not None},
        )
        references, scored = await scored_problems(parts, head.annotator)
        head.note(references)
        rows = [problem_row(one, head.explorer) for one in scored]
        with self._index.transaction():
            self._index.put(
                (replace(known[row.id], row=row), self._last_event(row.id, seqs)) for row in rows
            )
            for row in rows:
                if row.result is None and (seq := seqs[row.id]) is not None:
                    self._open[row.id] = seq
                else:
                    self._open.pop(row.id, None)
            self._write_state(len(self._waiting) - len(ids))

    def _newcomers(self, journal: Journal, ids: Sequence[str]) -> dict[str, Indexed]:
        """Return problems that the file lacked when it was read, such as a service's requests."""
        assert self._head is not None
        questions: Mapping[str, Problem] = {}
        if ids and self._begun and self._begun[1] is not None:
            questions, _ = JobReader(self._directory, journal).outline().problems()
        domain = self._head.plan.domain
        return {id: self._unread(id, questions.get(id, Problem(id, "", domain))) for id in ids}

    def _last_event(self, id: str, seqs: Mapping[str, int | None]) -> int | None:
        seq = seqs[id]
        return self._open.get(id) if seq is None else seq

    def _contents(
        self, journal: Journal, ids: Sequence[str]
    ) -> tuple[dict[str, Result], dict[str, list[Trace]]]:
        """Return results and traces; of damaged problems, what can be read."""
        assert self._head is not None
        results: dict[str, Result] = {}
        pools: dict[str, list[Trace]] = {}
        for id in ids:
            self._head.damage.pop(id, None)
            try:
                result, pools[id] = journal.result(id), journal.arrived(id)
            except JournalError as error:
                result, pools[id], _ = journal.readable(id)
                self._head.damage[id] = str(error)
            if result is not None:
                results[id] = result
        return results, pools

    # --- what the pages show first

    def _refresh(self, factor: float) -> None:
        """Write the overview again if it is stale and has been shown long enough."""
        age = time.monotonic() - self._overview_at
        if self._is_stale and age > factor * self._overview_seconds:
            with Journal.for_reading(self._journal) as journal, self._index.transaction():
                self._write_overview(journal)
            self._is_stale = False

    def _write_overview(self, journal: Journal) -> None:
        assert self._head is not None
        began = time.process_time()
        head = JobHead(self._directory, self._head.plan, spent_by(journal), self._head.notes())
        made = overview(head, self._index.rows(), self._index.completed())
        self._index.set_fact("overview", made)
        self._overview_at = time.monotonic()
        self._overview_seconds = time.process_time() - began

    def _write_state(self, n_waiting: int, error: str = "") -> None:
        state = State(self._next, n_waiting, is_running(self._directory), error)
        if state != self._state:
            self._index.set_fact("state", state)
            self._state = state
