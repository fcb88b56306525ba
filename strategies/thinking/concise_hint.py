"""ConciseHint (Tang et al., arXiv 2506.18810): an attempt is reminded to be concise as it thinks.

The hint is inserted into its thinking after about `interval` tokens, and then at distances that
grow with its length: interval + growth x length. A long chain, which a hard problem needs, is thus
interrupted less and less.

Where we differ: the paper inserts a hint inside the last stretch, nearer to its beginning while the
chain is short; here it is appended at the end, because a continuation follows the text so far. The
paper's hint uses the chat markup of the model; ours is plain text.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps
from orchestrator.core.values import Finish, Problem, Request
from orchestrator.kit.options import LARGEST
from orchestrator.kit.thinking import ThinkingModel
from strategies.thinking.thinking_attempts import ThinkingAttempts


@dataclass(frozen=True, slots=True)
class ConciseHint(ThinkingAttempts):
    """Reminds a reasoning model to be concise while it thinks.

    For models that think longer than their questions need; no training, no probes.
    """

    hint: Annotated[str, Meta(min_length=1, description="Text inserted into the thinking.")] = (
        " (make answer concise!) "
    )
    interval: Annotated[
        int, Meta(ge=1, description="Approximate number of thinking tokens before the first hint.")
    ] = 128
    growth: Annotated[
        float,
        Meta(
            ge=0,
            le=LARGEST,
            description="Number of tokens by which the distance between hints grows per token of "
            "thinking; 0 keeps it constant.",
        ),
    ] = 0.2

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Think and answer in all attempts, side by side."""
        return self.side_by_side(self._attempt)

    def _attempt(self, model: ThinkingModel) -> Generator[Command, Reply, None]:
        """Think, with a hint between stretches, and answer."""
        parent, n_tokens = None, 0
        while True:
            trace = yield from model.think(
                Request(
                    parent=parent,
                    suffix="" if parent is None else self.hint,
                    checkpoint=self.interval + int(self.growth * n_tokens),
                    max_new_tokens=self.thinking - n_tokens,
                )
            )
            if trace.finish is not Finish.RULE:
                break
            parent, n_tokens = trace.ordinal, n_tokens + trace.usage.output_tokens
        yield from model.conclude(trace)
