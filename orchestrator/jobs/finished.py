"""The one reader of job directories: plan, source, problems, results and pools.

Pools are in the form that a selector sees. Nothing is written; from a job that still runs, the
reader gets its current state. `JobReader` reads problem by problem, the rest everything at once.
Not covered: reference answers (`orchestrator.studies.evaluate`) and the running job itself, which
uses its journal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from orchestrator.core.errors import JournalError, PlanError
from orchestrator.core.plan import Plan, fingerprint
from orchestrator.core.values import Problem, Result, Trace
from orchestrator.core.votes import pruned
from orchestrator.jobs.job import spent_by
from orchestrator.jobs.journal import Arrived, Journal, Stopped, digest
from orchestrator.jobs.openai_batch import pools_of_rows
from orchestrator.jobs.problems import ProblemFile, find_problem, read_problems
from orchestrator.jobs.rows.examples import with_kept_examples
from orchestrator.jobs.source import JobSource, read_source
from orchestrator.plan.execution import Spent


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """The contents of a job directory; the mappings are by problem id.

    `digests` and `pools` have every problem that was opened, `results` those that were concluded.
    Pools are in order of arrival, without token ids. `source` is None when the job was started from
    Python. `undropped` has, of the problems with dropped traces, the traces as they arrived.
    """

    directory: Path
    plan: Plan
    source: JobSource | None
    digests: Mapping[str, str]
    results: Mapping[str, Result]
    pools: Mapping[str, list[Trace]]
    undropped: Mapping[str, list[Trace]]
    damage: str = ""  # how many problems cannot be read and are left out, with the first error
    growing: str = ""  # how many results are of the plan before the last one

    def arrivals(self, problem_id: str) -> list[Trace]:
        """Return a problem's traces as they arrived; a dropped one with the answer that it gave."""
        return self.undropped.get(problem_id, self.pools.get(problem_id, []))

    def problem_file(self) -> ProblemFile | None:
        """Return the rows that the job answers, as they are now; None where there is no file."""
        if self.source is None or not Path(self.source.problems).is_file():
            return None
        return self._read(self.source.problems, self.source.limit, self.digests)

    def results_in_order(self) -> list[Result]:
        """Return the results, those of invalid rows included, in the order of the problem file."""
        return in_order(self.results, self.problem_file())

    def domains(self) -> dict[str, str]:
        """Return the domain of each problem that has a result."""
        return domains_of(self.results, self.problem_file(), self.plan)

    def problems(self, *files: str) -> tuple[dict[str, Problem], tuple[str, ...]]:
        """Return every opened problem as in the first matching file, and notes on the other files.

        Without `files`, the job's own file is read. A journal stores no prompts, only digests that
        show whether a file has the same ones; a problem without a matching row has the prompt "".
        """
        problems = {id: Problem(id, "", self.plan.domain) for id in self.digests}
        own = self.source.problems if self.source else ""
        for path in dict.fromkeys((*files, own)):
            if not path or not Path(path).is_file():
                continue
            try:
                rows = self._read(path).problems
            except PlanError:  # a file of references has ids and answers only
                continue
            known = [row for row in rows if row.id in self.digests]
            same = {row.id: row for row in known if digest(row) == self.digests[row.id]}
            n_other = len(known) - len(same)
            note = (
                f"{path} words {n_other} problems otherwise than the job did; "
                "they are taken without their prompts"
            )
            return problems | same, (note,) if n_other else ()
        return problems, ()

    def question(self, id: str, file: str = "") -> Problem | Result | None:
        """Return a problem as in the job's own file, or else in `file`; None if there is none.

        Of an invalid row, its result. As in `problems`, an opened problem whose row is another one
        has the prompt "".
        """
        path = file or (self.source.problems if self.source else "")
        found: Problem | Result | None = None
        if Path(path).is_file():
            domains, domain = self.plan.domains, self.plan.domain
            # a problem that was begun is one of the job's, wherever its row is
            limit = self.source.limit if self.source and id not in self.digests else 0
            found = find_problem(
                path,
                id,
                default_domain=domain,
                domains=domains,
                limit=limit,
                override=self._override,
                pools=pools_of_rows(self.plan.models),
            )
        if id not in self.digests:
            return None if file else found
        is_same = isinstance(found, Problem) and digest(found) == self.digests[id]
        return found if is_same else Problem(id, "", self.plan.domain)

    def reference_file(self, problems: str = "") -> str:
        """Return `problems`, or the job's own problem file; PlanError when there is neither."""
        if problems or self.source:
            return problems or self.source.problems  # type: ignore[union-attr]  # one of them is there
        raise PlanError(
            f"{self.directory} was started from Python and names no problem file; "
            "give the one with the reference answers: --problems FILE"
        )

    def _read(self, path: str, limit: int = 0, begun: Collection[str] = ()) -> ProblemFile:
        return read_problems(
            path,
            default_domain=self.plan.domain,
            domains=self.plan.domains,
            limit=limit,
            begun=begun,
            override=self._override,
            pools=pools_of_rows(self.plan.models),
        )

    @property
    def _override(self) -> bool:
        """Whether rows of an OpenAI batch could override the plan."""
        return self.source is None or self.source.override


