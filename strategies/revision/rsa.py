"""Recursive self-aggregation (RSA; Venkatraman et al., arXiv 2509.26626).

Code: github.com/HyperPotatoNeo/RSA. Each candidate of a new generation is the model's aggregation
of a few of the generation before, drawn at random. The prompts are ours, in the gist of the
released ones; as there, `k` 1 turns aggregation into revision.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.core.steps import Steps, ask_each, sample
from orchestrator.core.values import (
    PluginSpec,
    Problem,
    Prompt,
    Purpose,
    Request,
    Trace,
    changed,
)
from orchestrator.kit.options import ModelOptions
from orchestrator.kit.prompts import question, visible_text, with_question

AGGREGATE = (
    "{question}\n\nBelow are {n} candidate solutions to this problem. Some may be wrong, in part "
    "or as a whole. Take what is right and useful in them and write one solution of high quality. "
    "Where they disagree, work out which way is right. If all of them are wrong, try another "
    "approach. End with the final answer, in the form that was asked for.\n\n{candidates}"
)
REFINE = (
    "{question}\n\nBelow is a candidate solution to this problem. It may be wrong. Check it, and "
    "write a better solution: keep what is right, correct what is not, or try another approach. "
    "End with the final answer, in the form that was asked for.\n\n{candidates}"
)


@dataclass(frozen=True, slots=True)
class Rsa(ModelOptions):
    """Aggregates random subsets of a population again and again.

    For models that merge solutions better than they check them. The answer is that of the last
    generation, by the selector `final`.
    """

    selector: ClassVar[PluginSpec] = PluginSpec("final")  # the vote of the last generation

    n: Annotated[int, Meta(ge=1, description="Number of candidates in each generation.")] = 16
    k: Annotated[
        int,
        Meta(ge=1, description="Number of candidates that are aggregated into one; at most `n`."),
    ] = 4
    steps: Annotated[int, Meta(ge=1, description="Number of generations; 1 is plain sampling.")] = (
        10
    )

    def __post_init__(self) -> None:
        if self.k > self.n:
            raise ValueError(f"k = {self.k}, n = {self.n}: k must not exceed n")

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Sample, then aggregate generation by generation; what failed is in no subset."""
        population = yield from sample(self.n, self.request)
        for _ in range(self.steps - 1):
            living = [t for t in population if not t.lost]
            if not living:
                return
            subsets = [rng.sample(living, min(self.k, len(living))) for _ in range(self.n)]
            population = yield from ask_each(
                [self._aggregation(problem.prompt, subset) for subset in subsets]
            )

    def _aggregation(self, prompt: Prompt, subset: Sequence[Trace]) -> Request:
        candidates = "\n\n".join(
            f"Candidate {i}:\n{visible_text(trace)}" for i, trace in enumerate(subset, 1)
        )
        form = REFINE if len(subset) == 1 else AGGREGATE
        text = form.format(question=question(prompt), n=len(subset), candidates=candidates)
        subjects = tuple(sorted(t.ordinal for t in subset))
        return changed(
            self.request,
            prompt=with_question(prompt, text),
            purpose=Purpose.AGGREGATE,
            subjects=subjects,
        )
