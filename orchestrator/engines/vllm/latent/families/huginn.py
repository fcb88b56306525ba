"""Huginn's components for vLLM (arXiv 2502.05171, section 3): blocks, injection, first state.

The blocks of prelude, core and coda form one list of layers under vLLM's Llama, in that order, so
that a schedule can name them. `loop` decides how often the core runs. Shapes and names are those of
tomg-group-umd/huginn-0125; its test-time noise is not supported.

The core's random initial state is drawn without a generator, from the seed and the token's position
alone. So a token's state does not depend on the rest of the batch, on how the prompt is chunked, or
on preemption; a prompt shared by two requests has equal states, and prefix caching stays correct.
Huginn draws a new state at every step and reports that the model forgets it; the paper does not
specify what the draw may depend on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers import PretrainedConfig
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM

from orchestrator.engines.vllm.latent.families.draws import truncated_normal
from orchestrator.engines.vllm.latent.state import HiddenState

# the same for all requests, so that they can share prefixes
_STATE_SEED = 0
_BLOCK = re.compile(r"transformer\.(prelude|core_block|coda)\.(\d+)\.")
_PARTS = {
    "attn.Wqkv.": "self_attn.qkv_proj.",
    "attn.proj.": "self_attn.o_proj.",
    "attn.qk_bias": "self_attn.qk_bias",
}
_PARTS |= {"mlp.fc.": "mlp.gate_up_proj.", "mlp.proj.": "mlp.down_proj."}
_OUTER = {
    "transformer.wte.": "model.embed_tokens.",
    "transformer.ln_f.": "model.norm.",
    "transformer.adapter.": "model.adapter.",
}


class RavenAttention(LlamaAttention):  # type: ignore[misc]  # vllm counts as Any
    """Attention with a learned bias on queries and keys before the rotation.

    The rotation pairs neighbouring channels.
    """

    def __init__(self, config: PretrainedConfig, *arguments: object, **named: object) -> None:
        """Add the bias `(2, 1, heads, head size)`, split by heads under tensor parallelism."""
        super().__init__(config, *arguments, **named)
        self.qk_bias = nn.Parameter(
            torch.zeros(2, 1, self.num_heads, self.head_dim), requires_grad=False
        )
        self.qk_bias.weight_loader = _load_own_heads

    def _init_rotary_emb(
        self, config: PretrainedConfig, quant_config: QuantizationConfig | None
    ) -> None:
        self.rotary_emb = get_rope(
            self.head_dim,
            max_position=self.max_position_embeddings,
            rope_parameters=config.rope_parameters,
            is_neox_style=False,
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the attention output, `(n, width)`."""
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        bias = self.qk_bias.flatten(1)
        q, k = self.rotary_emb(positions, q + bias[0], k + bias[1])
        output, _ = self.o_proj(self.attn(q, k, v))
        return output


class RavenDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc]  # vllm counts as Any
    """y = n2(x + Attn(n1 x)), then n4(y + MLP(n3 y)): sums are normed, so there is no residual."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Build Llama's layer with Huginn's attention and two additional norms."""
        super().__init__(vllm_config, prefix, attn_layer_type=RavenAttention)
        config = vllm_config.model_config.hf_config
        self.norm_1, self.norm_3 = self.input_layernorm, self.post_attention_layernorm
        del self.input_layernorm, self.post_attention_layernorm
        self.norm_2 = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm_4 = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, None]:
        """Return the block's output `(n, width)`, and None in place of Llama's residual."""
        x = hidden_states if residual is None else hidden_states + residual
        y = self.norm_2(x + self.self_attn(positions=positions, hidden_states=self.norm_1(x)))
        return self.norm_4(y + self.mlp(self.norm_3(y))), None


class RavenForCausalLM(LlamaForCausalLM):  # type: ignore[misc]  # vllm counts as Any
    """All blocks of Huginn in one list under vLLM's Llama, and the adapter for the loop."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Build Llama with Huginn's layers and the adapter.

        The language-model head is the embedding, unless the checkpoint says otherwise.
        """
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=RavenDecoderLayer)
        width = self.config.hidden_size
        self.model.adapter = ReplicatedLinear(
            2 * width, width, bias=bool(self.config.bias), prefix="model.adapter"
        )

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return sqrt(h) times the embedding, `(n, width)`: the input of the prelude."""
        return self.model.embed_input_ids(input_ids) * math.sqrt(self.config.hidden_size)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the checkpoint by its own names; return the names of the parameters loaded."""
        loaded: set[str] = super().load_weights(self._renamed(weights))
        return loaded

    def _renamed(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        n_prelude, n_core = self.config.n_layers_in_prelude, self.config.n_layers_in_recurrent_block
        first = {"prelude": 0, "core_block": n_prelude, "coda": n_prelude + n_core}
        for name, tensor in weights:
            if name == "freqs_cis" or (
                name == "lm_head.weight" and self.config.tie_word_embeddings
            ):
                continue  # the rotation is computed, and a tied head reuses the embedding
            block = _BLOCK.match(name)
            if block is not None:
                name = f"model.layers.{first[block[1]] + int(block[2])}." + _replaced(
                    name[block.end() :], _PARTS
                )
            yield _replaced(name, _OUTER), tensor


class HuginnCore:
    """Every iteration reads A[s; e], from a random s_0; one norm is used before and after the coda.

    arXiv 2502.05171, section 3.
    """

    def __init__(self, model: RavenForCausalLM) -> None:
        """Take the adapter and the norm from the model."""
        self._adapter, self._norm = model.model.adapter, model.model.norm

    def first_state(self, embedded: HiddenState, positions: torch.Tensor) -> HiddenState:
        """Return s_0: sigma^2 = 2/(5h), truncated at 3 sigma, times sqrt(h), drawn by position."""
        width = embedded.hidden.shape[-1]
        scale = math.sqrt(2 / (5 * width)) * math.sqrt(width)
        drawn = truncated_normal(positions, width, _STATE_SEED) * scale
        return HiddenState(drawn.to(embedded.hidden.dtype))

    def inject(self, state: HiddenState, embedded: HiddenState) -> HiddenState:
        """Return A[s; e]."""
        mixed, _ = self._adapter(torch.cat((state.whole(), embedded.whole()), dim=-1))
        return HiddenState(mixed)

    def close(self, after: HiddenState) -> HiddenState:
        """Return the core's output unchanged."""
        return after

    def release(self, state: HiddenState) -> HiddenState:
        """Return the normed state."""
        return HiddenState(self._norm(state.whole()))

    def finish(self, after: HiddenState) -> torch.Tensor:
        """Return the normed output of the coda."""
        return self._norm(after.whole())


def _load_own_heads(parameter: torch.Tensor, weight: torch.Tensor) -> None:
    """Fill a bias `(2, 1, heads, size)` with this rank's heads."""
    n_heads = weight.shape[2] // get_tensor_model_parallel_world_size()
    parameter.data.copy_(weight.narrow(2, get_tensor_model_parallel_rank() * n_heads, n_heads))


def _replaced(name: str, table: dict[str, str]) -> str:
    """Return the name with its first matching prefix in the table replaced."""
    for old, new in table.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name
