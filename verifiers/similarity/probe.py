"""The similarity that asks each trace: what would your answer be now? Equal answers count as the same,
and nothing else is compared.

A probe is a short continuation with a forced suffix. It costs its suffix and some ten tokens a
prefix, and no comparison costs anything. An early answer is a poor forecast of the last one (see
docs/pruning.md): it tells more the further the prefix reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.values import Capability, Problem, Purpose, Request, Sampling


@dataclass(frozen=True, slots=True)
class Probe:
    """Answer probes: 1 for prefixes whose probes state equivalent answers, 0 for different ones,
    cannot tell where one states none.
    """

    suffix: str = "\n\nSo the final answer is \\boxed{"
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        if not self.suffix.strip() or self.max_new_tokens < 1:
            raise ValueError(
                f"suffix = {self.suffix!r}, max_new_tokens = {self.max_new_tokens}: a text, and at least one token, are needed"
            )

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do."""
        return frozenset({Capability.CONTINUE})

    @property
    def probe(self) -> Request:
        """What each prefix is continued with before it is compared: the likeliest answer, not a
        drawn one.
        """
        return Request(
            suffix=self.suffix,
            max_new_tokens=self.max_new_tokens,
            sampling=Sampling(temperature=0.0),
            purpose=Purpose.PROBE,
        )

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return one score per pair; the probes were asked before."""
        yield from ()
        return [None if a.key is None or b.key is None else float(a.key == b.key) for a, b in pairs]
