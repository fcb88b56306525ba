"""Budget forcing (s1; Muennighoff et al., arXiv 2501.19393): thinking is made longer, or cut short,
at its end tag.

A trace thinks until it closes its thinking. As often as `ignore` says, the end tag is dropped and
"Wait" put in its place, so that it thinks on within what is left of its tokens. When it has closed
its thinking for good, or its tokens are used up, the tag is put there (and "Final Answer:", if it
was cut), and it answers. As in the released code (github.com/simplescaling/s1) there is one budget
for all thinking.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass

from orchestrator.core.steps import Command, Reply, Steps
from orchestrator.core.values import Capability, Problem, Request
from orchestrator.kit.compose import gather
from orchestrator.kit.thinking import ThinkingModel, thinking_needs


@dataclass(frozen=True, slots=True)
class BudgetForcing:
    """Thinks `n` traces of at most `thinking` tokens, ignores their end of thinking `ignore` times;
    each has `answer` tokens to answer.

    `end` is the model's tag, `wait` what takes its place, `closing` what is said when thinking was
    cut. A model that ends its text without the tag has answered.
    """

    n: int = 8
    ignore: int = 1
    thinking: int = 8192
    answer: int = 1024
    end: str = "</think>"
    wait: str = "Wait"
    closing: str = "\n\nFinal Answer:"
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("ignore", 0), ("thinking", 1), ("answer", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: at least {least}")
        if not self.end or not self.wait:
            raise ValueError(
                f"end = {self.end!r}, wait = {self.wait!r}: the tag that ends thinking, and what takes its place"
            )

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def needs(self) -> frozenset[Capability]:
        """Continuation, stop strings that are told, and latent depth if one is asked for."""
        return thinking_needs(self.depth)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Think and answer all traces side by side."""
        mind = ThinkingModel(
            Request(model=self.model, depth=self.depth), self.end, self.closing, self.answer
        )
        yield from gather(self._think(mind) for _ in range(self.n))

    def _think(self, mind: ThinkingModel) -> Generator[Command, Reply, None]:
        n_left = self.thinking
        trace = yield from mind.think(Request(max_new_tokens=n_left))
        for _ in range(self.ignore):
            n_left -= trace.usage.output_tokens
            if trace.stop != self.end or n_left < 1:
                break
            trace = yield from mind.think(
                Request(parent=trace.ordinal, suffix=self.wait, max_new_tokens=n_left)
            )
        yield from mind.conclude(trace)
