"""The log-probabilities that the fake engine's traces keep, which mean as little as its answers.

The one rule: they follow from tokens and confidences alone, so a request has the same ones each
time.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.values import LikelyToken, TokenLogprob

_FILLERS = (" so", " wait", " but", " then")


def token_logprobs(
    texts: Sequence[str], logprobs: Sequence[float], n_top: int
) -> tuple[TokenLogprob, ...]:
    """Return tokens with the `n_top` most likely ones in their places: themselves first."""
    return tuple(
        TokenLogprob(text, logprob, top=_top(text, logprob, n_top))
        for text, logprob in zip(texts, logprobs, strict=True)
    )


def _top(text: str, logprob: float, n: int) -> tuple[LikelyToken, ...]:
    others = (f"{_FILLERS[i % len(_FILLERS)]}{i}" for i in range(1, n))
    less_likely = (LikelyToken(other, logprob - i) for i, other in enumerate(others, 1))
    return (LikelyToken(text, logprob), *less_likely)[:n]
