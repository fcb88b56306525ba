"""Configurations of looped checkpoints that transformers does not include: Ouro and Huginn.

Names and defaults are those of the published config.json files.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class OuroConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers counts as Any
    """config.json of ByteDance/Ouro-*: a Llama-shaped stack that runs `total_ut_steps` times."""

    model_type = "ouro"

    def __init__(
        self,
        rope_theta: float = 1e6,
        rope_scaling: dict[str, Any] | None = None,
        total_ut_steps: int = 4,
        **others: Any,
    ) -> None:
        """Keep the rotary embedding's parameters under the name that vLLM reads."""
        self.rope_parameters = {
            "rope_type": "default",
            **(rope_scaling or {}),
            "rope_theta": rope_theta,
        }
        self.total_ut_steps = total_ut_steps
        super().__init__(**others)


class RavenConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers counts as Any
    """config.json of tomg-group-umd/huginn-0125: prelude, core `mean_recurrence` times, coda."""

    model_type = "huginn_raven"
    attribute_map = {  # noqa: RUF012  # transformers wants a plain dict on the class
        "hidden_size": "n_embd",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "max_position_embeddings": "block_size",
        "rms_norm_eps": "norm_eps",
    }

    def __init__(
        self,
        rope_base: float = 5e4,
        mean_recurrence: int = 32,
        tie_embeddings: bool = True,
        bias: bool = False,
        **others: Any,
    ) -> None:
        """Keep the rotary embedding's parameters under the name that vLLM reads."""
        self.rope_parameters = {"rope_type": "default", "rope_theta": rope_base}
        self.rope_base, self.mean_recurrence, self.tie_embeddings, self.bias = (
            rope_base,
            mean_recurrence,
            tie_embeddings,
            bias,
        )
        self.hidden_act = "silu"
        super().__init__(**{"tie_word_embeddings": tie_embeddings, **others})


def register_configs() -> None:
    """Register the two model types with transformers, and so with vLLM; may be called again."""
    for config in (OuroConfig, RavenConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
