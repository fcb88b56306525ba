"""Tiny checkpoints with random weights, in the shapes that reward and embedding models have, and
what plain PyTorch makes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2Model,
)

TAG = "<extra_0>"
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", TAG]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with a chat template and the step tag of Qwen2.5-Math-PRM."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=SPECIAL[0], pad_token=SPECIAL[0])
    made.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    made.chat_template = TEMPLATE
    return made


def _config(**fields: Any) -> Qwen2Config:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    ids = {"eos_token_id": 256, "bos_token_id": None, "pad_token_id": 256}
    return Qwen2Config(
        vocab_size=272,
        max_position_embeddings=1024,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **sizes,
        **ids,
        **fields,
    )


class ProcessReward(nn.Module):
    """The shape of Qwen2ForProcessRewardModel: a decoder, and two labels at each token by a head of
    two layers.
    """

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.model = Qwen2Model(config)
        width = config.hidden_size
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


def _saved(model: Any, config: Qwen2Config, architecture: str, folder: Path) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    config.architectures = [architecture]
    config.save_pretrained(folder)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    tokenizer().save_pretrained(folder)
    return folder


def policy(folder: Path) -> Path:
    """Write a language model."""
    torch.manual_seed(0)
    config = _config()
    return _saved(Qwen2ForCausalLM(config), config, "Qwen2ForCausalLM", folder)


def outcome(folder: Path) -> tuple[Path, Callable[[list[int]], float]]:
    """Write a sequence classifier of one label, as Skywork's reward models are; return it with its
    logit of token ids.
    """
    torch.manual_seed(1)
    config = _config(num_labels=1)
    model = Qwen2ForSequenceClassification(config).eval()

    def logit(ids: list[int]) -> float:
        with torch.no_grad():
            return float(model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1]))

    return _saved(model, config, "Qwen2ForSequenceClassification", folder), logit


def process(folder: Path) -> tuple[Path, Callable[[list[int]], list[float]]]:
    """Write a process reward model; return it with P(right) at each token of token ids."""
    torch.manual_seed(2)
    config = _config()
    model = ProcessReward(config).eval()

    def shares(ids: list[int]) -> list[float]:
        with torch.no_grad():
            logits = model.score(model.model(torch.tensor([ids])).last_hidden_state[0])
        return [float(p) for p in torch.softmax(logits, dim=-1)[:, 1]]

    return _saved(model, config, "Qwen2ForProcessRewardModel", folder), shares


def embedder(folder: Path) -> tuple[Path, Callable[[list[int]], list[float]]]:
    """Write an embedding model of the last token, as Qwen3-Embedding is; return it with its
    embedding of token ids.
    """
    torch.manual_seed(3)
    config = _config()
    model = Qwen2ForCausalLM(config).eval()

    def embedding(ids: list[int]) -> list[float]:
        with torch.no_grad():
            last = model.model(torch.tensor([ids])).last_hidden_state[0, -1]
        return [float(x) for x in last / last.norm()]

    return _saved(model, config, "Qwen2ForCausalLM", folder), embedding
