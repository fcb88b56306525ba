"""Best-of-infinity: the weights of several models in one vote, fitted on questions with references.

The method is from arXiv 2509.21091, section 4. Each draw of an ensemble uses model i with
probability w_i. With many draws, the vote is right exactly when the mixed frequency of the right
answer exceeds that of every wrong one. This condition is linear in w, so the weights that answer
most questions right are the solution of a mixed-integer linear program (scipy's HiGHS, as in the
released code). Among these weights, the ones with the largest margin are chosen.

Differs: the largest margin is a second program, where the released code uses bisection. The big M
is 2, the smallest sufficient value, where theirs is 10,000.

The frequencies come from finished jobs. Several jobs on the same problems count as one pool. Each
model is then named by its model pool or, if two jobs use the same name, by the directory of its
job. Answers of different jobs are mapped to common classes, so that two wordings of one answer
count as one. This module runs no models; the strategy `ensemble` draws with the weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Trace
from orchestrator.core.votes import voters
from orchestrator.jobs.finished import FinishedJob, read_finished
from orchestrator.jobs.problems import read_problems
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator
from orchestrator.studies.estimates import Estimate, share_estimate
from orchestrator.studies.evaluate import (
    RightAnswers,
    right_keys,
)
from orchestrator.studies.scaling import attempts
from orchestrator.studies.summary import (
    compare_answers,
    references_in,
    require_readable,
    unreadable_notes,
)

Pools: TypeAlias = dict[str, list[Trace]]  # by problem id

_BIG = 2.0  # differences of frequencies are at least -1, margins at most 1
# the smallest margin with which a question counts as answered: above HiGHS' feasibility tolerance
# of 1e-7
_LEAST = 1e-4


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of each answer to one question, per model.

    The shares of the right answer have shape (n_models,), those of the wrong answers (n_wrong,
    n_models).
    """

    right: tuple[float, ...]
    wrong: tuple[tuple[float, ...], ...] = ()

    def won(self, weights: Sequence[float]) -> bool:
        """Return whether the vote of many draws with these weights is right.

        It is right when the share of the right answer exceeds 0 and the share of every wrong
        answer.
        """
        first, *rivals = (float(np.dot(weights, row)) for row in (self.right, *self.wrong))
        return first > max(rivals, default=0.0) + _LEAST / 2


