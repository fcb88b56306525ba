"""Thinking of the fake engine: how long an attempt thinks, and whether that suffices.

A pure function of the request. Thinking is counted in tokens from the attempt's beginning, forced
suffixes included. Not covered: the answer of an attempt that thought too little (`engine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from orchestrator.core.values import Request
from orchestrator.kit.answers.tags import CLOSE

CLOSING = -(2**30)  # the token of the closing tag


@dataclass(frozen=True, slots=True)
class Thought:
    """The thinking of an attempt: its tokens, those that its problem takes, and its end.

    `closing` is the position of the closing tag in the attempt if the request writes it, else None.
    """

    n_tokens: int = 0
    n_needed: int = 0
    closing: int | None = None

    @property
    def is_short(self) -> bool:
        """Whether the thinking was ended before the problem was solved."""
        return self.n_tokens < self.n_needed

    def n_within(self, first: int, ids: Sequence[int]) -> int:
        """Return how many of a request's tokens, the first at this position, are thinking."""
        return 0 if self.closing is None else min(len(ids), self.closing - first)


NO_THOUGHT = Thought()


def thought(request: Request, most: int) -> Thought:
    """Return the thinking of a request's attempt, where a problem takes 1 to `most` tokens of it.

    It ends at the limit of the request's sampling, or earlier by a tag that the strategy forces.
    """
    needed, first = problem_thinking(request.problem_id, most), len(request.prefix_ids)
    if CLOSING in request.prefix_ids:
        return Thought(request.prefix_ids.index(CLOSING), needed)
    if CLOSE in request.prefix_text + request.suffix:
        return Thought(first, needed)
    limit = request.sampling.thinking_tokens if request.sampling else 0
    end = max(first, min(needed, limit or needed))
    return Thought(end, needed, end)


@lru_cache(maxsize=65_536)
def problem_thinking(problem_id: str, most: int) -> int:
    """Return how many tokens of thinking a problem takes, 1 to `most`, each equally likely."""
    digest = blake2b(f"thinking {problem_id}".encode(), digest_size=4).digest()
    return 1 + int.from_bytes(digest, "big") % most
