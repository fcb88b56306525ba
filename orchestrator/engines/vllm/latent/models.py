"""The models that `plugin` registers with vLLM: stock and looped models under a schedule.

The schedule is in the configuration, under `config.latent` (`plan.looped.Latent.overrides`).
Weights and their names are those of the stock model. The one rule: a model differs from its stock
class only in the order of its layers; the rest of an iteration is in a core (`families.cores`).
Imported by vLLM in its worker processes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from orchestrator.core.layers import (
    DepthCascade,
    kept_places,
    parse_cascade,
    parse_exit,
    parse_schedule,
)
from orchestrator.engines.vllm.latent import runner
from orchestrator.engines.vllm.latent.batch import LatentBatch, on_device
from orchestrator.engines.vllm.latent.families.cores import DecoderCore, LoopCore
from orchestrator.engines.vllm.latent.families.huginn import HuginnCore, RavenForCausalLM
from orchestrator.engines.vllm.latent.families.ouro import OuroCore, OuroForCausalLM
from orchestrator.engines.vllm.latent.loop import LayerLoop
from orchestrator.engines.vllm.latent.spans import hooks
from orchestrator.engines.vllm.latent.state import update_of
from orchestrator.engines.vllm.latent.visits import record_sources, visits_of


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
            self.starts_warm = bool(latent.get("warm_start"))
            context = vllm_config.compilation_config.static_forward_context
            self.loop = loop_of(self, latent, context, core_of(self))
            text = latent.get("cascade")
            self.cascade = parse_cascade(text) if text else None
            self.latent_depth = int(latent["depth"])  # of requests that name none
            self.depths_differ = int(latent["max_depth"]) > 1
            if self.depths_differ:
                runner.install_v1()
                record_sources()
                hooks.install()

        def get_model_state_cls(self) -> Any:
            """Return the class that prepares the inputs for V2's runner (V1 never calls this)."""
            from vllm.v1.worker.gpu.model_states.default import DefaultModelState

            if self.starts_warm:
                raise ValueError(
                    "warm_start needs vLLM's V1 model runner, since V2's forgets a request that is "
                    "preempted, and its states with it: set VLLM_USE_V2_MODEL_RUNNER=0"
                )
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

        def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
            """Return the logits of the rows, in a cascade those of what it predicts.

            In a cascade, where a request's depth is no larger than the early iteration, both halves
            are equal. Rows of requests that are not done have logits of 0.
            """
            head = super().compute_logits
            done = self.loop.spans.take_done()
            if done is not None and len(done) < len(hidden_states):
                return logits_of_done(head, hidden_states, done)
            if self.cascade is None or hidden_states.shape[-1] == self.config.hidden_size:
                return head(hidden_states)
            deep, early = (half.contiguous() for half in hidden_states.chunk(2, dim=-1))
            p = head(deep)
            is_shallow = (deep == early).all(dim=-1, keepdim=True)
            return torch.where(is_shallow, p, cascaded(self.cascade, head(early), p))

    LoopedModel.__name__ = LoopedModel.__qualname__ = f"Leadline{stock.__name__}"
    return LoopedModel


def loop_of(
    model: Any, latent: Mapping[str, Any], context: MutableMapping[str, Any], core: LoopCore
) -> LayerLoop:
    """Return the loop of a vLLM causal model as described by `latent`, its `config.latent`.

    Adds the visits' KV caches to vLLM's static forward `context`.
    """
    schedule = parse_schedule(latent["layers"])
    visits = visits_of(
        model.model.layers,
        schedule,
        int(latent["max_depth"]),
        context,
        latent.get("kv_iterations", 0),
        latent.get("kv_writes", ""),
    )
    if kept := latent.get("draft", {}).get("layers"):
        places = kept_places(parse_schedule(kept), schedule.head)
        visits = replace(visits, drafting=tuple(visits.head[i] for i in places))
    rule = parse_exit(latent["exit"]) if latent.get("exit") else None
    early = parse_cascade(latent["cascade"]).depth if latent.get("cascade") else 0
    warm_start = latent.get("warm_start", 0.0)
    return LayerLoop(visits, core, update_of(latent), rule, model.compute_logits, early, warm_start)


def logits_of_done(
    head: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, done: Sequence[int]
) -> torch.Tensor:
    """Return the logits of the rows `done`, and 0 for the others, (n, vocab)."""
    places = on_device(done, torch.long, states.device)
    logits = head(states[places])
    return logits.new_zeros(len(states), logits.shape[1]).index_copy(0, places, logits)


def cascaded(cascade: DepthCascade, early: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
    """Return the logits of what a cascade predicts, from those of both iterations, all (n, vocab).

    The rules of arXiv 2405.19261, section 4, on the distributions before temperature and the like.
    """
    log_q, log_p = (torch.log_softmax(logits.float(), dim=-1) for logits in (early, deep))
    q, p, threshold = log_q.exp(), log_p.exp(), cascade.threshold
    if cascade.rule == "token":
        kept = q.where(p >= (1 - threshold) * p.amax(-1, keepdim=True), 0.0)
        mixed = kept + p * (1 - kept.sum(-1, keepdim=True)).clamp(min=0)
        return mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log()
    sure, surest = q.amax(-1), p.amax(-1)
    if cascade.rule == "chow":
        defers = sure < 1 - threshold
    elif cascade.rule == "diff":
        defers = sure < surest - threshold
    else:
        defers = sure < surest - threshold * (p - q).abs().sum(-1) / 2
    return torch.where(defers.unsqueeze(-1), deep, early)


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
