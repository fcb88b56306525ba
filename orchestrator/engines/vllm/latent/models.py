"""The models that `plugin` registers with vLLM: stock and looped models under a schedule.

The schedule is in the configuration, under `config.latent` (`plan.looped.Latent.overrides`).
Weights and their names are those of the stock model. The one rule: a model differs from its stock
class only in the order of its layers; the rest of an iteration is in a core (`families.cores`).
Imported by vLLM in its worker processes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from orchestrator.engines.vllm.latent import runner
from orchestrator.engines.vllm.latent.batch import LatentBatch
from orchestrator.engines.vllm.latent.families.cores import DecoderCore, LoopCore
from orchestrator.engines.vllm.latent.families.huginn import HuginnCore, RavenForCausalLM
from orchestrator.engines.vllm.latent.families.ouro import OuroCore, OuroForCausalLM
from orchestrator.engines.vllm.latent.loop import loop_of
from orchestrator.engines.vllm.latent.visits import record_sources


def looped(stock: Any, core_of: Callable[[Any], LoopCore]) -> Any:
    """Return the subclass of a vLLM causal model that runs `config.latent`'s schedule.

    `core_of(model)` creates the core of its think block.
    """

    class LoopedModel(stock):  # type: ignore[misc]  # vllm is untyped to us
        # a LoRA would be applied at every visit, but none is trained for that
        supports_lora = False
        supports_pp = False  # a loop would have to return to an earlier stage

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            require_sound(vllm_config)
            latent = vllm_config.model_config.hf_config.latent
            context = vllm_config.compilation_config.static_forward_context
            self.loop = loop_of(self, latent, context, core_of(self))
            self.latent_depth = int(latent["depth"])  # of requests that name none
            self.depths_differ = int(latent["max_depth"]) > 1
            if self.depths_differ:
                runner.install_v1()
                record_sources()

        def get_model_state_cls(self) -> Any:
            """Return the class that prepares the inputs for V2's runner (V1 never calls this)."""
            from vllm.v1.worker.gpu.model_states.default import DefaultModelState

            return runner.model_state_v2() if self.depths_differ else DefaultModelState

        def forward(
            self,
            input_ids: torch.Tensor | None,
            positions: torch.Tensor,
            intermediate_tensors: Any = None,
            inputs_embeds: torch.Tensor | None = None,
            batch: LatentBatch | None = None,
        ) -> torch.Tensor:
            hidden = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
            return self.loop(hidden, positions, batch)

    LoopedModel.__name__ = LoopedModel.__qualname__ = f"Leadline{stock.__name__}"
    return LoopedModel


def require_sound(vllm_config: Any) -> None:
    """Raise ValueError for an invalid setup; for users of the plugin without our engine.

    Our engine rejects it earlier (`engines.vllm.depth`).
    """
    if not vllm_config.model_config.enforce_eager:
        raise ValueError("a model with a layer schedule runs eagerly: set enforce_eager=True")
    if vllm_config.quant_config is not None:
        raise ValueError("a model with a layer schedule must not be quantised")
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise ValueError(
            "a model with a layer schedule cannot be spread over pipeline stages: use tensor "
            "parallelism"
        )


def _decoder_core(model: Any) -> LoopCore:
    return DecoderCore(model.model.norm)


LeadlineLlamaForCausalLM = looped(LlamaForCausalLM, _decoder_core)
LeadlineMistralForCausalLM = looped(MistralForCausalLM, _decoder_core)
LeadlineQwen2ForCausalLM = looped(Qwen2ForCausalLM, _decoder_core)
LeadlineQwen3ForCausalLM = looped(Qwen3ForCausalLM, _decoder_core)
LeadlineOuroForCausalLM = looped(OuroForCausalLM, OuroCore)
LeadlineRavenForCausalLM = looped(RavenForCausalLM, HuginnCore)