def in_order(results: Mapping[str, Result], file: ProblemFile | None) -> list[Result]:
    """Return results, and those of invalid rows, in the order of the problem file."""
    if file is None:
        return list(results.values())
    known = {**results, **{r.problem_id: r for r in file.invalid}}
    return [known[id] for id in file.order if id in known]


def domains_of(ids: Iterable[str], file: ProblemFile | None, plan: Plan) -> dict[str, str]:
    """Return the domain of each of these problems, by their rows in a file or a plan."""
    rows = {} if file is None else {p.id: p.domain for p in file.problems}
    return {id: rows.get(id, plan.domain) for id in ids}


class JobReader:
    """A job that is read problem by problem, so that its size does not matter.

    `concluded` has the ids of the problems with a result.
    """

    def __init__(self, directory: Path, journal: Journal) -> None:
        self.directory = directory
        self.plan = recorded_plan(directory, journal)
        self.source = read_source(directory)
        self.digests = journal.digests()
        self.concluded = journal.concluded()
        last = fingerprint(self.plan)
        self._n_former = len(self.concluded - journal.concluded(last) - journal.concluded(""))
        self._journal = journal
        self._errors: list[JournalError] = []

    def contents(
        self, ids: Iterable[str], *, partly: bool = False
    ) -> Iterator[tuple[str, Result | None, list[Trace], list[Trace]]]:
        """Yield the id, result and pool of each problem, and its traces as they arrived.

        Problems that cannot be read are left out, or with `partly` read as far as they can be, and
        counted in `damage`.
        """
        for id in ids:
            try:
                result, traces = self._journal.result(id), self._journal.arrived(id)
            except JournalError as error:
                self._errors.append(error)
                if not partly:
                    continue
                result, traces, _ = self._journal.readable(id)
            yield id, result, list(pruned(traces, result.dropped if result else {})), traces

    def events(self, id: str) -> Iterator[Arrived | Stopped]:
        """Yield a problem's traces and stops as they were journalled, with their token ids."""
        return self._journal.events(id)

    def completion_order(self) -> list[str]:
        """Return the ids of the problems that were begun, by their last event."""
        return self._journal.problems_by_last_event()

    @property
    def spent(self) -> Spent:
        """What the runs of the job have spent."""
        return spent_by(self._journal)

    @property
    def first_error(self) -> str:
        """Why the first problem that could not be read could not; "" if all could."""
        return str(self._errors[0]) if self._errors else ""

    @property
    def damage(self) -> str:
        """How many problems could not be read so far, with the first error; "" if none."""
        if not self._errors:
            return ""
        return (
            f"{len(self._errors):,} of {len(self.digests):,} problems cannot be read and are left "
            f"out; the first: {self._errors[0]}"
        )

    @property
    def growing(self) -> str:
        """A note on the results of the plan before the job's last one; "" if there are none."""
        return (
            f"{self._n_former:,} of the results are from before the plan changed; to renew them: "
            f"leadline resume {self.directory}"
            if self._n_former
            else ""
        )

    def outline(self) -> FinishedJob:
        """Return the job as if nothing of its contents could be read."""
        return FinishedJob(self.directory, self.plan, self.source, self.digests, {}, {}, {})


def recorded_plan(directory: Path, journal: Journal) -> Plan:
    """Return the plan of a job, as its journal has it."""
    plan = msgspec.convert(msgspec.json.decode(journal.meta("plan") or "{}"), Plan)
    return with_kept_examples(plan, directory)


@contextmanager
def job_reader(path: Path) -> Iterator[JobReader]:
    """Yield the reader of a job in a directory, or of its journal.db; PlanError without one."""
    directory = path.parent if path.name == "journal.db" else path
    read_source(directory)  # is there one?
    with Journal.for_reading(directory / "journal.db") as journal:
        yield JobReader(directory, journal)


def read_finished(path: Path) -> FinishedJob:
    """Return the job in a directory, or of its journal.db; PlanError when there is none."""
    with job_reader(path) as reader:
        return _read(reader, reader.digests)


def read_problem(path: Path, id: str) -> FinishedJob:
    """Return a job as if it had one problem; without any if the job has not opened that one.

    Of a damaged problem, what can be read; `damage` is then the first error.
    """
    with job_reader(path) as reader:
        job = _read(reader, [id] if id in reader.digests else [], partly=True)
        return replace(job, damage=reader.first_error)


def _read(reader: JobReader, ids: Iterable[str], *, partly: bool = False) -> FinishedJob:
    results: dict[str, Result] = {}
    pools: dict[str, list[Trace]] = {}
    undropped: dict[str, list[Trace]] = {}
    for id, result, pools[id], traces in reader.contents(ids, partly=partly):
        if result is not None:
            results[id] = result
            if result.dropped:
                undropped[id] = traces
    return replace(
        reader.outline(),
        digests={id: reader.digests[id] for id in pools},
        results=results,
        pools=pools,
        undropped=undropped,
        damage=reader.damage,
        growing=reader.growing,
    )
