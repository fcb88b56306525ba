"""A similarity that compares words: TF-IDF cosine of two prefixes, without a model or training.

Weak by design: DeepPrune (arXiv 2510.08483) finds sentence embeddings little better than chance,
and wording is no better. The score is a cosine rescaled by `centre` and `slope`, not a calibrated
probability; `leadline similarity train` fits a calibrated one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.values import Problem
from orchestrator.kit.model_verifier import sigmoid
from orchestrator.kit.prompts import question
from verifiers.similarity.texts import tfidf_cosine


@dataclass(frozen=True, slots=True)
class Lexical:
    """Compares the words of two prefixes (TF-IDF): free, needs no model, weak.

    The score is 1 / (1 + exp(-slope (cosine - centre))).
    """

    # the median of 4,800 pairs (benchmarks/similarity.py, 128 tokens)
    centre: Annotated[float, Meta(description="Cosine that counts as even odds.")] = 0.48
    slope: Annotated[
        float, Meta(gt=0, description="Slope of the score as a function of the cosine.")
    ] = 10.0

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; requests nothing."""
        yield from ()
        prompt = question(problem.prompt)
        cosines = [tfidf_cosine(a.text, b.text, prompt) for a, b in pairs]
        return [sigmoid(self.slope * (cosine - self.centre)) for cosine in cosines]
