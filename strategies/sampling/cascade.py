"""Model cascade by agreement (Yue et al., arXiv 2310.03094): small models first.

The share of the leading answer among a model's own attempts decides whether its vote stands or the
next model tries; no verifier and no training is needed. Where we differ: the paper has two
models and draws one answer of the larger; here there may be more, each sampled `n` times or
explored by another strategy.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps, sample
from orchestrator.core.values import PluginSpec, Problem, Request, Trace
from orchestrator.core.votes import agreement
from orchestrator.kit.compose import Overrides, run_inner
from orchestrator.kit.options import ModelPoolsOptions


@dataclass(frozen=True, slots=True)
class Cascade(ModelPoolsOptions):
    """Samples small models first, and larger ones where their answers disagree.

    It stops at the first of `models` whose leading answer has at least the share `agreement` of its
    attempts; attempts without an answer count against it. Only the attempts of the last model vote,
    by the selector `final`.
    """

    parts: ClassVar[Mapping[str, str]] = {"inner": "strategies"}
    selector: ClassVar[PluginSpec] = PluginSpec("final")  # the vote of the last model

    models: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="Model pools of the plan, from small to large."),
    ]
    n: Annotated[
        int, Meta(ge=1, description="Number of attempts of each model, unless `inner` is set.")
    ] = 8
    agreement: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Share of a model's attempts that must state one answer for it to stand.",
        ),
    ] = 0.75
    inner: Annotated[
        Any,
        Meta(
            description="Strategy that explores with each model instead of sampling `n` attempts, "
            'such as "adaptive n=16"; a model that it names itself is kept.'
        ),
    ] = None

    @property
    def n_planned(self) -> int | None:
        """How many attempts full sampling takes; None where `inner` does not know."""
        n = self.n if self.inner is None else getattr(self.inner, "n_planned", None)
        return n and n * len(self.models)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Sample one model after another until one agrees with itself."""
        earlier: tuple[int, ...] = ()
        for model in self.models:
            attempts = yield from self._attempts(model, earlier, problem, rng)
            if agreement(attempts) >= self.agreement:
                return
            earlier = tuple(t.ordinal for t in attempts) or earlier

    def _attempts(
        self, model: str, earlier: tuple[int, ...], problem: Problem, rng: random.Random
    ) -> Generator[Command, Reply, Sequence[Trace]]:
        """Return a model's attempts, which supersede the earlier ones."""
        if self.inner is None:
            request = Request(model=model, depth=self.depth, subjects=earlier)
            return (yield from sample(self.n, request))
        overrides = Overrides(model=model, depth=self.depth, subjects=earlier)
        return (yield from run_inner(self.inner, problem, rng, overrides)).attempts
