"""Weights of several models in one vote, from questions with known answers: Best-of-infinity (arXiv 2509.21091, section 4).

Each draw of an ensemble asks model i with probability w_i. With many draws it answers a question right exactly when the right answer's
mixed frequency exceeds every wrong one's, which is linear in w: the weights that answer most questions right are a mixed-integer linear
program (scipy's HiGHS, as released). Among those, the ones with the largest margin are chosen.

Where we differ: the largest margin is one more program, where the released code searches by bisection; the big M is 2, the least that
does, where theirs is 10,000. This file needs frequencies, never models; the strategy `ensemble` draws with the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.core.types import Answer, Trace
from orchestrator.core.votes import voters

_BIG = 2.0  # a difference of frequencies is at least -1 and a margin at most 1
_LEAST = 1e-4  # a margin below which a question does not count as answered: above HiGHS' feasibility tolerance of 1e-7


@dataclass(frozen=True, slots=True)
class Shares:
    """How often each model gave each answer to one question: of the right one shape (n_models,), of the wrong ones (n_wrong, n_models)."""

    right: tuple[float, ...]
    wrong: tuple[tuple[float, ...], ...] = ()

    def won(self, weights: Sequence[float]) -> bool:
        """Tell whether the vote of many draws with these weights is right: the right answer's share exceeds every wrong one's, and 0."""
        first, *rivals = (float(np.dot(weights, row)) for row in (self.right, *self.wrong))
        return first > max(rivals, default=0.0) + _LEAST / 2


@dataclass(frozen=True, slots=True)
class Weights:
    """The ensemble: weights that add up to 1, how many questions it answers right in the limit, and by which margin at the least."""

    weights: tuple[float, ...]
    n_right: int
    margin: float


def shares(traces: Sequence[Trace], models: Sequence[str], is_right: Callable[[Answer], bool]) -> Shares:
    """Return one question's shares from a pool in which each model was sampled; ValueError when one has no trace.

    A model's shares are of all its traces that may vote or state nothing, so they add up to less than 1 where it abstains.
    """
    n = [sum(t.model == m for t in traces) for m in models]
    if 0 in n:
        raise ValueError(f"model {models[n.index(0)]!r} has no trace in this pool; its models are {sorted({t.model for t in traces})}")
    given: dict[str, list[float]] = {}
    right = [0.0] * len(models)
    for trace in voters(traces):
        if trace.answer is None or trace.model not in models:
            continue
        row = right if is_right(trace.answer) else given.setdefault(trace.answer.key, [0.0] * len(models))
        place = models.index(trace.model)
        row[place] += 1 / n[place]
    return Shares(tuple(right), tuple(map(tuple, given.values())))


def ensemble_weights(questions: Sequence[Shares]) -> Weights:
    """Return the weights that answer most of these questions right, with the largest margin among those.

    ValueError without a question, or when they do not all tell of the same number of models. Ties are HiGHS' to break.
    """
    n_models = len(questions[0].right) if questions else 0
    if not n_models or any(len(row) != n_models for q in questions for row in (q.right, *q.wrong)):
        raise ValueError("give at least one question, and for each as many frequencies per answer as there are models")
    # One row per rival; where no wrong answer was given the rival is silence, so that the right answer must have been given at all.
    leads = [(j, np.subtract(q.right, rival)) for j, q in enumerate(questions) for rival in (q.wrong or ((0.0,) * n_models,))]
    most, _ = _solved(leads, n_models, len(questions), None)
    if not most:
        return Weights((1 / n_models,) * n_models, 0, 0.0)
    _, variables = _solved(leads, n_models, len(questions), most)
    weights = np.clip(variables[:n_models], 0.0, 1.0)
    return Weights(tuple(float(w) for w in weights / weights.sum()), most, float(variables[-1]))


def alone(place: int, n_models: int) -> tuple[float, ...]:
    """Return the weights that ask one model only."""
    return tuple(float(i == place) for i in range(n_models))


def cross_fitted(questions: Sequence[Shares], n_folds: int = 5) -> list[bool]:
    """Return whether each question is won by weights fitted on the other folds (i is in fold i mod `n_folds`); [] for fewer questions."""
    if len(questions) < n_folds:
        return []
    fits = [ensemble_weights([q for i, q in enumerate(questions) if i % n_folds != fold]).weights for fold in range(n_folds)]
    return [question.won(fits[i % n_folds]) for i, question in enumerate(questions)]


def _solved(leads: Sequence[tuple[int, np.ndarray]], n_models: int, n_questions: int, most: int | None) -> tuple[int, np.ndarray]:
    """Return how many questions are right, and the variables: weights, one 0/1 per question, margin.

    Without `most` their number is maximised at the least margin; with it, the margin while that many are right.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    n = n_models + n_questions + 1
    rows = np.zeros((len(leads), n))
    for row, (j, lead) in zip(rows, leads, strict=True):
        row[:n_models], row[n_models + j], row[-1] = lead, -_BIG, -1.0  # w . lead - M y - margin >= -M
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
    solution = milp(objective, constraints=constraints, bounds=Bounds(lower, upper), integrality=integral)
    if solution.x is None:
        raise RuntimeError(f"the program has no solution: {solution.message}")  # all questions given up is always one
    return round(float(count @ solution.x)), solution.x
