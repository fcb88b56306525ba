"""The vLLM models that `plugin` registers: vLLM's own, run under a layer schedule. Imported by vLLM
in its worker processes only.

The schedule comes in the configuration, `config.latent` (`check.Latent.overrides`). Weights and
their names are the stock model's.

The looped models that `plugin` registers with vLLM: Ouro's and Huginn's, at a depth that each
request may choose.

What an iteration is beyond its layers is in their cores. Imported by vLLM in its worker processes
only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from orchestrator.core.layers import parse_schedule
from orchestrator.engines.vllm.latent import runner
from orchestrator.engines.vllm.latent.batch import Rows
from orchestrator.engines.vllm.latent.huginn import HuginnCore, RavenForCausalLM
from orchestrator.engines.vllm.latent.loop import Core, PlainCore, Recurrence, Stack, recurrence_of
from orchestrator.engines.vllm.latent.ouro import OuroCore, OuroForCausalLM
from orchestrator.engines.vllm.latent.state import update_of


def scheduled(stock: Any) -> Any:
    """Return the subclass of a vLLM causal model that runs `config.latent`'s schedule instead of
    its layers in order.
    """

    class Scheduled(stock):  # type: ignore[misc]  # vllm is untyped to us
        # a LoRA would be applied at every visit; nobody has said that this is what it was trained
        # for
        supports_lora = False
        supports_pp = False  # a loop would have to go back to an earlier stage

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            latent = vllm_config.model_config.hf_config.latent
            require_sound(vllm_config)
            self.latent_depth = int(latent["depth"])  # of requests that name none
            self._recurrence: Recurrence | None = None
            layout = self.model.layers, parse_schedule(latent["layers"]), int(latent["max_depth"])
            context = vllm_config.compilation_config.static_forward_context
            if latent.get("exit"):
                self._recurrence = recurrence_of(self, *layout, context, PlainCore(self.model.norm))
                self.ledger = self._recurrence.ledger
            else:
                self._stack = Stack(*layout, context, update_of(latent))
            self._depths_differ = int(latent["max_depth"]) > 1
            if self._depths_differ:
                runner.install_v1()

        def get_model_state_cls(self) -> Any:
            """Return what V2's runner prepares this model's inputs with (V1's does not ask)."""
            if self._depths_differ:
                return runner.model_state_v2()
            from vllm.v1.worker.gpu.model_states.default import DefaultModelState

            return DefaultModelState

        def forward(
            self,
            input_ids: torch.Tensor | None,
            positions: torch.Tensor,
            intermediate_tensors: Any = None,
            inputs_embeds: torch.Tensor | None = None,
            rows: Rows | None = None,
        ) -> torch.Tensor:
            hidden = (
                self.model.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
            )
            if self._recurrence is not None:
                return self._recurrence(hidden, positions, rows)
            state = self._stack(hidden, positions, rows)
            if state.residual is None:
                return self.model.norm(state.hidden)
            normed, _ = self.model.norm(state.hidden, state.residual)
            return normed

    Scheduled.__name__ = Scheduled.__qualname__ = f"Leadline{stock.__name__}"
    return Scheduled


def require_sound(vllm_config: Any) -> None:
    """Refuse what is not sound, for users of the plugin without our engine; ours has refused it
    before (`check`).
    """
    if not vllm_config.model_config.enforce_eager:
        raise ValueError("a model with a layer schedule runs eagerly: set enforce_eager=True")
    if vllm_config.quant_config is not None:
        raise ValueError("a model with a layer schedule must not be quantised")
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise ValueError(
            "a model with a layer schedule cannot be spread over pipeline stages: use tensor parallelism"
        )


LeadlineLlamaForCausalLM = scheduled(LlamaForCausalLM)
LeadlineMistralForCausalLM = scheduled(MistralForCausalLM)
LeadlineQwen2ForCausalLM = scheduled(Qwen2ForCausalLM)
LeadlineQwen3ForCausalLM = scheduled(Qwen3ForCausalLM)


def recurrent(stock: Any, core_of: Callable[[Any], Core]) -> Any:
    """Return the subclass of a causal model whose think block is the core that `core_of(model)`
    makes of it.
    """

    class Recurrent(stock):  # type: ignore[misc]  # vllm is untyped to us
        supports_lora = False
        supports_pp = False

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            require_sound(vllm_config)
            latent = self.config.latent
            layout = self.model.layers, parse_schedule(latent["layers"]), int(latent["max_depth"])
            self.latent_depth = int(latent["depth"])  # of requests that name none
            self.recurrence = recurrence_of(
                self, *layout, vllm_config.compilation_config.static_forward_context, core_of(self)
            )
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
