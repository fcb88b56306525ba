"""Finished jobs as labelled questions: how often each model gave the right answer and every wrong one. Reads journals and references.

Several jobs on the same problems count as one pool. A model is then named by its pool, or where two jobs name theirs alike, by its job's
directory; answers of different jobs are brought into common classes, so that what two models say in two ways counts as one answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from orchestrator.commission import recorded
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.types import Answer, Trace
from orchestrator.ensembles import Shares, shares
from orchestrator.evaluate import Same, attempts, read_references, right_keys
from orchestrator.fleet import Fleet
from orchestrator.journal import Journal
from orchestrator.problems import read_problems
from orchestrator.summary import judge, pool

Pools = dict[str, list[Trace]]  # by problem id


@dataclass(frozen=True, slots=True)
class Labelled:
    """What jobs say of models: `questions` by problem id, each with an attempt of every model; `n_left_out` with references lack one."""

    models: tuple[str, ...]
    paths: tuple[str, ...]
    n_traces: tuple[int, ...]
    questions: Mapping[str, Shares]
    n_left_out: int


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    plan: Plan
    pools: Pools
    problems: str


def labelled(directories: Sequence[Path], problems: str = "") -> Labelled:
    """Return the labelled questions of finished jobs; `problems` names the file of the references, by default the jobs' own.

    PlanError where there is no job, no reference, fewer than two models, or no question that every model was asked.
    """
    jobs = [_read(directory) for directory in directories]
    source = problems or next((job.problems for job in jobs if job.problems), "")
    if not source:
        raise PlanError(
            "these jobs were begun from Python and name no problem file; give the one with the reference answers: --problems FILE"
        )
    references = read_references(source)
    if not references:
        raise PlanError(f"{source} has no reference answers (`answer`), without which no weights can be found")
    paths = _models(jobs)
    if len(paths) < 2:
        raise PlanError(f"only one model was asked, {next(iter(paths), 'none')!r}: name a job in which several were, or one job for each")
    pools, right = judge(jobs[0].plan, Fleet(), lambda same: _merged(jobs, references, _domains(jobs[0].plan, source), same))
    models = tuple(paths)
    known = {id: attempts(pool) for id, pool in pools.items() if id in references}
    asked = {id: pool for id, pool in known.items() if {t.model for t in pool} >= set(models)}
    if not asked:
        raise PlanError(f"no question with a reference in {source} was asked of all of {', '.join(models)}")
    counts = Counter(t.model for pool in asked.values() for t in pool)
    questions = {id: _question(pool, models, right[id]) for id, pool in asked.items()}
    return Labelled(models, tuple(paths.values()), tuple(counts[m] for m in models), questions, len(known) - len(asked))


def _question(pool: Sequence[Trace], models: Sequence[str], right: frozenset[str]) -> Shares:
    return shares(pool, models, lambda answer: answer.key in right)


def _read(directory: Path) -> _Job:
    asked = recorded(directory)
    journal = Journal(directory / "journal.db")
    try:
        plan = msgspec.convert(msgspec.json.decode(journal.meta("plan") or "{}"), Plan)
        pools = {id: pool(journal, id) for id in journal.concluded()}
    finally:
        journal.close()
    if not pools:
        raise PlanError(f"{directory}: no problem of it is done; finish it first: leadline resume {directory}")
    return _Job(directory.resolve().name, plan, pools, asked.problems if asked else "")


def _models(jobs: Sequence[_Job]) -> dict[str, str]:
    """Rename the traces' models where jobs name theirs alike, and return the path of each model that was asked, by name."""
    asked = [{t.model for traces in job.pools.values() for t in attempts(traces)} for job in jobs]
    used = [[name for name in job.plan.models if name in names] for job, names in zip(jobs, asked, strict=True)]
    twice = {name for name, n in Counter(name for names in used for name in names).items() if n > 1}
    paths: dict[str, str] = {}
    for job, names in zip(jobs, used, strict=True):
        for name in names:
            label = name if name not in twice else job.name if len(names) == 1 else f"{job.name}/{name}"
            if label in paths:
                raise PlanError(f"two of the jobs are called {label!r}: rename the directory of one")
            paths[label] = job.plan.models[name].path
            for traces in job.pools.values():
                traces[:] = [replace(t, model=label) if t.model == name else t for t in traces]
    return paths


def _domains(plan: Plan, source: str) -> dict[str, str]:
    file = read_problems(source, default_domain=plan.domain, domains=plan.domains)
    return {problem.id: problem.domain for problem in file.problems}


async def _merged(
    jobs: Sequence[_Job], references: Mapping[str, str], domains: Mapping[str, str], same: Same
) -> tuple[Pools, Mapping[str, frozenset[str]]]:
    """Return one pool per problem, its answers in common classes and its ordinals made to differ, and the keys of right answers."""
    pools: Pools = {}
    for id in (id for id in domains if any(id in job.pools for job in jobs)):  # in the order of the file: folds are made by it
        classes: dict[str, str] = {}  # key -> text of its first answer
        for job in jobs:
            keys = {t.answer.key: t.answer.text for t in job.pools.get(id, ()) if t.answer is not None}
            common = {key: await _class_of(key, text, classes, domains[id], same) for key, text in keys.items()}
            first = 1 + max((t.ordinal for t in pools.get(id, ())), default=-1)
            pools.setdefault(id, []).extend(_moved(t, first, common) for t in job.pools.get(id, ()))
    return pools, await right_keys(pools, references, domains, same)


async def _class_of(key: str, text: str, classes: dict[str, str], domain: str, same: Same) -> str:
    if key not in classes:
        for known, other in classes.items():
            if await same(domain, text, other):
                return known
        classes[key] = text
    return key


def _moved(trace: Trace, first: int, common: Mapping[str, str]) -> Trace:
    answer = trace.answer and Answer(trace.answer.text, common[trace.answer.key])
    parent = None if trace.parent is None else trace.parent + first
    return replace(trace, ordinal=trace.ordinal + first, parent=parent, answer=answer)
