"""Thinking in pieces, for strategies that shorten or lengthen a reasoning model's thinking. Pure.

A reasoning model closes its thinking with a tag and then answers. Here its thinking is requested
with the tag as stop string, so that a continuation may extend it or close it:

    thought = yield from model.think(Request(max_new_tokens=self.thinking))
    yield from model.conclude(thought)
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from orchestrator.core.steps import Command, Reply, ask, depth_needs
from orchestrator.core.values import Capability, Finish, Request, Trace, changed


@dataclass(frozen=True, slots=True)
class ThinkingModel:
    """The request for an attempt (model, depth), and the tag `end` that ends the model's thinking.

    `closing` is forced after the tag where thinking was cut; the answer has up to `answer` tokens.
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
        """Let the model answer after its last piece of thinking.

        A piece that ended without the tag has given its answer already, or failed.
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
    """Return what this takes of an engine: CONTINUE and STOPS, and DEPTH if a depth is given."""
    return depth_needs(depth) | {Capability.CONTINUE, Capability.STOPS}
