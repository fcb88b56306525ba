"""Normal numbers for latent states, drawn by seed and position alone.

The one rule: a token's numbers do not depend on the rest of the batch, on how its request is cut
into steps, or on what was drawn before. Needs torch, not vllm.
"""

from __future__ import annotations

import math

import torch

from orchestrator.engines.vllm.latent.batch import LatentBatch, on_device
from orchestrator.engines.vllm.latent.state import HiddenState


def perturbed(state: HiddenState, batch: LatentBatch, positions: torch.Tensor) -> HiddenState:
    """Return the first states with the noise of their requests.

    It is added to a request's own tokens: to the last one of its prompt, which predicts the first
    new one, and to those after it. So the states of shared prompts stay alike. In each channel it
    is `size` times the root mean square of the token's state times a number of `truncated_normal`.
    """
    device = positions.device
    sizes, seeds, firsts = [], [], []
    for noise, prompt, n in zip(batch.noise, batch.prompts, batch.lengths, strict=True):
        sizes += [0.0 if noise is None else noise.size] * n
        seeds += [0 if noise is None else noise.seed % (1 << 63)] * n
        firsts += [prompt - 1] * n
    n_all = len(sizes)  # padding may follow
    own = positions[:n_all] >= on_device(firsts, torch.long, device)
    size = on_device(sizes, torch.float32, device) * own
    tokens = size.nonzero().squeeze(1)
    some = state.rows(tokens)
    drawn = truncated_normal(
        positions[tokens], some.hidden.shape[-1], on_device(seeds, torch.long, device)[tokens]
    )
    scale = some.whole().float().pow(2).mean(-1).sqrt() * size[tokens]
    hidden = some.hidden + (drawn * scale[:, None]).to(some.hidden.dtype)
    return state.merged(tokens, HiddenState(hidden, some.residual))


_COLUMN_BITS = 20  # columns of one token; positions use the bits above
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # SplitMix64's increment, as a signed word
_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_CUT = 3.0  # standard deviations


def truncated_normal(positions: torch.Tensor, width: int, seed: int | torch.Tensor) -> torch.Tensor:
    """Return `(n, width)` float32 draws of a unit normal truncated at 3 sigma, by position `(n,)`.

    The seed is one for all, or one for each, `(n,)` int64. Entry (p, c) is number p * 2**20 + c
    of SplitMix64's stream from the seed (Steele, Lea and Flood 2014), mapped through the
    inverse distribution function. Devices agree up to the rounding of their inverse error
    function.
    """
    columns = torch.arange(1, width + 1, dtype=torch.int64, device=positions.device)
    numbers = (positions.to(torch.int64) << _COLUMN_BITS)[:, None] + columns
    if not isinstance(seed, torch.Tensor):
        seed = torch.tensor([seed % (1 << 63)], dtype=torch.int64, device=positions.device)
    words = _mix(_mix(seed)[:, None] + numbers * _GOLDEN)
    uniform = (_shifted(words, 40).to(torch.float64) + 0.5) / (1 << 24)
    # the inverse error function gets uniform arguments in (-reach, reach)
    reach = math.erf(_CUT / math.sqrt(2))
    return (math.sqrt(2) * torch.special.erfinv((2 * uniform - 1) * reach)).to(torch.float32)


def _mix(words: torch.Tensor) -> torch.Tensor:
    """Return SplitMix64's output for each word; int64 arithmetic wraps, as required."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        words = (words ^ _shifted(words, shift)) * factor
    return words ^ _shifted(words, 31)


def _shifted(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the words shifted right, filled with zeros: torch's own shift keeps the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
