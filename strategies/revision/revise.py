"""Sequential revision: chains of attempts, each of which sees the ones before it.

As Snell et al. (arXiv 2408.03314, section 6). Where we differ: theirs is a model trained to revise,
with up to four earlier attempts in its context; ours is any chat model, in a conversation. The
prompt is ours. Self-Refine (Madaan et al., arXiv 2303.17651) is `memory = 1`, with feedback and
revision requested in one turn.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps, ask
from orchestrator.core.values import Problem, Prompt, Trace, changed
from orchestrator.kit.compose import gather
from orchestrator.kit.options import ModelOptions
from orchestrator.kit.prompts import next_turn, visible_text

REVISE = (
    "Review your solution: go through it step by step and look for mistakes. Then solve the "
    "problem again, complete and in the form that was asked for. If you find no mistake, keep the "
    "answer."
)


@dataclass(frozen=True, slots=True)
class Revise(ModelOptions):
    """Revises attempts in sequence; for models that find their own mistakes.

    Chains run side by side. With the selector `majority` all attempts vote, with `final` the last
    one of each chain.
    """

    chains: Annotated[int, Meta(ge=1, description="Number of chains.")] = 4
    revisions: Annotated[
        int, Meta(ge=0, description="Number of revisions after the first attempt of a chain.")
    ] = 3
    memory: Annotated[
        int, Meta(ge=1, description="Number of latest attempts of its chain that a revision sees.")
    ] = 4

    @property
    def n_planned(self) -> int:
        """How many attempts full sampling takes."""
        return self.chains * (self.revisions + 1)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Run all chains; one whose attempt fails ends there."""
        yield from gather(self._chain(problem.prompt) for _ in range(self.chains))

    def _chain(self, prompt: Prompt) -> Generator[Command, Reply, None]:
        attempts: list[Trace] = []
        for _ in range(self.revisions + 1):
            request, conversation = self.request, prompt
            for attempt in attempts[-self.memory :]:
                conversation = next_turn(conversation, visible_text(attempt), REVISE)
                request = changed(request, prompt=conversation, subjects=(attempt.ordinal,))
            attempts.append((yield from ask(request)))
            if attempts[-1].lost:
                return
