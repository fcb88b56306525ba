"""The similarity that compares sentence embeddings: cosine of two prefixes in a model's space, served by
a pool of task "embed".

A weak judge by design, as DeepPrune (arXiv 2510.08483) measured of one: little better than chance.
Its score is a similarity put on a scale by `centre` and `slope`, which belong to the model: the
defaults are no measurement. Each prefix is embedded once a call, in one request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.steps import next_trace, submit
from orchestrator.core.values import Capability, Problem, Purpose, Request
from orchestrator.kit.model_verifier import sigmoid


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """Cosine of the two texts' embeddings, as 1 / (1 + exp(-slope (cosine - centre)))."""

    model: str  # a model pool of the plan, of task "embed"
    centre: float = 0.9  # the cosine that counts as even odds
    slope: float = 20.0
    max_chars: int = 6000  # of each prefix, from its end

    def __post_init__(self) -> None:
        if not self.slope > 0 or self.max_chars < 1:
            raise ValueError(
                f"slope = {self.slope}, max_chars = {self.max_chars}: above 0, and at least 1, are needed"
            )

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset({Capability.POOL})

    @property
    def tasks(self) -> Mapping[str, tuple[str, ...]]:
        """What the pool must be for."""
        return {self.model: ("embed",)}

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Embed every prefix that says something and return one score per pair; None where one has
        no embedding.
        """
        texts = {p.ordinal: p.text[-self.max_chars :].strip() for pair in pairs for p in pair}
        asked = [ordinal for ordinal, text in texts.items() if text]
        requests = [
            Request(prompt=texts[o], model=self.model, purpose=Purpose.COMPARE, subjects=(o,))
            for o in asked
        ]
        ordinals = (yield from submit(requests)) if requests else ()
        places: dict[int, tuple[float, ...]] = {}
        # too few: the budget ended, and so does waiting
        for ordinal in ordinals if len(ordinals) == len(requests) else (-1,):
            reply = yield from next_trace((ordinal,))
            places[asked[ordinals.index(ordinal)]] = reply.values
        return [
            self._likeness(places.get(a.ordinal, ()), places.get(b.ordinal, ())) for a, b in pairs
        ]

    def _likeness(self, a: Sequence[float], b: Sequence[float]) -> float | None:
        lengths = math.hypot(*a) * math.hypot(*b)
        if not lengths or len(a) != len(b):
            return None
        cosine = math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths
        return sigmoid(self.slope * (cosine - self.centre))
