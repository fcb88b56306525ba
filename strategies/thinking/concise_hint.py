"""Concise hints (ConciseHint; Tang et al., arXiv 2506.18810): while a trace thinks it is told again
and again to be concise.

The hint is put into its thinking after about `interval` tokens, and then at distances that grow
with its length: interval + growth x length. So a long chain, which a hard problem needs, is
interrupted less and less.

Where we differ: the paper puts a hint back inside the last stretch, nearer its beginning while that
is short; here it comes at its end, because a continuation goes on after what was written. Its hint
stands in the chat marks of the model; ours is plain text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator
from dataclasses import dataclass

from orchestrator.core.steps import Command, Reply, Steps
from orchestrator.core.values import Capability, Finish, Problem, Request
from orchestrator.kit.compose import gather
from orchestrator.kit.thinking import ThinkingModel, thinking_needs


@dataclass(frozen=True, slots=True)
class ConciseHint:
    """Thinks `n` traces of at most `thinking` tokens with hints between; each has `answer` tokens
    to answer.

    `end` is the model's tag, `closing` what is said when thinking was cut.
    """

    n: int = 8
    hint: str = " (make answer concise!) "
    interval: int = 128
    growth: float = 0.2
    thinking: int = 8192
    answer: int = 1024
    end: str = "</think>"
    closing: str = "\n\nFinal Answer:"
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        for name in ("n", "interval", "thinking", "answer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: at least 1")
        if not 0 <= self.growth < math.inf:
            raise ValueError(f"growth = {self.growth}: at least 0 and finite")
        if not self.end or not self.hint:
            raise ValueError(
                f"end = {self.end!r}, hint = {self.hint!r}: the tag that ends thinking, and what is said in between"
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
        at, n_done = None, 0
        while True:
            interval = self.interval + int(self.growth * n_done)
            hint = self.hint if at is not None else ""
            thought = yield from mind.think(
                Request(
                    parent=at,
                    suffix=hint,
                    checkpoint=interval,
                    max_new_tokens=self.thinking - n_done,
                )
            )
            if thought.finish is not Finish.RULE:
                break
            at, n_done = thought.ordinal, n_done + thought.usage.output_tokens
        yield from mind.conclude(thought)
