"""The similarity that compares meaning as latent semantic analysis sees it: cosine in a space fitted on
earlier traces.

The space is part of a model file of `leadline judge train` (TF-IDF and a truncated singular value
decomposition by scikit-learn). Like `lexical` it gives a similarity on a scale, not a calibrated
probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.values import Problem
from verifiers.similarity.fitted import embedded, load


@dataclass(frozen=True, slots=True)
class Embedding:
    """Cosine of the two texts' places in latent semantic space, as 1 / (1 + exp(-slope (cosine -
    centre))).
    """

    file: str  # a model file of `leadline judge train`
    # the cosine that counts as even odds: the median of 4,800 pairs (benchmarks/judges.py, 128
    # tokens)
    centre: float = 0.97
    slope: float = 100.0

    def __post_init__(self) -> None:
        if not self.slope > 0:
            raise ValueError(
                f"slope = {self.slope}: above 0 is needed, or likeness would count against"
            )
        load(self.file)

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; asks nothing."""
        yield from ()
        model = load(self.file)
        cosines = [float(embedded(a.text, model) @ embedded(b.text, model)) for a, b in pairs]
        return [1 / (1 + math.exp(-self.slope * (cosine - self.centre))) for cosine in cosines]
