"""Attempts that think and then answer, side by side: shared by the strategies of this folder.

Each strategy decides how long an attempt thinks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps
from orchestrator.core.values import Capability
from orchestrator.kit.answers.tags import CLOSE
from orchestrator.kit.compose import gather
from orchestrator.kit.options import AttemptOptions
from orchestrator.kit.thinking import ThinkingModel, thinking_needs


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingAttempts(AttemptOptions):
    """Options for the number of attempts, the length of thinking, and the turn to the answer.

    If a model ends its text without the end tag, the text counts as its answer.
    """

    n: Annotated[int, Meta(ge=1, description="Number of attempts.")] = 8
    thinking: Annotated[
        int, Meta(ge=1, description="Largest number of tokens that an attempt may think.")
    ] = 8192
    answer: Annotated[
        int, Meta(ge=1, description="Largest number of tokens of the answer after thinking.")
    ] = 1024
    end: Annotated[
        str, Meta(min_length=1, description="Tag with which the model ends its thinking.")
    ] = CLOSE
    closing: Annotated[
        str,
        Meta(
            description="Text inserted after the end tag if thinking was cut off; empty for none.",
        ),
    ] = "\n\nFinal Answer:"

    @property
    def needs(self) -> frozenset[Capability]:
        """Continuation, reported stop strings, and latent depth if one is set."""
        return thinking_needs(self.depth)

    def side_by_side(
        self, attempt: Callable[[ThinkingModel], Generator[Command, Reply, None]]
    ) -> Steps:
        """Run the attempts at once, each by `attempt`."""
        model = ThinkingModel(self.request, self.end, self.closing, self.answer)
        yield from gather(attempt(model) for _ in range(self.n))
