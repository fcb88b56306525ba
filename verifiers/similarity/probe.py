"""A similarity that probes each prefix for its current answer and compares the answers.

A probe is a short continuation with a forced suffix. It costs its suffix and some ten tokens per
prefix; comparisons are free. An early answer is a poor forecast of the final one (see
docs/pruning.md); the forecast improves with the length of the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.values import Capability, Problem, Purpose, Request, Sampling


@dataclass(frozen=True, slots=True)
class Probe:
    """Compares the answers of two probed prefixes; cheap, best for long prefixes.

    The score is 1 for equivalent answers and 0 for different ones; there is none if a probe states
    no answer.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CONTINUE})

    suffix: Annotated[
        str,
        Meta(
            pattern=r"\S", description="Text forced after a prefix that makes it state its answer."
        ),
    ] = "\n\nSo the final answer is \\boxed{"
    max_new_tokens: Annotated[
        int, Meta(ge=1, description="Longest answer of a probe, in tokens.")
    ] = 16

    @property
    def probe(self) -> Request:
        """Return the request that continues each prefix before it is compared, without sampling."""
        return Request(
            suffix=self.suffix,
            max_new_tokens=self.max_new_tokens,
            sampling=Sampling(temperature=0.0),
            purpose=Purpose.PROBE,
        )

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; the probes have already returned."""
        yield from ()
        return [None if a.key is None or b.key is None else float(a.key == b.key) for a, b in pairs]
