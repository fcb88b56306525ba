"""The similarity that learns from finished traces: logistic regression on what two prefixes share, with
calibrated probabilities.

Follows DeepPrune (arXiv 2510.08483, section on the similarity) in what it does against the imbalance of
its pairs, most of which agree: errors on the rare kind weigh more, and that kind is oversampled. It
differs in the model: theirs is a language model of four billion parameters, and is asked by the
judge `llm`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.values import Problem
from orchestrator.kit.prefixes import LabelledPrefix
from orchestrator.kit.prompts import question
from verifiers.similarity.fitted import FEATURES, Floats, Model, encoded, features, load, vector
from verifiers.similarity.texts import read

_MAX_TERMS = 3000  # of the vocabulary: the most frequent ones
_N_AXES = 32
_N_FOLDS = 5  # of problems, for the calibration
_OVERSAMPLING = 2  # DeepPrune doubles the pairs that differ


@dataclass(frozen=True, slots=True)
class Trained:
    """P(same answer) by a model that `leadline judge train` fitted on the traces of earlier jobs."""

    file: str

    def __post_init__(self) -> None:
        load(self.file)

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; asks nothing."""
        yield from ()
        model = load(self.file)
        rows = [features(a.text, b.text, question(problem.prompt), model) for a, b in pairs]
        return list(model.probability(np.asarray(rows).reshape(len(rows), len(FEATURES))))

    @staticmethod
    def fit(pools: Mapping[str, tuple[Problem, Sequence[LabelledPrefix]]]) -> str:
        """Return the text of a model file fitted on these pools of finished traces; pools of one
        problem have its id.

        ValueError when there are no pairs of both kinds, or too few problems that have them: each
        fold needs both.
        """
        texts = [example.prefix.text for _, pool in pools.values() for example in pool]
        blank = _blank(texts)
        rows, same, groups = _pairs(pools, blank)
        if len(set(groups)) < 2 * _N_FOLDS or min(np.bincount(same, minlength=2)) < 2 * _N_FOLDS:
            n_same = int(same.sum())
            raise ValueError(
                f"{n_same} pairs agree and {len(same) - n_same} differ, of {len(set(groups))} problems; at least {2 * _N_FOLDS} of each "
                "are needed: take the traces of more jobs, or of harder problems"
            )
        means, scales = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
        slope, offset = _calibration((rows - means) / scales, same, groups)
        regression = _regression((rows - means) / scales, same)
        return encoded(
            replace(
                blank,
                means=means.tolist(),
                scales=scales.tolist(),
                coefficients=regression.coef_[0].tolist(),
                intercept=float(regression.intercept_[0]),
                slope=slope,
                offset=offset,
            )
        )


def _blank(texts: Sequence[str]) -> Model:
    """Return a model with a vocabulary and a latent space, and nothing fitted to labels."""
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD

    documents = Counter(term for text in texts for term in read(text).counts)
    kept = sorted(documents, key=lambda term: (-documents[term], term))[:_MAX_TERMS]
    idf = {
        term: float(np.log((1 + len(texts)) / (1 + documents[term])) + 1)
        for term in kept
        if documents[term] > 1
    }
    places = {term: i for i, term in enumerate(idf)}
    n = len(FEATURES)
    model = Model(idf, {}, [0.0] * n, [1.0] * n, [0.0] * n, 0.0, 1.0, 0.0)
    vectors = [vector(text, model) for text in texts]
    entries = [
        (row, places[term], weight)
        for row, weights in enumerate(vectors)
        for term, weight in weights.items()
    ]
    n_axes = min(_N_AXES, len(texts) - 1, len(idf) - 1)
    if n_axes < 1:
        return model
    i, j, values = zip(*entries, strict=True)
    matrix = csr_matrix((values, (i, j)), shape=(len(texts), len(idf)))
    found = TruncatedSVD(n_axes, random_state=0).fit(matrix).components_
    return replace(model, axes={term: found[:, places[term]].tolist() for term in idf})


def _pairs(
    pools: Mapping[str, tuple[Problem, Sequence[LabelledPrefix]]], model: Model
) -> tuple[Floats, Any, Any]:
    """Return every pair's features, whether it agrees, and the number of its problem: shapes (n,
    n_features), (n,), (n,).
    """
    rows, same, groups = [], [], []
    numbers: dict[str, int] = {}
    for problem, pool in pools.values():
        for a, b in combinations(pool, 2):
            rows.append(features(a.prefix.text, b.prefix.text, question(problem.prompt), model))
            same.append(int(a.final == b.final))
            groups.append(numbers.setdefault(problem.id, len(numbers)))
    return (
        np.asarray(rows).reshape(len(rows), len(FEATURES)),
        np.asarray(same, dtype=int),
        np.asarray(groups, dtype=int),
    )


def _regression(rows: Floats, same: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    rare = int(same.mean() < 0.5)
    index = np.concatenate(
        [np.arange(len(same)), *([np.flatnonzero(same == rare)] * (_OVERSAMPLING - 1))]
    )
    return LogisticRegression(class_weight="balanced", C=0.1, max_iter=1000).fit(
        rows[index], same[index]
    )


def _calibration(rows: Floats, same: Any, groups: Any) -> tuple[float, float]:
    """Return slope and offset that turn a score into a probability (Platt), fitted on scores of
    problems not trained on.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    scores = np.zeros(len(same))
    for train, test in GroupKFold(_N_FOLDS).split(rows, same, groups):
        if len(set(same[train])) == 2:
            scores[test] = _regression(rows[train], same[train]).decision_function(rows[test])
    platt = LogisticRegression(C=1e6).fit(scores[:, None], same)
    # A slope below 0 would turn the similarity round: where nothing can be told on unseen problems,
    # every pair gets the base rate.
    slope = max(0.0, float(platt.coef_[0, 0]))
    share = float(same.mean())
    return (
        (slope, float(platt.intercept_[0])) if slope else (0.0, float(np.log(share / (1 - share))))
    )
