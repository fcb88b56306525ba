"""The random latent state that a recurrent-depth model starts from, drawn without a generator: by the seed and a token's place alone.

So a token's state is the same whatever else is in the batch, however the prompt is cut into chunks, and after a preemption; prompts that
two requests share have equal states, and prefix caching stays right. Huginn (arXiv 2502.05171, section 3) draws it anew at every step and
reports that the model forgets it; it does not say what the draw may depend on.
"""

from __future__ import annotations

import math

import torch

_COLUMN_BITS = 20  # columns of one token; places take the bits above
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # SplitMix64's increment, as a signed word
_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_CUT = 3.0  # standard deviations


def truncated_normal(positions: torch.Tensor, width: int, seed: int) -> torch.Tensor:
    """Return `(n, width)` float32 draws of a unit normal within three sigma, for tokens at these positions `(n,)` of their sequences.

    Entry (p, c) is number p * 2**20 + c of the stream that SplitMix64 begins at the seed (Steele, Lea and Flood 2014), through the
    inverse of the distribution function. The same on every device up to the rounding of its inverse error function.
    """
    columns = torch.arange(1, width + 1, dtype=torch.int64, device=positions.device)
    numbers = (positions.to(torch.int64) << _COLUMN_BITS)[:, None] + columns
    start = _mix(torch.tensor(seed % (1 << 63), dtype=torch.int64, device=positions.device))
    words = _mix(start + numbers * _GOLDEN)
    uniform = (_shifted(words, 40).to(torch.float64) + 0.5) / (1 << 24)
    reach = math.erf(_CUT / math.sqrt(2))  # the inverse error function has uniform arguments in (-reach, reach)
    return (math.sqrt(2) * torch.special.erfinv((2 * uniform - 1) * reach)).to(torch.float32)


def _mix(words: torch.Tensor) -> torch.Tensor:
    """Return SplitMix64's output of each word; int64 arithmetic wraps, which is what it wants."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        words = (words ^ _shifted(words, shift)) * factor
    return words ^ _shifted(words, 31)


def _shifted(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the words shifted right, zeros coming in: torch's own shift keeps the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
