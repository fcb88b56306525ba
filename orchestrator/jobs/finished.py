"""The one reader of job directories: plan, source, problems, results and pools.

Pools are in the form that a selector sees. Everything is read at once and nothing is written; from
a job that still runs, the reader gets its current state. Not covered: reference answers
(`orchestrator.studies.evaluate`) and the running job itself, which uses its journal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from orchestrator.core.errors import JournalError, PlanError
from orchestrator.core.plan import Plan, fingerprint
from orchestrator.core.values import Problem, Result, Trace
from orchestrator.jobs.journal import Journal, digest
from orchestrator.jobs.problems import ProblemFile, read_problems
from orchestrator.jobs.source import JobSource, read_source


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

    def arrivals(self, problem_id: str) -> list[Trace]:
        """Return a problem's traces as they arrived; a dropped one with the answer that it gave."""
        return self.undropped.get(problem_id, self.pools.get(problem_id, []))

    @property
    def growing(self) -> str:
        """A note on the results of the plan before the job's last one; "" if there are none."""
        last = fingerprint(self.plan)
        n = sum(r.fingerprint not in ("", last) for r in self.results_in_order())
        return (
            f"{n:,} of the results are from before the plan changed; to renew them: leadline "
            f"resume {self.directory}"
            if n
            else ""
        )

    def problem_file(self) -> ProblemFile | None:
        """Return the rows that the job answers, as they are now; None where there is no file."""
        if self.source is None or not Path(self.source.problems).is_file():
            return None
        return self._read(self.source.problems, self.source.limit, self.digests)

    def results_in_order(self) -> list[Result]:
        """Return the results, those of invalid rows included, in the order of the problem file."""
        file = self.problem_file()
        if file is None:
            return list(self.results.values())
        known = {**self.results, **{r.problem_id: r for r in file.invalid}}
        return [known[id] for id in file.order if id in known]

    def domains(self) -> dict[str, str]:
        """Return the domain of each problem that has a result."""
        file = self.problem_file()
        rows = {} if file is None else {p.id: p.domain for p in file.problems}
        return {id: rows.get(id, self.plan.domain) for id in self.results}

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
        )


def read_finished(path: Path) -> FinishedJob:
    """Return the job in a directory, or of its journal.db; PlanError when there is none."""
    directory = path.parent if path.name == "journal.db" else path
    source = read_source(directory)
    with Journal.for_reading(directory / "journal.db") as journal:
        plan = msgspec.convert(msgspec.json.decode(journal.meta("plan") or "{}"), Plan)
        digests, damage = journal.digests(), ""
        try:
            results = {result.problem_id: result for result in journal.results()}
            pools = {id: journal.pool(id) for id in digests}
        except JournalError:
            results, pools, errors = _readable(journal, digests)
            damage = f"{len(errors):,} of {len(digests):,} problems cannot be read and are left out"
            damage += f"; the first: {errors[0]}" if errors else ""
            digests = {id: digest for id, digest in digests.items() if id in pools}
        undropped = {id: journal.arrived(id) for id, one in results.items() if one.dropped}
        return FinishedJob(directory, plan, source, digests, results, pools, undropped, damage)


def _readable(
    journal: Journal, ids: Iterable[str]
) -> tuple[dict[str, Result], dict[str, list[Trace]], list[JournalError]]:
    """Return the results and pools of the problems that can be read, and the errors of others."""
    results: dict[str, Result] = {}
    pools: dict[str, list[Trace]] = {}
    errors = []
    for id in ids:
        try:
            result, pools[id] = journal.result(id), journal.pool(id)
        except JournalError as error:
            errors.append(error)
            continue
        if result is not None:
            results[id] = result
    return results, pools, errors
