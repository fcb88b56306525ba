"""Tiny random checkpoints of looped models, as Hugging Face folders.

A folder has config.json, safetensors, and a tokenizer with one token per printable character.
Tensor names and config keys are those of the published checkpoints (ByteDance/Ouro-1.4B,
tomg-group-umd/huginn-0125).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a test of configurations alone imports no torch
    from torch import Tensor

VOCABULARY = 96


def ouro_config(**changes: Any) -> dict[str, Any]:
    """Return the config.json of a tiny Ouro."""
    return {
        "architectures": ["OuroForCausalLM"],
        "model_type": "ouro",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,  # the smallest size of a CPU kernel
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 256,
        "total_ut_steps": 4,
        "early_exit_threshold": 1.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
        **changes,
    }


def ouro_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Return random weights by the names of the checkpoint."""
    draw = _Draw(seed)
    width, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    weights = {
        "model.embed_tokens.weight": draw(VOCABULARY, width, scale=1.0),
        "model.norm.weight": draw.near_one(width),
        "model.early_exit_gate.weight": draw(1, width),
        "model.early_exit_gate.bias": draw(1),
        "lm_head.weight": draw(VOCABULARY, width, scale=0.4),
    }
    for index in range(config["num_hidden_layers"]):
        name = f"model.layers.{index}"
        shapes = {
            "q_proj": (heads, width),
            "k_proj": (kv_heads, width),
            "v_proj": (kv_heads, width),
            "o_proj": (width, heads),
        }
        weights |= {
            f"{name}.self_attn.{part}.weight": draw(*shape) for part, shape in shapes.items()
        }
        shapes = {
            "gate_proj": (inner, width),
            "up_proj": (inner, width),
            "down_proj": (width, inner),
        }
        weights |= {f"{name}.mlp.{part}.weight": draw(*shape) for part, shape in shapes.items()}
        for norm in (
            "input_layernorm",
            "input_layernorm_2",
            "post_attention_layernorm",
            "post_attention_layernorm_2",
        ):
            # Small second norms: a random stack that does not converge would have no exits to test.
            weights[f"{name}.{norm}.weight"] = draw.near_one(width) * (
                0.3 if norm.endswith("_2") else 1.0
            )
    return weights


def llama_config(**changes: Any) -> dict[str, Any]:
    """Return the config.json of a tiny Llama."""
    own = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 4}
    config = {**ouro_config(), **own, **changes}
    return {
        key: value
        for key, value in config.items()
        if key not in ("total_ut_steps", "early_exit_threshold")
    }


def llama_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Return random weights by the names of the checkpoint."""
    return {
        name: tensor
        for name, tensor in ouro_weights(config, seed).items()
        if "_2." not in name and "early_exit" not in name
    }


def huginn_config(**changes: Any) -> dict[str, Any]:
    """Return the config.json of a tiny Huginn."""
    width, heads, layers = 64, 2, (1, 2, 1)
    return {
        "architectures": ["RavenForCausalLM"],
        "model_type": "huginn_raven",
        "n_embd": width,
        "n_heads": heads,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "n_layers": sum(layers),
        "n_layers_in_prelude": layers[0],
        "n_layers_in_recurrent_block": layers[1],
        "n_layers_in_coda": layers[2],
        "intermediate_size": 96,
        "vocab_size": VOCABULARY,
        "padded_vocab_size": VOCABULARY,
        "block_size": 256,
        "norm_eps": 1e-6,
        "rope_base": 50000.0,
        "qk_bias": True,
        "bias": False,
        "tie_embeddings": True,
        "tie_word_embeddings": True,
        "injection_type": "linear",
        "mean_recurrence": 4,
        "test_time_noise": 0,
        "init_values": {"std": math.sqrt(2 / (5 * width)), "embed_scale": math.sqrt(width)},
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
        **changes,
    }


def huginn_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Return random weights by the names of the checkpoint; the head is the embedding."""
    draw = _Draw(seed)
    width, inner, heads = (
        config["n_embd"],
        config["intermediate_size"],
        config["num_attention_heads"],
    )
    weights = {
        "transformer.wte.weight": draw(VOCABULARY, width, scale=0.15),
        # The state's half is smaller: a random core that does not converge would have no exits to
        # test.
        "transformer.adapter.weight": draw.beside(
            draw(width, width, scale=0.4 / math.sqrt(width)), draw(width, width)
        ),
        "transformer.ln_f.weight": draw.near_one(width),
    }
    parts = (
        ("prelude", "n_layers_in_prelude"),
        ("core_block", "n_layers_in_recurrent_block"),
        ("coda", "n_layers_in_coda"),
    )
    for name in (
        f"transformer.{part}.{index}" for part, count in parts for index in range(config[count])
    ):
        weights |= {
            f"{name}.attn.Wqkv.weight": draw(3 * width, width),
            f"{name}.attn.qk_bias": draw(2, 1, heads, width // heads, scale=0.3),
            f"{name}.attn.proj.weight": draw(width, width),
            f"{name}.mlp.fc.weight": draw(2 * inner, width),
            f"{name}.mlp.proj.weight": draw(width, inner),
        }
        weights |= {f"{name}.norm_{i}.weight": draw.near_one(width) for i in (1, 2, 3, 4)}
    return weights


def write_folder(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    """Return the folder, filled with a model that an engine can load."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    _write_tokenizer(folder)
    return folder


class _Draw:
    """Draws weights from one seed, in the order of the calls."""

    def __init__(self, seed: int) -> None:
        import torch

        self._torch = torch
        self._source = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 0.0) -> Tensor:
        return self._torch.randn(shape, generator=self._source) * (
            scale or 1 / math.sqrt(shape[-1])
        )

    def near_one(self, width: int) -> Tensor:
        return 1 + 0.1 * self._torch.randn(width, generator=self._source)

    def beside(self, *parts: Tensor) -> Tensor:
        return self._torch.cat(parts, dim=1)


def _write_tokenizer(folder: Path) -> None:
    """Write one token per printable character, after the end token 0."""
    vocabulary = {"<end>": 0, **{chr(32 + i): 1 + i for i in range(VOCABULARY - 1)}}
    end = {
        "id": 0,
        "content": "<end>",
        "special": True,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
    }
    split = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<end>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<end>",
                "bos_token": "<end>",
                "unk_token": "<end>",
            }
        )
    )
