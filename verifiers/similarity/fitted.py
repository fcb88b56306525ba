"""Model files of fitted similarities, and the features computed with them.

A file contains JSON of numbers and words, so loading it executes no code. Any fault in it is a
ValueError that names the fault. Nothing else is read from disk here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from orchestrator.kit.model_verifier import sigmoid
from verifiers.similarity.texts import TextContent, content, dot, overlap, tfidf_cosine, weighted

FORMAT = "leadline-judge-1"  # as version 0.1 named it
FEATURES = (
    "tfidf",
    "embedding",
    "pair_tfidf",
    "numbers",
    "new_numbers",
    "last_number",
    "last_in_other",
    "equations",
    "conflicts",
    "length_ratio",
    "n_new_numbers",
)
Floats = npt.NDArray[np.float64]
_ONE_EACH = Meta(min_length=len(FEATURES), max_length=len(FEATURES))  # number per feature


# compared by identity, so that what is computed with it can be remembered
@dataclass(frozen=True, slots=True, eq=False)
class FittedModel:
    """A fitted similarity.

    `idf` and `axes` map terms to their weight and to their coordinates, each of shape (n_axes,).
    P(same) = 1 / (1 + exp(-(slope z + offset))), z = intercept + coefficients . (features - means)
    / scales.
    """

    idf: Mapping[str, float]
    axes: Mapping[str, Sequence[float]]
    means: Annotated[Sequence[float], _ONE_EACH]
    scales: Annotated[Sequence[Annotated[float, Meta(gt=0)]], _ONE_EACH]
    coefficients: Annotated[Sequence[float], _ONE_EACH]
    intercept: float
    slope: float
    offset: float

    def probability(self, features: Floats) -> list[float]:
        """Return P(same) for features of shape (n_pairs, n_features)."""
        scaled = (features - np.asarray(self.means)) / np.asarray(self.scales)
        z = self.intercept + scaled @ np.asarray(self.coefficients)
        return [sigmoid(float(x)) for x in np.clip(self.slope * z + self.offset, -700, 700)]


def encoded(model: FittedModel) -> str:
    """Return a model as the text of its file, to six digits, so that platforms read the same."""
    values = {name: _rounded(value) for name, value in asdict(model).items()}
    return json.dumps({"format": FORMAT, "features": FEATURES, **values}, ensure_ascii=False) + "\n"


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


@lru_cache(maxsize=8)
def load(file: str) -> FittedModel:
    """Return the model of a file, read once a process; ValueError when there is none in it."""
    command = "`leadline similarity train`"
    try:
        document = msgspec.json.decode(Path(file).read_bytes())
    except OSError as error:
        raise ValueError(
            f"file {file!r}: {error.strerror}; fit one with `leadline similarity train JOB... "
            "-o FILE`"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"file {file!r} is not JSON: {error}; it must come from {command}"
        ) from error
    kind = (document.get("format"), document.get("features")) if isinstance(document, dict) else ()
    if kind != (FORMAT, list(FEATURES)):
        raise ValueError(
            f"file {file!r} is not a similarity that this version reads ({FORMAT}); "
            f"fit it again with {command}"
        )
    try:
        model = msgspec.convert(document, FittedModel)
        if len({len(values) for values in model.axes.values()}) > 1:
            raise ValueError("its axes differ in length")
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(
            f"file {file!r} is damaged: {error}; fit it again with {command}"
        ) from error
    return model


@lru_cache(maxsize=4096)
def vector(text: str, model: FittedModel) -> dict[str, float]:
    """Return a text's TF-IDF vector of unit length over the model's terms; others are left out."""
    counts = {term: n for term, n in content(text).counts.items() if term in model.idf}
    return weighted(counts, model.idf.__getitem__)


@lru_cache(maxsize=4096)
def embedded(text: str, model: FittedModel) -> Floats:
    """Return a text's place in the latent space, of unit length, shape (n_axes,).

    It is zeros for a text without known terms.
    """
    weights = vector(text, model)
    known = sorted(term for term in weights if term in model.axes)
    n_axes = len(next(iter(model.axes.values()), ()))
    axes = np.asarray([model.axes[term] for term in known]).reshape(len(known), n_axes)
    place: Floats = np.asarray([weights[term] for term in known]) @ axes
    length = float(np.linalg.norm(place))
    return place / length if length else place


def features(a: str, b: str, question: str, model: FittedModel) -> list[float]:
    """Return the features of a pair, in the order of `FEATURES`; symmetric in the two texts."""
    one, two = content(a), content(b)
    prompt_numbers = set(content(question).numbers)
    new_one, new_two = ([n for n in r.numbers if n not in prompt_numbers] for r in (one, two))
    shared = one.equations.keys() & two.equations.keys()
    agree = sum(one.equations[left] == two.equations[left] for left in shared)
    return [
        dot(vector(a, model), vector(b, model)),
        float(np.clip(embedded(a, model) @ embedded(b, model), -1, 1)),
        tfidf_cosine(a, b, question),
        overlap(one.numbers, two.numbers),
        overlap(new_one, new_two),
        float(one.numbers[-1:] == two.numbers[-1:]),
        (_last_in(one, two) + _last_in(two, one)) / 2,
        agree / len(shared) if shared else 0.5,
        float(len(shared) - agree),
        abs(math.log((one.n_terms + 1) / (two.n_terms + 1))),
        math.log1p(min(len(set(new_one)), len(set(new_two)))),
    ]


def _last_in(one: TextContent, two: TextContent) -> float:
    return float(bool(one.numbers) and one.numbers[-1] in two.numbers)