@dataclass(frozen=True, slots=True)
class EnsembleQuestions:
    """The shares of each question in finished jobs, by problem id.

    Each question has an attempt of every model. `n_left_out` problems with references do not.
    `notes` name the references that cannot be read.
    """

    models: tuple[str, ...]
    paths: tuple[str, ...]
    n_traces: tuple[int, ...]
    shares: Mapping[str, Shares]
    n_left_out: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that add up to 1, and the number of questions they answer right in the limit.

    `margin` is the smallest lead of the right answer on these questions.
    """

    weights: tuple[float, ...]
    n_right: int
    margin: float


@dataclass(frozen=True, slots=True)
class EnsembleFit:
    """Weights in the order of the models, with the accuracy of their vote.

    Accuracies are those in the limit of many draws. `held_out` is None if there are fewer than five
    questions. `alone` is the accuracy of each model voting alone.
    """

    models: tuple[str, ...]
    paths: tuple[str, ...]
    n_traces: tuple[int, ...]
    weights: tuple[float, ...]
    margin: float
    fitted: Estimate | None
    held_out: Estimate | None
    alone: tuple[Estimate | None, ...]
    n_left_out: int


def shares(traces: Sequence[Trace], models: Sequence[str], correct: Collection[str]) -> Shares:
    """Return one question's shares from a pool.

    The shares of a model are fractions of all its traces that may vote or give no answer. They add
    up to less than 1 if it abstains. Raises ValueError when a model has no trace in the pool.
    """
    n = [sum(t.model == m for t in traces) for m in models]
    if 0 in n:
        raise ValueError(
            f"model {models[n.index(0)]!r} has no trace in this pool; "
            f"its models are {sorted({t.model for t in traces})}"
        )
    wrong: dict[str, list[float]] = {}
    right = [0.0] * len(models)
    for trace in voters(traces):
        if trace.answer is None or trace.model not in models:
            continue
        row = (
            right
            if trace.answer.key in correct
            else wrong.setdefault(trace.answer.key, [0.0] * len(models))
        )
        place = models.index(trace.model)
        row[place] += 1 / n[place]
    return Shares(tuple(right), tuple(map(tuple, wrong.values())))


def ensemble_weights(questions: Sequence[Shares]) -> Weights:
    """Return the weights that answer most of these questions right, with the largest margin.

    HiGHS breaks ties. Raises ValueError without a question, or when the number of models differs
    between questions.
    """
    n_models = len(questions[0].right) if questions else 0
    if not n_models or any(len(row) != n_models for q in questions for row in (q.right, *q.wrong)):
        raise ValueError(
            "give at least one question, and for each as many frequencies per answer as there "
            "are models"
        )
    # One row per rival. Without a wrong answer, the rival is an abstention, so that the right
    # answer must occur at all.
    leads = [
        (j, np.subtract(q.right, rival))
        for j, q in enumerate(questions)
        for rival in (q.wrong or ((0.0,) * n_models,))
    ]
    most, _ = _solved(leads, n_models, len(questions), None)
    if not most:
        return Weights((1 / n_models,) * n_models, 0, 0.0)
    _, variables = _solved(leads, n_models, len(questions), most)
    weights = np.clip(variables[:n_models], 0.0, 1.0)
    return Weights(tuple(float(w) for w in weights / weights.sum()), most, float(variables[-1]))


def cross_fitted(questions: Sequence[Shares], n_folds: int = 5) -> list[bool]:
    """Return, for each question, whether weights fitted on the other folds answer it right.

    Question i is in fold i mod `n_folds`. The result is [] for fewer questions than folds.
    """
    if len(questions) < n_folds:
        return []
    fits = [
        ensemble_weights([q for i, q in enumerate(questions) if i % n_folds != fold]).weights
        for fold in range(n_folds)
    ]
    return [question.won(fits[i % n_folds]) for i, question in enumerate(questions)]


def _solved(
    leads: Sequence[tuple[int, np.ndarray]], n_models: int, n_questions: int, most: int | None
) -> tuple[int, np.ndarray]:
    """Return the number of right questions, and the variables: weights, 0/1 per question, margin.

    Without `most`, that number is maximised at the smallest margin. With `most`, the margin is
    maximised while that many questions are right.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    n = n_models + n_questions + 1
    rows = np.zeros((len(leads), n))
    for row, (j, lead) in zip(rows, leads, strict=True):
        # w . lead - M y - margin >= -M
        row[:n_models], row[n_models + j], row[-1] = (lead, -_BIG, -1.0)
    total, count = np.zeros(n), np.zeros(n)
    total[:n_models] = 1.0
    count[n_models:-1] = 1.0
    constraints = [LinearConstraint(rows, lb=-_BIG), LinearConstraint(total, lb=1.0, ub=1.0)]
    upper = np.ones(n)
    if most is None:
        upper[-1] = _LEAST
        objective = -count
    else:
        constraints.append(LinearConstraint(count, lb=most))
        objective = np.zeros(n)
        objective[-1] = -1.0
    lower = np.zeros(n)
    lower[-1] = _LEAST
    integral = count
    solution = milp(
        objective, constraints=constraints, bounds=Bounds(lower, upper), integrality=integral
    )
    if solution.x is None:
        # answering no question right is always a solution
        raise RuntimeError(f"the program has no solution: {solution.message}")
    return round(float(count @ solution.x)), solution.x


def fit_ensemble(questions: EnsembleQuestions) -> EnsembleFit:
    """Return the weights fitted on all questions, and the accuracy of the vote in the limit."""
    shares = list(questions.shares.values())
    n_models = len(questions.models)
    fit = ensemble_weights(shares)

    def accuracy_of(weights: Sequence[float]) -> Estimate | None:
        return share_estimate([question.won(weights) for question in shares])

    return EnsembleFit(
        models=questions.models,
        paths=questions.paths,
        n_traces=questions.n_traces,
        weights=tuple(round(weight, 6) for weight in fit.weights),
        margin=fit.margin,
        fitted=accuracy_of(fit.weights),
        held_out=share_estimate(cross_fitted(shares)),
        alone=tuple(accuracy_of(row) for row in np.eye(n_models)),
        n_left_out=questions.n_left_out,
    )


