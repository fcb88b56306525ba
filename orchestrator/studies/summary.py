"""The summary of a job: its results, their cost and their accuracy.

Only this module joins a job's results with reference answers for the command line. The numbers come
from `orchestrator.studies.evaluate`; the command line renders the tables.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Selector
from orchestrator.core.values import Result, Status, Trace, changed
from orchestrator.core.votes import n_sampled, reselected
from orchestrator.engines.supervised import Outages
from orchestrator.jobs.finished import FinishedJob, JobReader, in_order
from orchestrator.jobs.job import Job
from orchestrator.jobs.problems import ProblemFile
from orchestrator.plan.execution import Execution, JobBudget, Spent
from orchestrator.runtime.annotate import Annotator
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.api import blocking
from orchestrator.studies.estimates import Estimate, share_estimate
from orchestrator.studies.evaluate import (
    Accepts,
    References,
    Report,
    RightAnswers,
    UnreadableReference,
    is_result_right,
    read_references,
    reference_rows,
    report,
    right_keys_of,
    score,
)
from orchestrator.studies.scaling import Point, VoteCounts, scaling, vote_counts

T = TypeVar("T")
_BATCH = 64  # problems that are compared at once
_NOTHING, _NO_BUDGET = Spent(), JobBudget()
N_LISTED = 3  # failed problems that are listed, and invalid ones


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem that failed or was invalid, with its error."""

    id: str
    error: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a run.

    `n_open` problems have no result of this plan yet; `n_outdated` of them have that of the plan
    before it changed. `n_resumed` had a result before this run. Paths are written as the user would
    write them.
    """

    directory: str
    results: str
    batch_output: str | None
    report: Report
    n_open: int
    n_resumed: int
    start_seconds: float  # the part of this run's wall-clock time before the engine was up
    tokens_per_second: float | None  # of this run, after the engine was up
    n_undecided: int  # traces with an undecided comparison, reading or verdict
    undecided: str  # the note on the first of these traces
    failed: tuple[Fault, ...]  # the first few
    invalid: tuple[Fault, ...]
    interrupted: bool
    n_retries: int = 0  # requests of this run that were sent again
    paused_seconds: float = 0.0  # of this run, in which no new request was sent
    retry_reason: str = ""  # of the last of them
    chosen: str = ""  # the strategy that `auto` resolved to, and the reason
    spent: Spent = _NOTHING  # over all runs
    usd: float | None = None  # what that costs; None without prices
    budget: JobBudget = _NO_BUDGET
    ended_by: str = ""  # the budget of the job that ended this run
    n_outdated: int = 0

    @property
    def all_failed(self) -> bool:
        """Whether there were problems and all of them failed or were invalid."""
        by_status = self.report.n_by_status
        n_failed = by_status[Status.FAILED] + by_status[Status.INVALID]
        return not self.n_open and n_failed > 0 and n_failed == self.report.n_results


@dataclass(frozen=True, slots=True)
class Ranking:
    """The evaluation of one selector on the pools.

    `n_other` answers differ from the job's answers. `n_failed` pools could not be ranked; `error`
    is the error of the first.
    """

    selector: str
    report: Report
    n_other: int
    n_failed: int
    error: str


def compare_answers(
    plan: Plan, execution: Execution, work: Callable[[Annotator], Awaitable[T]]
) -> T:
    """Return the result of `work`, which receives an annotator that reads and compares answers.

    The comparison processes end when `work` returns. Works within an event loop, too.
    """

    async def compared() -> T:
        async with aclosing(
            AnswerWorkers(n_workers=execution.checkers, limit_seconds=execution.checker_seconds)
        ) as workers:
            return await work(Annotator(replace(plan, verifiers=()), workers))

    return blocking(compared)


def references_in(
    path: str | Path, domains: Mapping[str, str], plan: Plan, execution: Execution
) -> References:
    """Return the references in a file, of the problems in `domains` (ids to domain names)."""
    rows = reference_rows(path)
    if not rows:
        return References({})
    return compare_answers(
        plan, execution, lambda annotator: read_references(rows, domains, annotator)
    )


def unreadable_notes(references: References, path: str | Path) -> list[str]:
    """Return a note for each domain that cannot read some references, with the first of them."""
    by_domain: dict[str, list[UnreadableReference]] = {}
    for reference in references.unreadable:
        by_domain.setdefault(reference.domain, []).append(reference)
    total = len(references.answers) + len(references.unreadable)
    return [_unreadable_note(Path(path).name, unread, total) for unread in by_domain.values()]


def _unreadable_note(name: str, unread: Sequence[UnreadableReference], total: int) -> str:
    domain, expects = unread[0].domain, unread[0].expects
    listed = "; ".join(
        f"row {r.row}: {_shortened(r.text)!r}{f' ({r.note})' if r.note else ''}"
        for r in unread[:N_LISTED]
    )
    more = f"; and {len(unread) - N_LISTED:,} more" if len(unread) > N_LISTED else ""
    return (
        f"{name}: {len(unread):,} of {total:,} references cannot be read"
        f"{f' as {expects}' if expects else ''} (domain {domain}) and do not count: "
        f"{listed}{more}. Correct them, or name another domain"
    )


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def failed_note(report: Report) -> str:
    """Return a note on the failed problems that the accuracy counts as wrong; "" if none."""
    n, others = report.n_failed_scored, report.accuracy_of_others
    if not n:
        return ""
    problems, wrong = ("problem", "counts") if n == 1 else ("problems", "count")
    failed = f"{n:,} {problems} that failed {wrong} as wrong"
    return failed if others is None else f"{failed}; of the other {others.n:,}: {others.value:.1%}"


def undecided_note(report: Report, directory: str | Path) -> str:
    """Return a note on the answers that could not be compared with a reference; "" if none."""
    if not report.undecided:
        return ""
    n = len(report.undecided)
    return (
        f"{n:,} {'answer' if n == 1 else 'answers'} could not be compared with a reference and "
        f"{'counts' if n == 1 else 'count'} as wrong; for the reason: leadline answers --job "
        f"{directory} --problem {report.undecided[0]}"
    )


def require_readable(references: References, path: str | Path) -> References:
    """Return the references; PlanError when there are some and none can be read."""
    if references.unreadable and not references.answers:
        raise PlanError("\n".join(unreadable_notes(references, path)))
    return references


def correctness(
    results: Iterable[Result],
    references: RightAnswers,
    domains: Mapping[str, str],
    plan: Plan,
    execution: Execution,
) -> Mapping[str, bool | None]:
    """Return whether each problem with a reference was answered correctly, as `score` does.

    `results` are taken once, one after another.
    """
    if not references:
        return {}
    known = (r for r in results if r.problem_id in references)
    first = next(known, None)
    if first is None:  # so that no process starts
        return {}
    scored = itertools.chain([first], known)
    return compare_answers(plan, execution, lambda a: score(scored, references, domains, a.accepts))


def passing_share(job: FinishedJob, verifier: str) -> Estimate | None:
    """Return the share of problems whose chosen answer is one that a verifier fully accepts.

    A problem without an answer counts as not accepted, an invalid row not at all.
    """
    found = []
    for result in job.results_in_order():
        if result.status is Status.INVALID:
            continue
        chosen = {i for c in result.clusters if c.answer == result.answer for i in c.ordinals}
        pool = job.pools.get(result.problem_id, ())
        verdicts = (v for trace in pool if trace.ordinal in chosen for v in trace.verdicts)
        found.append(any(v.verifier == verifier and v.score == 1 for v in verdicts))
    return share_estimate(found)


def summarise(
    job: Job,
    right: Mapping[str, bool | None],
    unreadable: Collection[str] = (),
    *,
    seconds: float,
    start_seconds: float,
    n_resumed: int,
    n_new_tokens: int,
    batch_output: Path | None,
    interrupted: bool,
    outages: Outages | None = None,
    chosen: str = "",
    execution: Execution | None = None,
    ended_by: str = "",
) -> Summary:
    """Return the summary of an open job after a run of `seconds`.

    The engine was up after the first `start_seconds` of them. `unreadable` has the ids of the
    problems whose references cannot be read. `execution` has the prices and the budget.
    """
    execution, spent = execution or Execution(), job.spent
    serving = seconds - start_seconds
    failed: list[Fault] = []
    invalid: list[Fault] = []
    faults = {Status.FAILED: failed, Status.INVALID: invalid}
    n_current = 0

    def results() -> Iterator[Result]:
        nonlocal n_current
        for result in job.iter_results():
            n_current += result.fingerprint == job.fingerprint
            listed = faults.get(result.status)
            if listed is not None and len(listed) < N_LISTED:
                listed.append(Fault(result.problem_id, result.error))
            yield result

    numbers = report(results(), right, seconds, unreadable)
    n_undecided, undecided = job.journal.notes()
    n_valid = numbers.n_results - numbers.n_by_status[Status.INVALID]
    return Summary(
        directory=str(job.directory),
        results=str(job.results_path),
        batch_output=None if batch_output is None else str(batch_output),
        report=numbers,
        n_open=len(job.problems) - n_current,
        n_outdated=n_valid - n_current,
        n_resumed=n_resumed,
        start_seconds=start_seconds,
        tokens_per_second=n_new_tokens / serving if serving > 0 and n_new_tokens else None,
        n_undecided=n_undecided,
        undecided=undecided,
        failed=tuple(failed),
        invalid=tuple(invalid),
        interrupted=interrupted,
        n_retries=outages.n_retries if outages else 0,
        paused_seconds=outages.total_seconds() if outages else 0.0,
        retry_reason=outages.reason if outages else "",
        chosen=chosen,
        spent=spent,
        usd=execution.prices.usd(spent) if execution.prices else None,
        budget=execution.budget,
        ended_by=ended_by,
    )


class Evaluation:
    """An evaluation of a job, to which problems are added one by one.

    Only numbers are kept of a problem: results have neither answers nor clusters. The first result
    of a problem is the job's own, then come those of the selectors in their order.
    """

    def __init__(
        self,
        selectors: Mapping[str, Selector],
        references: RightAnswers,
        domains: Mapping[str, str],
        accepts: Accepts,
    ) -> None:
        self._selectors, self._references = selectors, references
        self._domains, self._accepts = domains, accepts
        self._results: dict[str, list[Result]] = {}
        self._right: dict[str, list[bool | None]] = {}
        self._n_other: Counter[str] = Counter()
        self._votes: dict[str, VoteCounts] = {}
        self.n_traces = 0
        self.n_short = 0  # problems that were not sampled in full
        self.metrics: set[str] = set()  # that some trace has

    async def add(self, result: Result, pool: Sequence[Trace]) -> None:
        """Add a problem with its result and its pool."""
        id = result.problem_id
        results = [result, *(reselected(result, pool, s) for s in self._selectors.values())]
        keys = [r.answer.key if r.answer else None for r in results]
        self._n_other.update(
            n for n, k in zip(self._selectors, keys[1:], strict=True) if k != keys[0]
        )
        if id in self._references:
            scored = self._references, self._domains, self._accepts
            self._right[id] = [await is_result_right(r, *scored) for r in results]
            right = await right_keys_of(
                pool, self._references[id], self._domains[id], self._accepts
            )
            self._votes[id] = vote_counts(pool, right)
        self._results[id] = [changed(r, answer=None, clusters=()) for r in results]
        self.n_traces += len(pool)
        self.n_short += result.n_planned is not None and n_sampled(pool) < result.n_planned
        self.metrics.update(*(trace.metrics for trace in pool))

    def results(self, file: ProblemFile | None, place: int = 0) -> list[Result]:
        """Return the results, the job's own or those of a selector, in the order of a file."""
        return in_order({id: results[place] for id, results in self._results.items()}, file)

    def right(self, file: ProblemFile | None, place: int = 0) -> dict[str, bool | None]:
        """Return which of these are right, as `score` does, in the same order."""
        ids = (r.problem_id for r in self.results(file, place))
        return {id: self._right[id][place] for id in ids if id in self._right}

    def rankings(self, file: ProblemFile | None, unreadable: Collection[str]) -> list[Ranking]:
        """Return the evaluation of each selector; `unreadable` is as in `report`."""
        ranked = []
        for place, name in enumerate(self._selectors, 1):
            results, right = self.results(file, place), self.right(file, place)
            faults = [r.error for r in results if r.status is Status.FAILED]
            error = faults[0] if faults else ""
            numbers = report(results, right, 0.0, unreadable)
            ranked.append(Ranking(name, numbers, self._n_other[name], len(faults), error))
        return ranked

    def curve(self, file: ProblemFile | None, ks: Sequence[int]) -> list[Point]:
        """Return pass@k and maj@k for each k in `ks`, by default for the powers of two."""
        ids = (r.problem_id for r in self.results(file))
        return scaling([self._votes[id] for id in ids if id in self._votes], ks)


def evaluate_job(
    reader: JobReader,
    selectors: Mapping[str, Selector],
    references: RightAnswers,
    domains: Mapping[str, str],
    execution: Execution,
) -> Evaluation:
    """Return the evaluation of the problems in `domains`, read and compared in batches."""

    async def evaluated(annotator: Annotator) -> Evaluation:
        evaluation = Evaluation(selectors, references, domains, annotator.accepts)
        contents = reader.contents(domains)
        while batch := list(itertools.islice(contents, _BATCH)):
            await asyncio.gather(
                *(evaluation.add(result, pool) for _, result, pool, _ in batch if result)
            )
        return evaluation

    return compare_answers(reader.plan, execution, evaluated)
