"""ConciseHint (Tang et al., arXiv 2506.18810): an attempt is reminded to be concise as it thinks.

The hint is put into its thinking after about `interval` tokens, and then at distances that grow
with its length: interval + growth x length. So a long chain, which a hard problem needs, is
interrupted less and less.

Where we differ: the paper puts a hint back inside the last stretch, nearer its beginning while that
is short; here it comes at its end, because a continuation follows what was written. Its hint stands
in the chat markup of the model; ours is plain text.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Command, Reply
from orchestrator.core.values import Finish, Request
from orchestrator.kit.options import LARGEST
from orchestrator.kit.thinking import ThinkingModel
from strategies.thinking.thinking_attempts import ThinkingAttempts


@dataclass(frozen=True, slots=True)
class ConciseHint(ThinkingAttempts):
    """Reminds a reasoning model to be concise while it thinks.

    For models that think longer than their questions need; no training, no probes.
    """

    hint: Annotated[str, Meta(min_length=1, description="Text that is put into the thinking.")] = (
        " (make answer concise!) "
    )
    interval: Annotated[
        int, Meta(ge=1, description="Tokens of thinking before the first hint, about.")
    ] = 128
    growth: Annotated[
        float,
        Meta(
            ge=0,
            le=LARGEST,
            description="By how many tokens the distance between hints grows with each token of "
            "thinking; 0 keeps it.",
        ),
    ] = 0.2

    def think(self, model: ThinkingModel) -> Generator[Command, Reply, None]:
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
