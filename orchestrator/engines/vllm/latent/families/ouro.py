"""Ouro's components for vLLM (arXiv 2510.25741): Llama's layer with a norm after each half.

Shapes and names are those of the ByteDance/Ouro-* checkpoints; vLLM itself dropped the model in
0.26. `loop` decides how often the stack runs. The checkpoint's learned exit gate is not used: the
supported exit rules are in `core.layers`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.llama import LlamaDecoderLayer, LlamaForCausalLM

from orchestrator.engines.vllm.latent.state import HiddenState


class OuroDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc]  # vllm counts as Any
    """h <- h + n2(Attn(n1 h)), then h <- h + n4(MLP(n3 h)), in two parts as vLLM's Llama."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Add the two norms that Llama does not have."""
        super().__init__(vllm_config, prefix)
        config = vllm_config.model_config.hf_config
        self.input_layernorm_2 = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm_2 = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two parts that sum to the layer's output, each `(n, width)`."""
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.input_layernorm_2(
            self.self_attn(positions=positions, hidden_states=hidden_states)
        )
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.post_attention_layernorm_2(self.mlp(hidden_states)), residual


class OuroForCausalLM(LlamaForCausalLM):  # type: ignore[misc]  # vllm counts as Any
    """Ouro at depth 1, under vLLM's Llama; the checkpoint's names are Llama's plus the gate's."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Build Llama with Ouro's layers."""
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=OuroDecoderLayer)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the checkpoint without its exit gate; return the names of the parameters loaded."""
        loaded: set[str] = super().load_weights(
            (name, tensor) for name, tensor in weights if ".early_exit_gate." not in name
        )
        return loaded


class OuroCore:
    """The state starts as the embedding, and the final norm ends every iteration.

    arXiv 2510.25741, section 3.1.
    """

    def __init__(self, model: Any) -> None:
        """Use the model's norm."""
        self._norm = model.model.norm

    def first_state(self, embedded: HiddenState, positions: torch.Tensor) -> HiddenState:
        """Return the embedding."""
        return embedded

    def inject(self, state: HiddenState, embedded: HiddenState) -> HiddenState:
        """Return a copy of the state: the embedding enters once, at the start."""
        return state.copy()

    def close(self, after: HiddenState) -> HiddenState:
        """Return the normed state."""
        return HiddenState(self._norm(after.whole()))

    def release(self, state: HiddenState) -> HiddenState:
        """Return the state: no layer follows."""
        return state

    def finish(self, after: HiddenState) -> torch.Tensor:
        """Return the state: the last iteration has already normed it."""
        return after.whole()
