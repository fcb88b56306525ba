"""The pages of studies: the surface of a sweep, the frontier of a replay, two jobs side by side.

The one rule: every number was computed by its study, or is computed by the study's own functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.core.errors import PlanError
from orchestrator.core.values import Result, Usage
from orchestrator.report.comparison import JobComparison, compared
from orchestrator.report.scored import ScoredJob, ScoredProblem
from orchestrator.studies.estimates import Estimate
from orchestrator.studies.scaling import attempts, majority_at_k, votes
from orchestrator.studies.sweep.surface import Surface

SURFACE = "surface.json"


@dataclass(frozen=True, slots=True)
class SweepCell:
    """The problems behind one effort of a sweep: by id, the chance of a right vote at each width.

    `job` is the place of its job in the report. The chances are those of the majority.
    """

    job: int
    chances: dict[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class SweepPage:
    """A sweep: its surface, and the problems behind each effort, in the order of `levels`."""

    name: str
    surface: Surface
    efforts: tuple[SweepCell, ...]


@dataclass(frozen=True, slots=True)
class PairedProblem:
    """A problem in two jobs: whether each was right, and its output tokens."""

    id: str
    right: tuple[bool, bool]
    answers: tuple[str | None, str | None]
    tokens: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ComparisonPage:
    """Two jobs of the report, by their places, on the problems that both answered."""

    first: int
    second: int
    comparison: JobComparison
    problems: tuple[PairedProblem, ...]


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A row of `leadline replay --json`."""

    source: str
    strategy: str
    selector: str
    accuracy: Estimate
    tokens: Estimate
    path_tokens: float
    n_attempts: float
    pruned_tokens: float
    probe_tokens: float
    pruning_errors: float
    full_tokens: float | None
    full_accuracy: float | None


@dataclass(frozen=True, slots=True)
class ReplayPage:
    """What `leadline replay --json` printed."""

    name: str
    points: tuple[FrontierPoint, ...]


def read_surface(directory: Path) -> Surface:
    """Return the surface of a finished sweep; PlanError when it cannot be read."""
    path = directory / SURFACE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Surface)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise PlanError(f"{path} is not the surface of a sweep: {error}") from error


def effort_folders(directory: Path) -> list[Path]:
    """Return the jobs in the directory of a sweep, in the order of their names."""
    return sorted(path.parent for path in directory.glob("*/journal.db"))


def sweep_page(
    directory: Path, surface: Surface, jobs: Sequence[tuple[int, ScoredJob]]
) -> SweepPage:
    """Return a sweep; `jobs` are those of its efforts, with their places in the report."""
    by_effort = {(_depth(job), _thinking(job)): (place, job) for place, job in jobs}
    cells = []
    for level in surface.levels:
        place, job = by_effort.get((level.depth, level.thinking), (-1, None))
        cells.append(SweepCell(place, {} if job is None else _chances(job, surface.widths)))
    return SweepPage(directory.name, surface, tuple(cells))


def _depth(job: ScoredJob) -> int:
    return job.plan.sampling.depth


def _thinking(job: ScoredJob) -> int:
    forced = job.plan.strategy.options.get("thinking")
    return forced if isinstance(forced, int) else job.plan.sampling.thinking_tokens


def _chances(job: ScoredJob, widths: Sequence[int]) -> dict[str, tuple[float, ...]]:
    found = {}
    for problem in job.problems:
        pool = attempts(problem.pool)
        if problem.accepted and len(pool) >= max(widths):
            right = {a.trace.answer.key for a in problem.attempts if a.right and a.trace.answer}
            chances = majority_at_k(votes(pool), len(pool), right, widths)
            found[problem.problem.id] = tuple(round(chance, 4) for chance in chances)
    return found


def comparison_page(first: tuple[int, ScoredJob], second: tuple[int, ScoredJob]) -> ComparisonPage:
    """Return two jobs side by side; PlanError when they have no scored problem in common."""
    (place_a, a), (place_b, b) = first, second
    comparison = compared(a, b)
    left = {p.problem.id: p for p in a.problems}
    right = {p.problem.id: p for p in b.problems}
    shared = [id for id in a.correctness if id in b.correctness and id in right]
    return ComparisonPage(
        place_a, place_b, comparison, tuple(_paired(left[id], right[id]) for id in shared)
    )


def _paired(a: ScoredProblem, b: ScoredProblem) -> PairedProblem:
    return PairedProblem(
        a.problem.id,
        (bool(a.right), bool(b.right)),
        (_answer(a.result), _answer(b.result)),
        (_tokens(a.result), _tokens(b.result)),
    )


def _answer(result: Result | None) -> str | None:
    return result.answer.text[:120] if result and result.answer else None


def _tokens(result: Result | None) -> int:
    return sum(result.usage.values(), Usage()).output_tokens if result else 0


def read_replay(path: Path) -> ReplayPage:
    """Return what `leadline replay --json` printed into a file; PlanError if it is not that."""
    try:
        rows: list[dict[str, Any]] = msgspec.json.decode(
            path.read_bytes(), type=list[dict[str, Any]]
        )
        points = [msgspec.convert({**row, **row["setting"]}, FrontierPoint) for row in rows]
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise PlanError(
            f"{path} is neither the directory of a job or sweep nor the output of "
            f"`leadline replay --json`: {error}"
        ) from error
    return ReplayPage(path.stem, tuple(points))
