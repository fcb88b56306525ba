"""A Llama that computes the same as another one, at the cost of a wider one: padded with zeros.

For benchmarks that need what a trained model does, such as how often a draft is kept, and what a
larger model costs. New channels are zero everywhere, and new heads write nothing; each norm's
weight makes up for the zeros in its mean.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


def widened(model: Path, folder: Path, times: int) -> Path:
    """Write a model that is so many times as wide to a folder, and return that."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wide = {**config, **{name: config[name] * times for name in SIZES}}
    wide["rms_norm_eps"] = config["rms_norm_eps"] / times
    (folder / "config.json").write_text(json.dumps(wide), encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        weights = load_file(file)
        save_file({name: _padded(name, one, times) for name, one in weights.items()}, file)
    return folder


def _padded(name: str, weight: torch.Tensor, times: int) -> torch.Tensor:
    weight = weight.float()
    if weight.dim() == 1:  # of a norm
        padded = torch.zeros(len(weight) * times)
        padded[: len(weight)] = weight / math.sqrt(times)
        return padded
    n, width = weight.shape
    is_outer = "embed_tokens" in name or "lm_head" in name  # as many rows as tokens
    padded = torch.zeros(n if is_outer else n * times, width * times)
    padded[:n, :width] = weight
    return padded
