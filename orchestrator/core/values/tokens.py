"""Generated tokens with their log-probabilities."""

from __future__ import annotations

from typing import NamedTuple


class LikelyToken(NamedTuple):
    """A token with its log-probability; `bytes` where they are not those of the text."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None


class TokenLogprob(NamedTuple):
    """A generated token as `LikelyToken`, with the most likely ones in its place, `top`, by rank.

    Tuples, which the journal keeps in half the space.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top: tuple[LikelyToken, ...] = ()
