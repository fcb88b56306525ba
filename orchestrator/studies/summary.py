"""The summary of a job: its results, their cost and their accuracy.

Only this module joins a job's results with reference answers for the command line. The numbers come
from `orchestrator.studies.evaluate`; the command line renders the tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Selector
from orchestrator.core.values import Result, Status, Trace
from orchestrator.jobs.job import Job
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.studies.evaluate import Report, Same, report, reselect, right_keys, score
from orchestrator.studies.scaling import Point, attempts, scaling

T = TypeVar("T")
N_LISTED = 3  # failed problems that are listed, and invalid ones


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem that failed or was invalid, with its error."""

    id: str
    error: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a run.

    `n_open` problems have no result yet; `n_resumed` had a result before this run. Paths are
    written as the user would write them.
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
    chosen: str = ""  # the strategy that `auto` resolved to, and the reason

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


def compare_answers(plan: Plan, execution: Execution, work: Callable[[Same], Awaitable[T]]) -> T:
    """Return the result of `work`, which receives a function that compares answers.

    The comparison processes end when `work` returns.
    """

    async def compared() -> T:
        async with aclosing(
            AnswerWorkers(n_workers=execution.checkers, limit_seconds=execution.checker_seconds)
        ) as workers:
            return await work(Annotator(replace(plan, verifiers=()), workers).same)

    return asyncio.run(compared())


def correctness(
    results: Sequence[Result],
    references: Mapping[str, str],
    domains: Mapping[str, str],
    plan: Plan,
    execution: Execution,
) -> dict[str, bool]:
    """Return whether each problem with a reference was answered correctly."""
    if not any(r.problem_id in references for r in results):
        return {}
    return compare_answers(plan, execution, lambda same: score(results, references, domains, same))


def summarise(
    job: Job,
    right: Mapping[str, bool],
    *,
    seconds: float,
    start_seconds: float,
    n_resumed: int,
    n_new_tokens: int,
    batch_output: Path | None,
    interrupted: bool,
    chosen: str = "",
) -> Summary:
    """Return the summary of an open job after a run of `seconds`.

    The engine was up after the first `start_seconds` of them.
    """
    serving = seconds - start_seconds
    results = job.results()
    n_undecided, undecided = job.journal.notes()
    return Summary(
        directory=str(job.directory),
        results=str(job.results_path),
        batch_output=None if batch_output is None else str(batch_output),
        report=report(results, right, seconds),
        n_open=len(job.problems) - sum(r.status is not Status.INVALID for r in results),
        n_resumed=n_resumed,
        start_seconds=start_seconds,
        tokens_per_second=n_new_tokens / serving if serving > 0 and n_new_tokens else None,
        n_undecided=n_undecided,
        undecided=undecided,
        failed=_faults(results, Status.FAILED),
        invalid=_faults(results, Status.INVALID),
        interrupted=interrupted,
        chosen=chosen,
    )


def _faults(results: Iterable[Result], status: Status) -> tuple[Fault, ...]:
    return tuple(Fault(r.problem_id, r.error) for r in results if r.status is status)[:N_LISTED]


def rankings(
    results: Sequence[Result],
    pools: Mapping[str, Sequence[Trace]],
    selectors: Mapping[str, Selector],
    right: Callable[[Sequence[Result]], Mapping[str, bool]],
) -> list[Ranking]:
    """Return the evaluation of each selector on finished pools.

    `right` returns which results of a selector are correct.
    """
    own = {r.problem_id: r.answer.key if r.answer else None for r in results}
    ranked = []
    for name, selector in selectors.items():
        again = reselect(results, pools, selector)
        n_other = sum((r.answer.key if r.answer else None) != own[r.problem_id] for r in again)
        faults = [r.error for r in again if r.status is Status.FAILED]
        ranked.append(
            Ranking(
                name,
                report(again, right(again), 0.0),
                n_other,
                len(faults),
                faults[0] if faults else "",
            )
        )
    return ranked


def curve(
    pools: Mapping[str, Sequence[Trace]],
    references: Mapping[str, str],
    domains: Mapping[str, str],
    ks: Sequence[int],
    plan: Plan,
    execution: Execution,
) -> list[Point]:
    """Return pass@k and maj@k for each k in `ks`.

    If `ks` is empty, the default is the powers of two up to the largest number of attempts in a
    pool.
    """
    right = compare_answers(
        plan, execution, lambda same: right_keys(pools, references, domains, same)
    )
    largest = max((len(attempts(pool)) for pool in pools.values()), default=0)
    return scaling(pools, right, ks or [2**i for i in range(largest.bit_length())])
