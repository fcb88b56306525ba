"""What the configuration of a checkpoint that loops by itself says of its loop: Ouro's and Huginn's. Pure: reads no file, needs no vllm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# names that Huginn's config.json has for what every other one calls otherwise
_RAVEN_NAMES = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "max_position_embeddings": "block_size",
}


def usual_names(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration with its sizes under the names that other models give them."""
    if config.get("model_type") != "huginn_raven":
        return config
    return {**config, **{name: config[own] for name, own in _RAVEN_NAMES.items() if own in config}}


def own_loop(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loop as the key "latent" of a config.json would write it; {} for a model that has none of its own.

    Ouro: the whole stack, `total_ut_steps` times. Huginn: prelude, the core `mean_recurrence` times, coda.
    """
    model_type = config.get("model_type")
    if model_type == "ouro":
        depth = int(config.get("total_ut_steps", 4))
        return {"layers": f"(0-{int(config['num_hidden_layers']) - 1})*r", "depth": depth, "max_depth": depth}
    if model_type == "huginn_raven":
        depth = int(config.get("mean_recurrence", 32))
        n_prelude, n_core = int(config["n_layers_in_prelude"]), int(config["n_layers_in_recurrent_block"])
        n_layers = n_prelude + n_core + int(config["n_layers_in_coda"])
        core = f"({n_prelude}-{n_prelude + n_core - 1})*r"
        return {"layers": f"0-{n_prelude - 1} {core} {n_prelude + n_core}-{n_layers - 1}", "depth": depth, "max_depth": depth}
    return {}
