"""The looped models that `plugin` registers with vLLM: Ouro's and Huginn's, at a depth that each request may choose.

What an iteration is beyond its layers is in their cores. Imported by vLLM in its worker processes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from orchestrator.core.exits import parse_exit
from orchestrator.core.schedule import parse_schedule
from orchestrator.latent import runner
from orchestrator.latent.huginn import HuginnCore, RavenForCausalLM
from orchestrator.latent.ouro import OuroCore, OuroForCausalLM
from orchestrator.latent.recurrence import Core, Recurrence
from orchestrator.latent.rows import Rows
from orchestrator.latent.state import damped
from orchestrator.latent.visits import visits_of


def recurrent(stock: Any, core_of: Callable[[Any, Any], Core]) -> Any:
    """Return the subclass of a causal model whose think block is the core that `core_of(model, config.latent)` makes of it."""

    class Recurrent(stock):  # type: ignore[misc]  # vllm is untyped to us
        supports_lora = False
        supports_pp = False

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            latent = vllm_config.model_config.hf_config.latent
            self.latent_depth = int(latent["depth"])
            context = vllm_config.compilation_config.static_forward_context
            visits = visits_of(self.model.layers, parse_schedule(latent["layers"]), int(latent["max_depth"]), context)
            rule = parse_exit(latent["exit"]) if latent.get("exit") else None
            self.recurrence = Recurrence(visits, core_of(self, latent), damped if latent["damped"] else None, rule, self.compute_logits)
            runner.install_v1()

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


LeadlineOuroForCausalLM = recurrent(OuroForCausalLM, lambda model, latent: OuroCore(model))
LeadlineRavenForCausalLM = recurrent(RavenForCausalLM, lambda model, latent: HuginnCore(model, int(latent.get("state_seed", 0))))
