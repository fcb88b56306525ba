"""The vLLM plugin that registers our architectures, the entry point `leadline-latent`.

vLLM calls it in each of its processes, more than once, and in every vLLM of this environment, even
without Leadline. The one rule: it imports nothing heavy, adds architectures under our own names,
and changes no others.
"""

from __future__ import annotations

from orchestrator.plan.looped import targets


def register() -> None:
    """Register our architectures with vLLM, and their configurations with transformers.

    vLLM imports an architecture when a model names it.
    """
    from vllm import ModelRegistry  # vllm is loaded already: it called us

    from orchestrator.engines.vllm.latent.families.configs import (
        register_configs,
    )  # so is transformers

    known = set(ModelRegistry.get_supported_archs())
    for architecture, target in targets().items():
        if architecture not in known:
            ModelRegistry.register_model(architecture, target)
    register_configs()
