"""What vLLM calls in each of its processes, through the entry point `leadline-latent` of the group
`vllm.general_plugins`.

It runs more than once per process and in every vLLM of this environment, ours or not: so it imports
nothing of weight, adds architectures of our own names, and changes no other.
"""

from __future__ import annotations

from orchestrator.plan.looped import targets


def register() -> None:
    """Tell vLLM where our architectures are; it imports them when a model asks for one.

    And transformers, what their configurations are.
    """
    from vllm import ModelRegistry  # vllm is loaded already: it called us

    from orchestrator.engines.vllm.latent.configs import register_configs  # so is transformers

    known = set(ModelRegistry.get_supported_archs())
    for architecture, target in targets().items():
        if architecture not in known:
            ModelRegistry.register_model(architecture, target)
    register_configs()
