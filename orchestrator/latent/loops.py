"""The looped models that `plugin` registers with vLLM: Ouro's and Huginn's, at a depth that each request may choose.

What an iteration is beyond its layers is in their cores. Imported by vLLM in its worker processes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from orchestrator.core.schedule import parse_schedule
from orchestrator.latent import runner
from orchestrator.latent.huginn import HuginnCore, RavenForCausalLM
from orchestrator.latent.models import require_sound
from orchestrator.latent.ouro import OuroCore, OuroForCausalLM
from orchestrator.latent.recurrence import Core, recurrence_of
from orchestrator.latent.rows import Rows


def recurrent(stock: Any, core_of: Callable[[Any], Core]) -> Any:
    """Return the subclass of a causal model whose think block is the core that `core_of(model)` makes of it."""

    class Recurrent(stock):  # type: ignore[misc]  # vllm is untyped to us
        supports_lora = False
        supports_pp = False

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            require_sound(vllm_config)
            latent = self.config.latent
            layout = self.model.layers, parse_schedule(latent["layers"]), int(latent["max_depth"])
            self.latent_depth = int(latent["depth"])  # of requests that name none
            self.recurrence = recurrence_of(self, *layout, vllm_config.compilation_config.static_forward_context, core_of(self))
            self.ledger = self.recurrence.ledger
            runner.install_v1()

        def get_model_state_cls(self) -> Any:
            """Return what V2's runner prepares this model's inputs with (V1's does not ask)."""
            return runner.model_state_v2()

        def forward(
            self,
            input_ids: torch.Tensor | None,
            positions: torch.Tensor,
            intermediate_tensors: Any = None,
            inputs_embeds: torch.Tensor | None = None,
            rows: Rows | None = None,
        ) -> torch.Tensor:
            hidden = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
            return self.recurrence(hidden, positions, rows)

    Recurrent.__name__ = Recurrent.__qualname__ = f"Leadline{stock.__name__}"
    return Recurrent


LeadlineOuroForCausalLM = recurrent(OuroForCausalLM, OuroCore)
LeadlineRavenForCausalLM = recurrent(RavenForCausalLM, HuginnCore)
