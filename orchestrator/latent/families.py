"""The model families that can run under a layer schedule: a table, and nothing that needs vllm.

A row is enough for a family of vLLM whose model is `embed -> layer(positions, hidden, residual)* -> norm` with its one Attention at
`layer.self_attn.attn`; `models` makes the class.
"""

from __future__ import annotations

from collections.abc import Mapping

_MODULE = "orchestrator.latent.models"
_LOOPS = "orchestrator.latent.loops"

# of checkpoints that loop by themselves (`native`); vLLM has no model of theirs
LOOPED: Mapping[str, str] = {
    "OuroForCausalLM": "LeadlineOuroForCausalLM",
    "RavenForCausalLM": "LeadlineRavenForCausalLM",
}

# architecture in config.json -> architecture that `plugin` registers with vLLM
FAMILIES: Mapping[str, str] = {
    "LlamaForCausalLM": "LeadlineLlamaForCausalLM",
    "MistralForCausalLM": "LeadlineMistralForCausalLM",
    "Qwen2ForCausalLM": "LeadlineQwen2ForCausalLM",
    "Qwen3ForCausalLM": "LeadlineQwen3ForCausalLM",
    **LOOPED,
}


def targets() -> dict[str, str]:
    """Return where each architecture that we add to vLLM is found, as "module:Class"."""
    return {name: f"{_LOOPS if name in LOOPED.values() else _MODULE}:{name}" for name in FAMILIES.values()}
