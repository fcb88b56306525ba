"""A Llama-shaped decoder whose middle layers run again and again, in plain torch.

The one rule: the state dict has the names and shapes of `LlamaForCausalLM`, and a forward pass at
depth r is that model with its layers in the order head, think x r, tail: nothing else between the
loops, one final norm, then the head.
"""

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


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_heads, inner = shape.n_heads, shape.n_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.width, inner, bias=False)
        self.k_proj = nn.Linear(shape.width, inner, bias=False)
        self.v_proj = nn.Linear(shape.width, inner, bias=False)
        self.o_proj = nn.Linear(inner, shape.width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = functional.scaled_dot_product_attention(
            _rotated(q, rotation), _rotated(k, rotation), v, attn_mask=mask
        )
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

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask)
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

    def states(self, ids: Tensor, positions: Tensor, mask: Tensor, depth: int) -> list[Tensor]:
        """Return the states after the head layer, after every loop, and after the tail: depth + 2
        of (batch, length, width).

        `mask` (batch, 1, length, length) is added to the attention's logits: 0 where a token may
        look, -inf elsewhere.
        """
        rotation = self._rotation(positions)
        head, think, tail = self.model.layers
        found = [head(self.model.embed_tokens(ids), rotation, mask)]
        for _ in range(depth):
            found.append(think(found[-1], rotation, mask))
        return [*found, tail(found[-1], rotation, mask)]

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
