"""The similarity that counts words: TF-IDF similarity of two prefixes, without a model and without
training.

A weak judge by design: DeepPrune (arXiv 2510.08483) finds sentence embeddings little better than
chance, and wording is no better. Its score is a similarity put on a scale by `centre` and `slope`,
not a calibrated probability; `leadline judge train` fits one that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.values import Problem
from orchestrator.kit.prompts import question
from verifiers.similarity.texts import tfidf_cosine


@dataclass(frozen=True, slots=True)
class Lexical:
    """TF-IDF cosine of the two texts, as 1 / (1 + exp(-slope (cosine - centre)))."""

    # the cosine that counts as even odds: the median of 4,800 pairs (benchmarks/judges.py, 128
    # tokens)
    centre: float = 0.48
    slope: float = 10.0

    def __post_init__(self) -> None:
        if not self.slope > 0:
            raise ValueError(
                f"slope = {self.slope}: above 0 is needed, or likeness would count against"
            )

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; asks nothing."""
        yield from ()
        asked = question(problem.prompt)
        cosines = [tfidf_cosine(a.text, b.text, asked) for a, b in pairs]
        return [1 / (1 + math.exp(-self.slope * (cosine - self.centre))) for cosine in cosines]
