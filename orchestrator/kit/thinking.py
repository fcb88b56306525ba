"""How a trace that thinks comes to its answer: what strategies that shorten or lengthen thinking
have in common. Pure.

A reasoning model closes its thinking with a tag and then answers. Its thinking is asked for with
the tag as stop string, so that it may go on, or be closed, by a continuation.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from orchestrator.core.steps import Command, Reply, ask, depth_needs
from orchestrator.core.values import Capability, Finish, Request, Trace, changed


@dataclass(frozen=True, slots=True)
class ThinkingModel:
    """Whose thinking it is: the request that asks for it (model, depth), and the tag that ends it.

    `closing` is said after the tag where thinking was cut; the answer may take `answer` tokens.
    """

    request: Request
    end: str
    closing: str
    answer: int

    def think(self, request: Request) -> Generator[Command, Reply, Trace]:
        """Return a piece of thinking that ends at the tag, or as `request` says."""
        return (
            yield from ask(
                changed(
                    request, model=self.request.model, depth=self.request.depth, stop=(self.end,)
                )
            )
        )

    def conclude(self, thought: Trace) -> Generator[Command, Reply, None]:
        """Let it answer after its last piece of thinking; one that ended without the tag has
        answered, or failed.
        """
        closed, cut = thought.stop == self.end, thought.finish in (Finish.LENGTH, Finish.RULE)
        if closed or cut:
            suffix = self.end if closed else self.end + self.closing
            yield from ask(
                changed(
                    self.request, parent=thought.ordinal, suffix=suffix, max_new_tokens=self.answer
                )
            )


def thinking_needs(depth: int | None) -> frozenset[Capability]:
    """Return what leading a trace's thinking takes of an engine: continuation, stop strings that
    are told, latent depth if asked for.
    """
    return depth_needs(depth) | {Capability.CONTINUE, Capability.STOPS}
