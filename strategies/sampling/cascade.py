"""Model cascade by agreement (Yue et al., arXiv 2310.03094): small models first, a larger one where
their answers disagree.

The share of the leading answer among a model's own samples decides whether its vote stands; no
verifier and no training is needed. The paper has two models and draws one answer of the larger;
here there may be more, each sampled `n` times, or asked by another strategy.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core.steps import Command, Reply, Steps, depth_needs, sample
from orchestrator.core.values import Capability, PluginSpec, Problem, Request, Trace
from orchestrator.core.votes import agreement
from orchestrator.kit.compose import Overrides, run_inner


@dataclass(frozen=True, slots=True)
class Cascade:
    """Asks `models` in turn, `n` times each, and stops at the first whose leading answer has at
    least the share `agreement` of its traces.

    Traces that state no answer count against it. Only the last model asked is heard, by the
    selector `final`.
    """

    parts: ClassVar[Mapping[str, str]] = {"inner": "strategies"}

    models: tuple[str, ...]
    n: int = 8
    agreement: float = 0.75
    depth: int | None = None
    # how each model is asked, instead of `n` times: "adaptive n=16"; what names a model of its own
    # keeps it
    inner: Any = None

    def __post_init__(self) -> None:
        if not self.models or self.n < 1:
            raise ValueError(
                f"models = {list(self.models)}, n = {self.n}: name at least one pool, and ask it at least once"
            )
        if not 0 < self.agreement <= 1:
            raise ValueError(f"agreement = {self.agreement}: a share, 0 < agreement <= 1")

    @property
    def n_planned(self) -> int | None:
        """How many traces full sampling takes, where `inner` says so."""
        return (
            self.n if self.inner is None else getattr(self.inner, "n_planned", None) or 0
        ) * len(self.models) or None

    @property
    def pools(self) -> tuple[str, ...]:
        """The model pools it names."""
        return self.models

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth)

    @property
    def selector(self) -> PluginSpec:
        """The vote of the last model asked."""
        return PluginSpec("final")

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Go up the models until one agrees with itself."""
        before: tuple[int, ...] = ()
        for model in self.models:
            traces = yield from self._asked(model, before, problem, rng)
            if agreement(traces) >= self.agreement:
                return
            before = tuple(t.ordinal for t in traces) or before

    def _asked(
        self, model: str, before: tuple[int, ...], problem: Problem, rng: random.Random
    ) -> Generator[Command, Reply, Sequence[Trace]]:
        """Return a model's attempts."""
        if self.inner is None:
            return (
                yield from sample(self.n, Request(model=model, depth=self.depth, subjects=before))
            )
        return (
            yield from run_inner(
                self.inner, problem, rng, Overrides(model=model, depth=self.depth, subjects=before)
            )
        ).attempts
