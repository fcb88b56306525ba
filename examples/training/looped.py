"""A Llama-shaped decoder whose middle layers run again and again, in plain torch.

The one rule: the state dict has the names and shapes of `LlamaForCausalLM`, and a forward pass at
depth r is that model with its layers in the order head, think x r, tail: nothing else between the
loops, one final norm, then the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model; `head_dim` is one that vLLM's attention on a CPU has."""

    vocabulary: int
    width: int = 96
    n_heads: int = 4
    head_dim: int = 32
    inner: int = 256
    n_layers: int = 3  # head, think, tail
    theta: float = 10_000.0
    epsilon: float = 1e-5


class Norm(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.width))
        self.epsilon = shape.epsilon

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.weight, self.epsilon)


@dataclass(slots=True)
class Past:
    """Keys and values of the tokens that one visit of a layer has seen."""

    keys: Tensor | None = None
    values: Tensor | None = None

    def extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values with those of the latest tokens, and keep them."""
        if self.keys is not None and self.values is not None:
            k, v = torch.cat((self.keys, k), 2), torch.cat((self.values, v), 2)
        self.keys, self.values = k, v
        return k, v


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_heads, inner = shape.n_heads, shape.n_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.width, inner, bias=False)
        self.k_proj = nn.Linear(shape.width, inner, bias=False)
        self.v_proj = nn.Linear(shape.width, inner, bias=False)
        self.o_proj = nn.Linear(inner, shape.width, bias=False)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, past: Past | None
    ) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _rotated(q, rotation), _rotated(k, rotation)
        if past is not None:
            k, v = past.extended(k, v)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).flatten(-2))


class Gated(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(shape), Norm(shape)
        self.self_attn, self.mlp = Attention(shape), Gated(shape)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, past: Past | None = None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, past)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaStack(nn.Module):
    """What a Llama checkpoint calls `model`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.n_layers))
        self.norm = Norm(shape)


class LoopedModel(nn.Module):
    """Layer 0 reads, layer 1 thinks `depth` times, layer 2 speaks."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = LlamaStack(shape)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def states(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        depth: int,
        cache: Sequence[Past] | None = None,
    ) -> list[Tensor]:
        """Return the states after the head layer, after every loop, and after the tail: depth + 2
        of (batch, length, width).

        `mask` (batch, 1, length, length) is added to the attention's logits: 0 where a token may
        look, -inf elsewhere. `cache`, one of each of the depth + 2 visits, holds the tokens before
        `ids`, which the mask's last dimension counts too; it is extended.
        """
        rotation = self._rotation(positions)
        head, think, tail = self.model.layers
        x, found = self.model.embed_tokens(ids), []
        for i, layer in enumerate((head, *[think] * depth, tail)):
            x = layer(x, rotation, mask, None if cache is None else cache[i])
            found.append(x)
        return found

    def logits(self, state: Tensor) -> Tensor:
        """Return what the last state says of the next token: (..., vocabulary)."""
        return self.lm_head(self.model.norm(state))

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        half = (
            torch.arange(0, self.shape.head_dim, 2, device=positions.device) / self.shape.head_dim
        )
        angles = positions[:, None, :, None] * self.shape.theta**-half
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()


def _rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * rotation[0] + torch.cat((-second, first), -1) * rotation[1]
