"""The similarities that read a model file of `leadline similarity train`, and how it is fitted.

`trained` is a calibrated logistic regression on what two prefixes share. Errors on the rare kind of
pair weigh more, since most pairs agree; DeepPrune's oversampling would only scale balanced weights.
It differs from DeepPrune in the model: theirs is a language model of four billion parameters, which
the similarity `llm` asks.

`embedding` compares meaning as latent semantic analysis does, by a cosine: its space (TF-IDF and a
truncated singular value decomposition by scikit-learn) is part of the same file. As with `lexical`,
the score is a cosine on a scale, not a calibrated probability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Annotated, Any, TypeAlias

import numpy as np
from msgspec import Meta

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.values import Problem
from orchestrator.kit.model_verifier import sigmoid
from orchestrator.kit.prefixes import LabelledPrefix
from orchestrator.kit.prompts import question
from verifiers.similarity.fitted import (
    FEATURES,
    FittedModel,
    Floats,
    embedded,
    encoded,
    features,
    load,
)
from verifiers.similarity.texts import content

_MAX_TERMS = 3000  # of the vocabulary: the most frequent ones
_N_AXES = 32
_N_FOLDS = 5  # of problems, for the calibration
_C = 0.1  # inverse strength of the regression's regularisation
_UNFITTED: Mapping[str, Any] = {
    **{name: [0.0] * len(FEATURES) for name in ("means", "coefficients")},
    "scales": [1.0] * len(FEATURES),
    "intercept": 0.0,
    "slope": 1.0,
    "offset": 0.0,
}
Pools: TypeAlias = Mapping[str, tuple[Problem, Sequence[LabelledPrefix]]]


@dataclass(frozen=True, slots=True)
class ModelFileOptions:
    """The model file that a similarity reads."""

    file: Annotated[str, Meta(description="Model file written by `leadline similarity train`.")]

    def __post_init__(self) -> None:
        load(self.file)


@dataclass(frozen=True, slots=True)
class Trained(ModelFileOptions):
    """Use a model trained on your own earlier jobs: free to run, calibrated.

    The score is P(same answer), by the regression of a model file. Pairs are weighted as in
    DeepPrune (arXiv 2510.08483, section on the judge).
    """

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; requests nothing."""
        yield from ()
        model = load(self.file)
        rows = [features(a.text, b.text, question(problem.prompt), model) for a, b in pairs]
        return list(model.probability(np.asarray(rows).reshape(len(rows), len(FEATURES))))

    @staticmethod
    def fit(pools: Pools) -> str:
        """Return the text of a model file fitted on these pools of finished traces.

        Pools of one problem have its id. ValueError when there are no pairs of both kinds, or too
        few problems that have them: each fold needs both.
        """
        blank = _blank([example.prefix.text for _, pool in pools.values() for example in pool])
        rows, same, groups = _pairs(pools, blank)
        n_problems = len(set(groups))
        if n_problems < 2 * _N_FOLDS or min(np.bincount(same, minlength=2)) < 2 * _N_FOLDS:
            n_same = int(same.sum())
            raise ValueError(
                f"{n_same} pairs agree and {len(same) - n_same} differ, of {n_problems} problems; "
                f"at least {2 * _N_FOLDS} of each are needed: "
                "use the traces of more jobs, or of harder problems"
            )
        return encoded(replace(blank, **_calibrated(rows, same, groups)))


@dataclass(frozen=True, slots=True)
class Embedding(ModelFileOptions):
    """Compares two prefixes in the latent space of a trained model file.

    The score is 1 / (1 + exp(-slope (cosine - centre))).
    """

    # the median of 4,800 pairs (benchmarks/similarity.py, 128 tokens)
    centre: Annotated[float, Meta(description="Cosine that counts as even odds.")] = 0.97
    slope: Annotated[
        float, Meta(gt=0, description="How steeply the score rises with the cosine.")
    ] = 100.0

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; requests nothing."""
        yield from ()
        model = load(self.file)
        cosines = [float(embedded(a.text, model) @ embedded(b.text, model)) for a, b in pairs]
        return [sigmoid(self.slope * (cosine - self.centre)) for cosine in cosines]


def _blank(texts: Sequence[str]) -> FittedModel:
    """Return a model with a vocabulary and a latent space, and nothing fitted to labels."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        analyzer=lambda text: Counter(content(text).counts).elements(),
        max_features=_MAX_TERMS,
        min_df=2,
        sublinear_tf=True,
    )
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError:  # no term is in two texts
        return FittedModel({}, {}, **_UNFITTED)
    terms = vectorizer.get_feature_names_out()
    idf = dict(zip(terms, vectorizer.idf_.tolist(), strict=True))
    n_axes = min(_N_AXES, *(n - 1 for n in matrix.shape))
    if n_axes < 1:
        return FittedModel(idf, {}, **_UNFITTED)
    axes = TruncatedSVD(n_axes, random_state=0).fit(matrix).components_.T.tolist()
    return FittedModel(idf, dict(zip(terms, axes, strict=True)), **_UNFITTED)


def _pairs(pools: Pools, model: FittedModel) -> tuple[Floats, Any, Any]:
    """Return every pair's features, whether it agrees, and the number of its problem.

    The shapes are (n, n_features), (n,) and (n,).
    """
    rows, same, groups = [], [], []
    numbers: dict[str, int] = {}
    for problem, pool in pools.values():
        prompt = question(problem.prompt)
        for a, b in combinations(pool, 2):
            rows.append(features(a.prefix.text, b.prefix.text, prompt, model))
            same.append(int(a.final == b.final))
            groups.append(numbers.setdefault(problem.id, len(numbers)))
    return (
        np.asarray(rows).reshape(len(rows), len(FEATURES)),
        np.asarray(same, dtype=int),
        np.asarray(groups, dtype=int),
    )


def _calibrated(rows: Floats, same: Any, groups: Any) -> dict[str, Any]:
    """Return the fields of a model that are fitted to labels.

    A regression on all pairs is calibrated by Platt's method, on scores of problems that it was not
    fitted on.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(class_weight="balanced", C=_C, max_iter=1000)
    folds = list(GroupKFold(_N_FOLDS).split(rows, same, groups))
    fitted = CalibratedClassifierCV(
        make_pipeline(StandardScaler(), regression), cv=folds, ensemble=False
    ).fit(rows, same)
    [classifier] = fitted.calibrated_classifiers_
    [platt] = classifier.calibrators  # P = 1 / (1 + exp(a z + b))
    scaler, regression = (step for _, step in classifier.estimator.steps)
    # A slope below 0 would invert the similarity: where it is no better than chance on unseen
    # problems, every pair gets the base rate.
    share = float(same.mean())
    turned = platt.a_ >= 0
    return {
        "means": scaler.mean_.tolist(),
        "scales": scaler.scale_.tolist(),
        "coefficients": regression.coef_[0].tolist(),
        "intercept": float(regression.intercept_[0]),
        "slope": 0.0 if turned else -float(platt.a_),
        "offset": float(np.log(share / (1 - share))) if turned else -float(platt.b_),
    }
