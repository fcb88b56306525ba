"""Recursive self-aggregation (RSA; Venkatraman et al., arXiv 2509.26626;
github.com/HyperPotatoNeo/RSA).

A population of candidates; each new one is the model's aggregation of a few of the old ones, drawn
at random. The prompts are ours, in the gist of the released ones; as there, `k` 1 turns aggregation
into revision.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.steps import Steps, depth_needs, next_trace, sample, submit
from orchestrator.core.values import (
    Capability,
    Finish,
    PluginSpec,
    Problem,
    Prompt,
    Purpose,
    Request,
    Trace,
)
from orchestrator.kit.prompts import question, visible_text, with_question

AGGREGATE = (
    "{question}\n\nBelow are {n} candidate solutions to this problem. Some may be wrong, in part or as a whole. Take what is right and "
    "useful in them and write one solution of high quality. Where they disagree, work out which way is right. If all of them are wrong, "
    "try another approach. End with the final answer, in the form that was asked for.\n\n{candidates}"
)
REFINE = (
    "{question}\n\nBelow is a candidate solution to this problem. It may be wrong. Check it, and write a better solution: keep what is "
    "right, correct what is not, or try another approach. End with the final answer, in the form that was asked for.\n\n{candidates}"
)


@dataclass(frozen=True, slots=True)
class Rsa:
    """Keeps a population of `n` over `steps` generations, each new candidate made of `k` of the
    generation before.

    The answer is that of the last generation, by the selector `final`.
    """

    n: int = 16
    k: int = 4
    steps: int = 10
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise ValueError(f"k = {self.k}, n = {self.n}: 1 <= k <= n is needed")
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}: at least 1, which is plain sampling")

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth)

    @property
    def selector(self) -> PluginSpec:
        """The last generation's vote."""
        return PluginSpec("final")

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Sample, then aggregate generation by generation; what failed is in no subset."""
        population = yield from sample(self.n, Request(model=self.model, depth=self.depth))
        for _ in range(self.steps - 1):
            living = [t for t in population if t.finish not in (Finish.FAILED, Finish.CANCELLED)]
            if not living:
                return
            subsets = [rng.sample(living, min(self.k, len(living))) for _ in range(self.n)]
            ordinals = yield from submit(
                [self._aggregate(problem.prompt, subset) for subset in subsets]
            )
            population = []
            for ordinal in ordinals:
                population.append((yield from next_trace((ordinal,))))

    def _aggregate(self, prompt: Prompt, subset: Sequence[Trace]) -> Request:
        candidates = "\n\n".join(
            f"Candidate {i}:\n{visible_text(trace)}" for i, trace in enumerate(subset, 1)
        )
        form = REFINE if len(subset) == 1 else AGGREGATE
        text = form.format(question=question(prompt), n=len(subset), candidates=candidates)
        subjects = tuple(sorted(t.ordinal for t in subset))
        return Request(
            with_question(prompt, text),
            model=self.model,
            depth=self.depth,
            purpose=Purpose.AGGREGATE,
            subjects=subjects,
        )
