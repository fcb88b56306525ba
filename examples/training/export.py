r"""Write a trained checkpoint as a Hugging Face folder: weights, configuration, tokenizer.

    python examples/training/export.py runs/sounder/checkpoint.pt orchestrator/plan/shipped/sounder
    python examples/training/export.py --model fathom runs/fathom/checkpoint.pt \
        orchestrator/plan/shipped/fathom

The one rule: the folder is a plain `LlamaForCausalLM`; only the key `latent` of config.json
tells that it loops. Needs `safetensors` and `tokenizers` beside torch.
"""

import argparse
import json
from pathlib import Path

import torch
from recipes import RECIPES, Recipe
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Split
from vocabulary import END, PAD, UNKNOWN, Language

MAX_TOKENS = 256  # rotary positions have no end of their own; the longest puzzle has 192 tokens
MAX_DEPTH = 16


def configuration(recipe: Recipe) -> dict[str, object]:
    """Return the content of config.json."""
    shape, ids = recipe.shape, recipe.language.ids
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_TOKENS,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
        "dtype": "float32",
        "use_cache": True,
        "latent": {"layers": "0 (1)*r 2", "depth": recipe.deepest, "max_depth": MAX_DEPTH},
    }


def tokenizer(language: Language) -> Tokenizer:
    """Return the tokenizer: it keeps the words that matter and drops the rest; decoding puts spaces
    between them.
    """
    result = Tokenizer(WordLevel(dict(language.ids), unk_token=UNKNOWN))
    result.normalizer = Replace(Regex(language.verbs), ": ")
    result.pre_tokenizer = Split(Regex(language.pieces), "removed", invert=True)
    result.add_special_tokens([PAD, END, UNKNOWN])
    return result


def export(recipe: Recipe, checkpoint: Path, folder: Path) -> None:
    """Write the folder; files of the same names are replaced."""
    trainee = torch.load(checkpoint, map_location="cpu")["trainee"]
    weights = {
        name.removeprefix("looped."): value.contiguous()
        for name, value in trainee.items()
        if name.startswith("looped.")
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer(recipe.language).save(str(folder / "tokenizer.json"))
    ids = recipe.language.ids
    ends = {"eos_token_id": ids[END], "pad_token_id": ids[PAD]}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "model_max_length": MAX_TOKENS,
        "clean_up_tokenization_spaces": False,
    }
    parts = {
        "config.json": configuration(recipe),
        "generation_config.json": ends,
        "tokenizer_config.json": settings,
    }
    for name, content in parts.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(RECIPES), default="sounder")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    export(RECIPES[args.model], args.checkpoint, args.folder)


if __name__ == "__main__":
    main()
