"""Budget forcing (s1; Muennighoff et al., arXiv 2501.19393): thinking is lengthened or cut off.

An attempt thinks until it closes its thinking. The first `ignore` times, the end tag is replaced by
"Wait", which makes the attempt continue to think within its remaining tokens. When it closes its
thinking once more, or its tokens are used up, the tag is inserted (and "Final Answer:" if thinking
was cut off), and the attempt answers. As in the released code (github.com/simplescaling/s1), there
is one budget for all thinking.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps
from orchestrator.core.values import Problem, Request
from orchestrator.kit.thinking import ThinkingModel
from strategies.thinking.thinking_attempts import ThinkingAttempts


@dataclass(frozen=True, slots=True)
class BudgetForcing(ThinkingAttempts):
    """Lengthens thinking, or cuts it off, to a token budget.

    For reasoning models that stop thinking too early.
    """

    ignore: Annotated[
        int, Meta(ge=0, description="How often the end of thinking is replaced by `wait`.")
    ] = 1
    wait: Annotated[
        str, Meta(min_length=1, description="Text that replaces an end of thinking.")
    ] = "Wait"

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Think and answer in all attempts, side by side."""
        return self.side_by_side(self._attempt)

    def _attempt(self, model: ThinkingModel) -> Generator[Command, Reply, None]:
        """Think within the budget, going on where thinking ends too early, and answer."""
        n_left = self.thinking
        trace = yield from model.think(Request(max_new_tokens=n_left))
        for _ in range(self.ignore):
            n_left -= trace.usage.output_tokens
            if trace.stop != self.end or n_left < 1:
                break
            trace = yield from model.think(
                Request(parent=trace.ordinal, suffix=self.wait, max_new_tokens=n_left)
            )
        yield from model.conclude(trace)
