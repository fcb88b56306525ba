"""Many replays: strategies over recordings and seeds, in several processes, with intervals.

The one rule: the unit of every interval is the question. Seeds only shuffle the same traces, so
values are first averaged over seeds. A question that several models answered (the same in every
source) is one unit with all its models. Nothing is printed.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from statistics import fmean
from typing import Any, TypeAlias

from orchestrator.core.errors import describe
from orchestrator.core.plan import Budget, Plan
from orchestrator.core.protocols import Selector
from orchestrator.core.values import PluginSpec, Purpose, Request, Trace
from orchestrator.core.votes import pruned
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.studies.estimates import Estimate, mean_estimate
from orchestrator.studies.replay.job import explore_job
from orchestrator.studies.replay.recording import (
    Draw,
    RecordedProblem,
    Recording,
    ReplayError,
    draw_order,
)
from orchestrator.studies.replay.simulator import UNLIMITED, SimulatedRun, Stretch, Tape, explore

MAJORITY = PluginSpec("majority")


@dataclass(frozen=True, slots=True)
class ReplaySetting:
    """A strategy, and the selector that votes on its pool."""

    strategy: PluginSpec
    selector: PluginSpec = MAJORITY


@dataclass(frozen=True, slots=True)
class Conditions:
    """How the recordings are played.

    A probe costs `probe_tokens`. Recordings do not report the cost of their probes, so the default
    is 0. With `job_tokens` the problems of a recording are one job that has so many tokens, with at
    most `window` requests at once; without, each problem runs by itself.
    """

    n_seeds: int = 100
    draw: Draw = "shuffled"
    probe_tokens: int = 0
    budget: Budget = Budget()
    job_tokens: int = 0
    window: int = Execution().window


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """One exploration.

    `full_tokens` and `full_right` are the cost and the vote of all `n_planned` attempts of the same
    draw. `pruned_tokens` were spent on attempts that did not end. `pruning_error`: one of those
    attempts had a right answer while the vote was wrong. `path_tokens` is the length of the
    critical path, in tokens generated one after another.
    """

    right: bool
    tokens: int
    pruned_tokens: int
    probe_tokens: int
    path_tokens: int
    n_attempts: int
    pruning_error: bool
    full_tokens: int | None
    full_right: bool | None


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """A setting on one recording, or on all of them (`source` "all").

    `units` are per-question means of (right, tokens), shape (n, 2).
    """

    source: str
    setting: ReplaySetting
    accuracy: Estimate
    tokens: Estimate
    path_tokens: float
    n_attempts: float
    pruned_tokens: float
    probe_tokens: float
    pruning_errors: float
    full_tokens: float | None
    full_accuracy: float | None
    units: dict[str, tuple[float, float]] = field(default_factory=dict)


class _NotRanked(Exception):
    """A selector cannot rank a pool; the message says why. Never leaves this file."""


@dataclass(frozen=True, slots=True)
class _Task:
    source: int  # index of a recording
    setting: ReplaySetting
    seeds: range


def play_all(
    recordings: Sequence[Recording],
    settings: Sequence[ReplaySetting],
    conditions: Conditions,
    n_processes: int = 0,
    *,
    note: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda n_done, n: None,
) -> list[ReplayRow]:
    """Return a row per recording and setting; for several recordings, also a row per setting.

    Problems with a reference that cannot be read are left out, and so are those that lack what a
    selector ranks by, in all rows of their recording; `note` receives a text on these.
    `n_processes` 0 means one per core. `progress` receives how many parts of the work are done, and
    of how many. Raises ReplayError when a recording has no references, or lacks a trace that a
    strategy requests.
    """
    recordings = [recording.measurable() for recording in recordings]
    for recording in recordings:
        lacking = [p.problem.id for p in recording.problems if p.right is None]
        if lacking:
            raise ReplayError(
                f"{recording.name}: {len(lacking)} problems have no reference answer, "
                f"{lacking[0]!r} first; name their file"
            )
    cases = list(product(range(len(recordings)), range(len(settings))))
    tasks = [_Task(i, settings[j], seeds) for i, j in cases for seeds in _chunks(conditions)]
    outcomes: dict[tuple[int, int], dict[str, list[ReplayOutcome]]] = {case: {} for case in cases}
    faults: list[dict[str, str]] = [{} for _ in recordings]
    played = _mapped(recordings, tasks, conditions, n_processes or os.cpu_count() or 1)
    for n_done, task in enumerate(tasks, 1):
        for problem_id, outcome in next(played):
            if isinstance(outcome, str):
                faults[task.source].setdefault(problem_id, outcome)
            else:
                case = (task.source, settings.index(task.setting))
                outcomes[case].setdefault(problem_id, []).append(outcome)
        progress(n_done, len(tasks))
    for case in cases:
        for problem_id in faults[case[0]]:
            outcomes[case].pop(problem_id, None)
    for recording, left_out in zip(recordings, faults, strict=True):
        _report_left_out(recording, left_out, note)
    rows = [_row(recordings[i].name, settings[j], outcomes[i, j]) for i, j in cases]
    if len(recordings) > 1:
        are_same = have_same_questions(recordings)
        if not are_same and len({frozenset(_by_id(r)) for r in recordings}) == 1:
            note("the sources use the same ids for different questions; each counts by itself")
        merged = [
            _merged({r.name: outcomes[i, j] for i, r in enumerate(recordings)}, are_same)
            for j in range(len(settings))
        ]
        rows += [_row("all", setting, pool) for setting, pool in zip(settings, merged, strict=True)]
    return rows


def have_same_questions(recordings: Sequence[Recording]) -> bool:
    """Tell whether all recordings are of the same questions.

    Ids may be mere positions in a file, so the texts must agree too, as far as they are recorded,
    and the right answers.
    """
    first, *others = map(_by_id, recordings)
    return all(
        other.keys() == first.keys() and all(_agree(first[id], other[id]) for id in first)
        for other in others
    )


def _by_id(recording: Recording) -> dict[str, RecordedProblem]:
    return {recorded.problem.id: recorded for recorded in recording.problems}


def _agree(a: RecordedProblem, b: RecordedProblem) -> bool:
    texts, right = (a.problem.prompt, b.problem.prompt), (a.right, b.right)
    return (not all(texts) or texts[0] == texts[1]) and (
        not all(right) or not (a.right or frozenset()).isdisjoint(b.right or ())
    )


def _report_left_out(
    recording: Recording, left_out: dict[str, str], note: Callable[[str], None]
) -> None:
    """Note the problems that were left out; ReplayError when no other remains."""
    if not left_out:
        return
    problem_id, reason = next(iter(left_out.items()))
    if len(left_out) == len(recording.problems):
        raise ReplayError(f"{recording.name}, problem {problem_id}: {reason}")
    note(
        f"{recording.name}: {len(left_out):,} of {len(recording.problems):,} problems are left out "
        f"of all rows, e.g. {problem_id}: {reason}"
    )


def difference(row: ReplayRow, other: ReplayRow) -> Estimate:
    """Return how much more accurate `row` is than `other`, paired by question.

    Raises KeyError when they are not on the same questions.
    """
    return mean_estimate([row.units[unit][0] - right for unit, (right, _) in other.units.items()])


def _chunks(conditions: Conditions) -> list[range]:
    n = 1 if conditions.draw == "recorded" else conditions.n_seeds  # one recorded order
    size = max(1, n // 4)
    return [range(first, min(n, first + size)) for first in range(0, n, size)]


_worker: dict[str, Any] = {}  # the inputs of a worker process, set once when it starts


# problem ids with their outcomes, or why there is none
_Played: TypeAlias = list[tuple[str, ReplayOutcome | str]]


def _mapped(
    recordings: Sequence[Recording], tasks: Sequence[_Task], conditions: Conditions, n: int
) -> Iterator[_Played]:
    if n == 1 or len(tasks) == 1:
        for task in tasks:
            yield _played(recordings[task.source], task, conditions)
        return
    with ProcessPoolExecutor(
        min(n, len(tasks)), initializer=_begin, initargs=(recordings, conditions)
    ) as pool:
        yield from pool.map(_play_in_worker, tasks)


def _begin(recordings: Sequence[Recording], conditions: Conditions) -> None:
    _worker["recordings"], _worker["conditions"] = recordings, conditions
    gc.freeze()  # the recordings stay in memory; without this, each collection would traverse them


def _play_in_worker(task: _Task) -> _Played:
    return _played(_worker["recordings"][task.source], task, _worker["conditions"])


def _played(recording: Recording, task: _Task, conditions: Conditions) -> _Played:
    """Return one outcome per problem and seed, or why its selector gives none."""
    strategy = registry.load("strategies", task.setting.strategy)
    selector = registry.load("selectors", task.setting.selector)
    n_planned: int | None = getattr(strategy, "n_planned", None)
    outcomes: _Played = []
    for seed in task.seeds:
        plan = Plan(
            strategy=task.setting.strategy, sampling=UNLIMITED, budget=conditions.budget, seed=seed
        )
        orders = [draw_order(len(p.traces), conditions.draw, seed) for p in recording.problems]
        tapes = [
            Tape(recorded, order, conditions.probe_tokens)
            for recorded, order in zip(recording.problems, orders, strict=True)
        ]
        runs = (
            explore_job(tapes, strategy, plan, conditions.job_tokens, conditions.window)
            if conditions.job_tokens
            else [explore(tape, strategy, plan) for tape in tapes]
        )
        for tape, order, run in zip(tapes, orders, runs, strict=True):
            recorded = tape.recorded
            if run.session.error:
                raise ReplayError(
                    f"{recording.name}, problem {recorded.problem.id}: {run.session.error}"
                )
            full = None if n_planned is None or n_planned > len(order) else order[:n_planned]
            try:
                outcomes.append((recorded.problem.id, _outcome(tape, run, selector, full)))
            except _NotRanked as fault:
                outcomes.append((recorded.problem.id, str(fault)))
    return outcomes


def _outcome(
    tape: Tape, run: SimulatedRun, selector: Selector, full: Sequence[int] | None
) -> ReplayOutcome:
    recorded, traces = tape.recorded, run.session.traces
    # the pool that a live job would vote on
    right = _is_right(recorded, selector, pruned(list(traces.values()), run.session.dropped))
    ends: dict[int, Stretch] = {}  # attempt -> its last stretch
    for stretch in tape.stretches.values():
        if stretch.root not in ends or stretch.last > ends[stretch.root].last:
            ends[stretch.root] = stretch
    unfinished = [end for end in ends.values() if end.last < recorded.traces[end.index].n_tokens]
    held = any(
        (a := recorded.traces[end.index].answer) is not None and a.key in (recorded.right or ())
        for end in unfinished
    )
    return ReplayOutcome(
        right=right,
        tokens=run.session.output_tokens,
        pruned_tokens=sum(end.last for end in unfinished),
        probe_tokens=sum(
            t.usage.output_tokens for t in traces.values() if t.purpose is not Purpose.SOLVE
        ),
        path_tokens=run.path_tokens,
        n_attempts=len(ends),
        pruning_error=held and not right,
        full_tokens=None if full is None else sum(recorded.traces[i].n_tokens for i in full),
        full_right=None if full is None else _is_right(recorded, selector, _whole(recorded, full)),
    )


def _whole(recorded: RecordedProblem, indices: Sequence[int]) -> list[Trace]:
    tape = Tape(recorded, indices)
    return [tape.play(Request(ordinal=i)) for i in range(len(indices))]


def _is_right(recorded: RecordedProblem, selector: Selector, pool: Sequence[Trace]) -> bool:
    try:
        clusters = selector(pool)
    # a plugin may raise anything; usually the recording lacks the values it ranks by
    except Exception as error:
        raise _NotRanked(f"the selector failed: {describe(error)}") from error
    return bool(clusters) and clusters[0].answer.key in (recorded.right or ())


def _merged(
    pools: dict[str, dict[str, list[ReplayOutcome]]], same: bool
) -> dict[str, list[ReplayOutcome]]:
    """Return several sources' outcomes by question, merged if all have the same questions."""
    merged: dict[str, list[ReplayOutcome]] = {}
    for name, pool in pools.items():
        for problem_id, outcomes in pool.items():
            merged.setdefault(problem_id if same else f"{name}/{problem_id}", []).extend(outcomes)
    return merged


def _row(source: str, setting: ReplaySetting, pool: dict[str, list[ReplayOutcome]]) -> ReplayRow:
    def mean(value: Callable[[ReplayOutcome], float]) -> float:
        return fmean(fmean(map(value, outcomes)) for outcomes in pool.values())

    units = {
        id: (fmean(o.right for o in outcomes), fmean(o.tokens for o in outcomes))
        for id, outcomes in pool.items()
    }
    has_full = all(o.full_tokens is not None for outcomes in pool.values() for o in outcomes)
    return ReplayRow(
        source,
        setting,
        accuracy=mean_estimate([right for right, _ in units.values()]),
        tokens=mean_estimate([tokens for _, tokens in units.values()]),
        path_tokens=mean(lambda o: o.path_tokens),
        n_attempts=mean(lambda o: o.n_attempts),
        pruned_tokens=mean(lambda o: o.pruned_tokens),
        probe_tokens=mean(lambda o: o.probe_tokens),
        pruning_errors=mean(lambda o: o.pruning_error),
        full_tokens=mean(lambda o: o.full_tokens or 0) if has_full else None,
        full_accuracy=mean(lambda o: bool(o.full_right)) if has_full else None,
        units=units,
    )
