"""A similarity that compares sentence embeddings: the cosine of two prefixes.

A model pool with the task "embed" computes them. The similarity is weak by design: DeepPrune (arXiv
2510.08483) measured one as little better than chance. The score is a cosine rescaled by `centre`
and `slope`, which depend on the model: the defaults were not measured. Each prefix is embedded once
per call, in one request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.steps import next_trace, submit
from orchestrator.core.values import Capability, Problem, Purpose, Request
from orchestrator.kit.model_verifier import sigmoid


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """Compares two prefixes by an embedding model: one request per prefix, weak.

    The score is 1 / (1 + exp(-slope (cosine - centre))).
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.POOL})

    model: Annotated[str, Meta(description='Model pool of the plan with the task "embed".')]
    centre: Annotated[
        float, Meta(description="Cosine that counts as even odds; it depends on the model.")
    ] = 0.9
    slope: Annotated[
        float, Meta(gt=0, description="Slope of the score as a function of the cosine.")
    ] = 20.0
    max_chars: Annotated[
        int, Meta(ge=1, description="Characters of each prefix that are embedded, from its end.")
    ] = 6000

    @property
    def tasks(self) -> Mapping[str, tuple[str, ...]]:
        """Return the task that the pool must have."""
        return {self.model: ("embed",)}

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; None where one prefix is blank or has no embedding."""
        texts = {p.ordinal: p.text[-self.max_chars :].strip() for pair in pairs for p in pair}
        embeddable = [ordinal for ordinal, text in texts.items() if text]
        requests = [
            Request(prompt=texts[o], model=self.model, purpose=Purpose.COMPARE, subjects=(o,))
            for o in embeddable
        ]
        ordinals = (yield from submit(requests)) if requests else ()
        places: dict[int, tuple[float, ...]] = {}
        # too few: the budget ended, and waiting for any trace ends with it
        for ordinal in ordinals if len(ordinals) == len(requests) else (-1,):
            reply = yield from next_trace((ordinal,))
            places[embeddable[ordinals.index(ordinal)]] = reply.values
        return [
            self._similarity(places.get(a.ordinal, ()), places.get(b.ordinal, ())) for a, b in pairs
        ]

    def _similarity(self, a: Sequence[float], b: Sequence[float]) -> float | None:
        lengths = math.hypot(*a) * math.hypot(*b)
        if not lengths or len(a) != len(b):
            return None
        cosine = math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths
        return sigmoid(self.slope * (cosine - self.centre))
