"""The similarity that compares meaning as latent semantic analysis does: a cosine.

Its space is part of a model file of `leadline similarity train` (TF-IDF and a
truncated singular value decomposition by scikit-learn). As with `lexical`, the score is a cosine on
a scale, not a calibrated probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.values import Problem
from orchestrator.kit.model_verifier import sigmoid
from verifiers.similarity.fitted import embedded, load


@dataclass(frozen=True, slots=True)
class Embedding:
    """Compare two prefixes in the latent space of a trained model file.

    The score is 1 / (1 + exp(-slope (cosine - centre))).
    """

    file: Annotated[str, Meta(description="Model file written by `leadline similarity train`.")]
    # the median of 4,800 pairs (benchmarks/similarity.py, 128 tokens)
    centre: Annotated[float, Meta(description="Cosine that counts as even odds.")] = 0.97
    slope: Annotated[
        float, Meta(gt=0, description="How steeply the score rises with the cosine.")
    ] = 100.0

    def __post_init__(self) -> None:
        load(self.file)

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; requests nothing."""
        yield from ()
        model = load(self.file)
        cosines = [float(embedded(a.text, model) @ embedded(b.text, model)) for a, b in pairs]
        return [sigmoid(self.slope * (cosine - self.centre)) for cosine in cosines]