def read_questions(directories: Sequence[Path], problems: str = "") -> EnsembleQuestions:
    """Return the questions of finished jobs, with references from `problems` or the jobs' files.

    Raises PlanError without a job or a reference, with fewer than two models, or without a question
    that every model attempted.
    """
    jobs = [_finished(directory) for directory in directories]
    source = next((job for job in jobs if job.source), jobs[0]).reference_file(problems)
    plan, domains = jobs[0].plan, _domains(jobs[0].plan, source)
    read = require_readable(references_in(source, domains, plan, Execution()), source)
    references = read.answers
    if not references:
        raise PlanError(
            f"{source} has no reference answers (`answer`), which are needed to fit weights"
        )
    paths = _models(jobs)
    if len(paths) < 2:
        raise PlanError(
            f"only one model was sampled, {next(iter(paths), 'none')!r}: "
            "name a job in which several were, or one job for each"
        )
    pools, right = compare_answers(
        plan, Execution(), lambda annotator: _merged(jobs, references, domains, annotator)
    )
    models = tuple(paths)
    known = {id: attempts(pool) for id, pool in pools.items() if id in references}
    common = {id: pool for id, pool in known.items() if {t.model for t in pool} >= set(models)}
    if not common:
        raise PlanError(
            f"no question with a reference in {source} was attempted by all of {', '.join(models)}"
        )
    counts = Counter(t.model for pool in common.values() for t in pool)
    return EnsembleQuestions(
        models,
        tuple(paths.values()),
        tuple(counts[m] for m in models),
        {id: shares(pool, models, right[id]) for id, pool in common.items()},
        len(known) - len(common),
        tuple(unreadable_notes(read, source)),
    )


def _finished(directory: Path) -> FinishedJob:
    job = read_finished(directory)
    if not job.results:
        raise PlanError(
            f"{directory}: none of its problems is finished; finish the job first: "
            f"leadline resume {directory}"
        )
    return replace(job, pools={id: job.pools[id] for id in job.results})


def _models(jobs: Sequence[FinishedJob]) -> dict[str, str]:
    """Return the path of each sampled model, by name.

    If jobs use the same name for their models, the models of the traces are renamed in the pools.
    """
    sampled = [{t.model for traces in job.pools.values() for t in attempts(traces)} for job in jobs]
    used = [
        [name for name in job.plan.models if name in names]
        for job, names in zip(jobs, sampled, strict=True)
    ]
    twice = {name for name, n in Counter(name for names in used for name in names).items() if n > 1}
    paths: dict[str, str] = {}
    for job, names in zip(jobs, used, strict=True):
        for name in names:
            label = (
                name
                if name not in twice
                else job.directory.resolve().name
                if len(names) == 1
                else f"{job.directory.resolve().name}/{name}"
            )
            if label in paths:
                raise PlanError(
                    f"two of the jobs are called {label!r}: rename the directory of one"
                )
            paths[label] = job.plan.models[name].path
            for traces in job.pools.values():
                traces[:] = [replace(t, model=label) if t.model == name else t for t in traces]
    return paths


def _domains(plan: Plan, source: str) -> dict[str, str]:
    file = read_problems(source, default_domain=plan.domain, domains=plan.domains)
    return {problem.id: problem.domain for problem in file.problems}


async def _merged(
    jobs: Sequence[FinishedJob],
    references: RightAnswers,
    domains: Mapping[str, str],
    annotator: Annotator,
) -> tuple[Pools, Mapping[str, frozenset[str]]]:
    """Return one pool per problem, and the keys of the right answers.

    Answers are mapped to common classes, and ordinals are renumbered to be unique.
    """
    pools: Pools = {}
    # in the order of the file, which determines the folds of the questions
    for id in (id for id in domains if any(id in job.pools for job in jobs)):
        classes: dict[str, str] = {}  # key -> text of the first answer
        for job in jobs:
            keys = {
                t.answer.key: t.answer.text for t in job.pools.get(id, ()) if t.answer is not None
            }
            common = {
                key: await _class_of(key, text, classes, domains[id], annotator)
                for key, text in keys.items()
            }
            first = 1 + max((t.ordinal for t in pools.get(id, ())), default=-1)
            pools.setdefault(id, []).extend(_moved(t, first, common) for t in job.pools.get(id, ()))
    return pools, await right_keys(pools, references, domains, annotator.accepts)


async def _class_of(
    key: str, text: str, classes: dict[str, str], domain: str, annotator: Annotator
) -> str:
    if key not in classes:
        for known, other in classes.items():
            if await annotator.same(domain, text, other):
                return known
        classes[key] = text
    return key


def _moved(trace: Trace, first: int, common: Mapping[str, str]) -> Trace:
    answer = trace.answer and Answer(trace.answer.text, common[trace.answer.key])
    parent = None if trace.parent is None else trace.parent + first
    return replace(trace, ordinal=trace.ordinal + first, parent=parent, answer=answer)
