"""Sequential revision: chains of attempts, each of which sees the ones before it (Snell et al.,
arXiv 2408.03314, section 6).

Theirs is a model trained to revise, with up to four earlier attempts in its context; ours is any
chat model, asked in a conversation. The prompt is ours. Self-Refine (Madaan et al., arXiv
2303.17651) is `memory = 1`, its feedback and revision asked for in one turn.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass

from orchestrator.core.steps import Command, Reply, Steps, ask, depth_needs
from orchestrator.core.values import Capability, Finish, Problem, Prompt, Request, Trace
from orchestrator.kit.compose import gather
from orchestrator.kit.prompts import next_turn, visible_text

REVISE = (
    "Review your solution: go through it step by step and look for mistakes. Then solve the problem again, complete and in the form that "
    "was asked for. If you find no mistake, keep the answer."
)


@dataclass(frozen=True, slots=True)
class Revise:
    """Runs `chains` chains side by side: an attempt and `revisions` revisions, each shown the last
    `memory` attempts of its chain.

    With the selector `majority` all attempts vote, with `final` the last of each chain.
    """

    chains: int = 4
    revisions: int = 3
    memory: int = 4
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("revisions", 0), ("memory", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: at least {least}")

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.chains * (self.revisions + 1)

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Run all chains; one whose attempt fails ends there."""
        yield from gather(self._chain(problem.prompt) for _ in range(self.chains))

    def _chain(self, prompt: Prompt) -> Generator[Command, Reply, None]:
        attempts: list[Trace] = []
        for _ in range(self.revisions + 1):
            talk = prompt
            for attempt in attempts[-self.memory :]:
                talk = next_turn(talk, visible_text(attempt), REVISE)
            subjects = tuple(t.ordinal for t in attempts[-1:])
            asked = Request(
                talk if attempts else "", model=self.model, depth=self.depth, subjects=subjects
            )
            attempts.append((yield from ask(asked)))
            if attempts[-1].finish in (Finish.FAILED, Finish.CANCELLED):
                return
