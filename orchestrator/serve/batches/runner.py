"""Runs the batches of a store one after another, each as the job of its directory.

The one rule: everything that a batch needs to continue is on disk before it is reported, so the
next start continues where a kill ended the last one. Not covered: the job itself, which runs like
one of `leadline run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from orchestrator.core.errors import LeadlineError, PlanError
from orchestrator.core.values import Status
from orchestrator.jobs.files import write_parts_atomically
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.openai_batch import REFUSAL, write_split_output
from orchestrator.jobs.problems import ProblemFile, read_problems
from orchestrator.jobs.source import job_source, write_source
from orchestrator.plan.check import row_requirement
from orchestrator.runtime.api import run_job
from orchestrator.serve.access.keys import KeyRing
from orchestrator.serve.batches.store import (
    ERRORS,
    OUTPUT,
    PROBLEMS,
    BatchRecord,
    Store,
    made,
)
from orchestrator.serve.protocol.faults import Fault, invalid
from orchestrator.serve.protocol.questions import QuestionReader
from orchestrator.serve.running.entries import OpenEngine
from orchestrator.serve.telemetry import Log

_KEPT = ("domain", "answer")  # of a row, beside its body; other fields could name what is not data
_SAVE_SECONDS = 1.0  # between two records of how far a batch is


@dataclass(slots=True, eq=False)
class Batches:
    """The batches of a service; made by `running_batches`."""

    store: Store
    reader: QuestionReader
    engine: OpenEngine
    keys: KeyRing
    log: Log
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _current: BatchRecord | None = None
    _task: asyncio.Task[None] | None = None

    def create(self, record: BatchRecord) -> BatchRecord:
        """Add a batch; the one that is there, if its id is known and it asks for the same."""
        known = self.store.new_batch(record)
        if (known.input_file_id, known.endpoint) != (record.input_file_id, record.endpoint):
            raise invalid("this idempotency key was used for another batch", code="idempotency")
        self._changed.set()
        return known

    def batch(self, id: str, owner: str) -> BatchRecord:
        """Return a batch as it is now; Fault 404 where the owner has none."""
        record = self.store.batch(id, owner)
        is_current = self._current is not None and self._current.id == id
        return self._current if is_current and self._current else record

    def cancel(self, id: str, owner: str) -> BatchRecord:
        """Stop a batch; what it has answered is kept. One that has ended stays as it is."""
        record = self.batch(id, owner)
        if record.status in ("validating", "in_progress"):
            self._set(record, "cancelling")
            if record is self._current and self._task is not None:
                self._task.cancel()
            self._changed.set()
        return record

    async def run(self) -> None:
        """Run what is unfinished, the oldest first, and then what is added."""
        while True:
            self._changed.clear()
            unfinished = [b for b in self.store.batches() if b.is_unfinished]
            if not unfinished:
                await self._changed.wait()
                continue
            await self._run_one(min(unfinished, key=made))

    async def _run_one(self, batch: BatchRecord) -> None:
        self._current = batch
        self._task = asyncio.create_task(self._job(batch))
        try:
            await asyncio.wait([self._task])
        finally:  # the service ends: the next start continues
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            error = None if self._task.cancelled() else self._task.exception()
            self._current = self._task = None
        if error is not None and not isinstance(error, LeadlineError | OSError):
            raise error
        if error is not None:
            self._fail(batch, error)
        elif batch.status == "cancelling":
            await self._job(batch)  # writes what has arrived
        self.log.write("batch", id=batch.id, status=batch.status, client=batch.owner)

    async def _job(self, batch: BatchRecord) -> None:
        directory = self.store.directory(batch.id)
        plan, execution = self.reader.plan, self.reader.execution
        file = await asyncio.to_thread(self._problems, batch, directory)
        batch.counts["total"] = len(file.order)
        with open_job(directory, plan, file.problems, file.invalid, file.order) as job:
            write_source(job, plan, execution, job_source(directory / PROBLEMS, 0, "auto"))
            if batch.status == "validating":
                self._set(batch, "in_progress")
            if batch.status == "in_progress":
                await self._answer(batch, job, len(file.invalid))
                self._set(batch, "finalizing")
            n_done, n_failed = write_split_output(job, plan, directory / OUTPUT, directory / ERRORS)
        batch.counts |= {"completed": n_done, "failed": n_failed}
        batch.output_file_id = self.store.publish_result(batch, OUTPUT) if n_done else None
        batch.error_file_id = self.store.publish_result(batch, ERRORS) if n_failed else None
        self._set(batch, "cancelled" if batch.status == "cancelling" else "completed")

    async def _answer(self, batch: BatchRecord, job: Job, n_invalid: int) -> None:
        """Answer the rows without a result."""
        plan, execution, saved = self.reader.plan, self.reader.execution, 0.0
        batch.counts["failed"] = n_invalid + len(job.journal.failed())
        batch.counts["completed"] = job.journal.n_results() - len(job.journal.failed())
        owner = self.keys.named(batch.owner)
        work = run_job(job, plan, execution, factory=self.engine)
        async with contextlib.aclosing(work) as results:
            async for result in results:
                end = "failed" if result.status is Status.FAILED else "completed"
                batch.counts[end] += 1
                if owner is not None:
                    usages = result.usage.values()
                    owner.spend(sum(u.prompt_tokens + u.output_tokens for u in usages))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    saved = time.monotonic()
                    self.store.save(batch)

    def _problems(self, batch: BatchRecord, directory: Path) -> ProblemFile:
        """Return the rows of a batch, with their models' names as settings."""
        path, plan = directory / PROBLEMS, self.reader.plan
        if not path.exists():
            write_parts_atomically(path, self._rows(batch, directory / "input.jsonl"))
        return read_problems(
            path,
            default_domain=plan.domain,
            domains=plan.domains,
            require=row_requirement(plan, self.reader.execution),
            pools=self.reader.pools,
        )

    def _rows(self, batch: BatchRecord, path: Path) -> Iterator[bytes]:
        with path.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield self._row(batch, line) + b"\n"

    def _row(self, batch: BatchRecord, line: bytes) -> bytes:
        """Return a row as the job reads it; one that cannot be read is left to be refused there."""
        try:
            row = msgspec.json.decode(line)
            if row.get("url") != batch.endpoint:
                reason = f"its url is {row.get('url')!r}; the batch is for {batch.endpoint}"
                return msgspec.json.encode({**row, REFUSAL: reason})
            kept = {name: row[name] for name in _KEPT if name in row}
            own = self.reader.batch_row(row["body"], row["custom_id"])
            return msgspec.json.encode(kept | own)
        except Fault as fault:
            return msgspec.json.encode({**row, REFUSAL: fault.message})
        except (msgspec.DecodeError, AttributeError, KeyError, TypeError, ValueError):
            return line.strip()

    def _fail(self, batch: BatchRecord, error: BaseException) -> None:
        message = str(error) if isinstance(error, PlanError) else "the engine has failed"
        self.log.write("batch failed", id=batch.id, cause=f"{type(error).__name__}: {error}")
        batch.errors = [{"code": "failed", "message": message, "line": None, "param": None}]
        self._set(batch, "failed")

    def _set(self, batch: BatchRecord, status: str) -> None:
        batch.status = status
        batch.times.setdefault(status, int(time.time()))
        self.store.save(batch)


@contextlib.asynccontextmanager
async def running_batches(
    root: Path, reader: QuestionReader, engine: OpenEngine, keys: KeyRing, log: Log
) -> AsyncIterator[Batches]:
    """Yield the batches of a directory, which run until the end of the block."""
    batches = Batches(Store(root), reader, engine, keys, log)
    task = asyncio.create_task(batches.run())
    try:
        yield batches
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
