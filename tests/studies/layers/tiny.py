"""Tiny models with random weights, one for each family, and a tokenizer that spells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

N_LAYERS = 4
_SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def tiny_model(family: str = "llama", n_layers: int = N_LAYERS, seed: int = 0, **more: Any) -> Any:
    """A model whose layers all matter: its weights are so large that order changes tokens."""
    torch.manual_seed(seed)
    name = _CLASSES[family]
    heads = {"head_dim": 8} if family in ("mistral", "qwen3") else {}
    config = getattr(transformers, f"{name}Config")(
        **_SIZES, num_hidden_layers=n_layers, **heads, **more
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    return model


def rebuilt(model: Any, order: tuple[int, ...]) -> Any:
    """A stock model of its own that has these layers, weights copied: what an order must equal."""
    config = type(model.config)(
        **{**model.config.to_dict(), "num_hidden_layers": len(order), "layer_types": None}
    )
    kinds = getattr(model.config, "layer_types", None)
    if kinds:
        config.layer_types = [kinds[index] for index in order]
    other = type(model)(config).eval()
    state = {name: value for name, value in model.state_dict().items() if ".layers." not in name}
    for place, index in enumerate(order):
        prefix = f"model.layers.{index}."
        state |= {
            f"model.layers.{place}.{n.removeprefix(prefix)}": v
            for n, v in model.state_dict().items()
            if n.startswith(prefix)
        }
    other.load_state_dict(state)
    return other


class Spelling:
    """A tokenizer: printable ASCII, one token a character, from id 3 on; ids 0 to 2 are special.

    Token 95 and above do not occur.
    """

    chat_template = None
    eos_token_id = 2

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [3 + (ord(c) - 32) % 93 for c in text]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(32 + id - 3) for id in ids if id >= 3)


def save(model: Any, folder: Path) -> Path:
    """The model as a folder with a tokenizer that transformers loads."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{chr(32 + i): 3 + i for i in range(93)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", pad_token="<pad>"
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
