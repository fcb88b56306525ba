"""Model cascade by agreement (Yue et al., arXiv 2310.03094): small models first, a larger one where their answers disagree.

The share of the leading answer among a model's own samples decides whether its vote stands; no verifier and no training is needed. The
paper has two models and draws one answer of the larger; here there may be more, each sampled `n` times.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.steps import Steps, sample
from orchestrator.core.types import Capability, PluginSpec, Problem, Request, Trace
from orchestrator.core.votes import voters


@dataclass(frozen=True, slots=True)
class Cascade:
    """Asks `models` in turn, `n` times each, and stops at the first whose leading answer has at least the share `agreement` of its traces.

    Traces that state no answer count against it. Only the last model asked is heard, by the selector `final`.
    """

    models: tuple[str, ...]
    n: int = 8
    agreement: float = 0.75
    depth: int | None = None

    def __post_init__(self) -> None:
        if not self.models or self.n < 1:
            raise ValueError(f"models = {list(self.models)}, n = {self.n}: name at least one pool, and ask it at least once")
        if not 0 < self.agreement <= 1:
            raise ValueError(f"agreement = {self.agreement}: a share, 0 < agreement <= 1")

    @property
    def n_full(self) -> int:
        """How many traces full sampling takes."""
        return self.n * len(self.models)

    @property
    def pools(self) -> tuple[str, ...]:
        """The model pools it names."""
        return self.models

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return frozenset() if self.depth is None else frozenset({Capability.DEPTH})

    @property
    def selector(self) -> PluginSpec:
        """The vote of the last model asked."""
        return PluginSpec("final")

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Go up the models until one agrees with itself."""
        before: tuple[int, ...] = ()
        for model in self.models:
            traces = yield from sample(self.n, Request(model=model, depth=self.depth, subjects=before))
            if agreement(traces) >= self.agreement:
                return
            before = tuple(t.ordinal for t in traces)


def agreement(traces: Sequence[Trace]) -> float:
    """Return the share of these traces that state the leading answer; 0 without any."""
    counts = Counter(t.answer.key for t in voters(traces) if t.answer is not None)
    return max(counts.values(), default=0) / len(traces) if traces else 0.0
