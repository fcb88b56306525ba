"""Compares fixed depths with exit rules on a model that was trained to loop.

    python benchmarks/exits.py --model sounder --problems examples/sounder.jsonl --deepest 16

Greedy, one completion per problem, in plain PyTorch: the reference that the vLLM plugin matches
token for token (`tests/engine/test_latent.py`). So it needs no engine, and measures the effect of a
rule, not its speed. The model is a Llama-shaped folder with a schedule in its config.json. Prints
right answers, iterations per generated token (`mean_depth`), and layers run per token, the prompt's
included (as `layer_tokens` charges). An answer is right when the completion ends with the
reference.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engines" / "vllm" / "latent"))

import loop_references as references
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from orchestrator.core.layers import parse_exit, parse_schedule
from orchestrator.plan.models import resolve_model

RULES = (
    "state<0.7",
    "state<0.6",
    "state<0.5",
    "state<0.35",
    "state<0.2",
    "state<0.1",
    "kl<0.5",
    "kl<0.05",
    "kl<5e-3",
    "kl<5e-4",
)
DEPTHS = (1, 2, 3, 4, 5, 6, 8, 16)
MAX_NEW_TOKENS = 16
# prompt, new tokens -> continuation, iterations of every token fed
Generate = Callable[[list[int], int], tuple[list[int], list[int]]]


class Subject:
    """A model in plain PyTorch, its tokenizer and its schedule."""

    def __init__(self, name: str) -> None:
        folder = Path(resolve_model(name))
        config = json.loads((folder / "config.json").read_text())
        self.schedule = parse_schedule(config["latent"]["layers"])
        self.end = config["eos_token_id"]
        layers = self.schedule.head, self.schedule.think, self.schedule.tail
        self.model = references.Llama(config, load_file(folder / "model.safetensors"), *layers)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def at_depth(self, depth: int) -> Generate:
        """Return the continuation at one depth."""
        return lambda prompt, n: (
            references.generate(self.model, prompt, n, depth),
            [depth] * (len(prompt) + n - 1),
        )

    def under(self, text: str, deepest: int) -> Generate:
        """Return the continuation under an exit rule."""
        rule = parse_exit(text)
        parts = (rule.measure, rule.threshold, rule.least)
        return lambda prompt, n: references.generate_under(self.model, prompt, n, parts, deepest)

    def completed(self, prompt: list[int], generate: Generate) -> tuple[list[int], list[int]]:
        """Return the continuation up to its end token, and the iterations of every token fed.

        Lengthens until the end is there.
        """
        for n in (4, 8, MAX_NEW_TOKENS):
            ids, taken = generate(prompt, n)
            if self.end in ids:
                n_own = ids.index(self.end) + 1
                return ids[:n_own], taken[: len(prompt) + n_own - 1]
        return ids, taken


def line(name: str, subject: Subject, rows: list[dict[str, Any]], generate: Generate) -> str:
    """Return the table's line of one setting."""
    right, own, every = 0, [], []
    for row in rows:
        prompt = subject.tokenizer.encode(row["prompt"]).ids
        ids, taken = subject.completed(prompt, generate)
        right += bool(
            re.search(rf"\b{re.escape(row['answer'])}\W*$", subject.tokenizer.decode(ids))
        )
        own += taken[len(prompt) - 1 :]
        every += taken
    layers = subject.schedule.n_layers_run(0) + len(subject.schedule.think) * sum(every) / len(
        every
    )
    return f"| {name} | {right} of {len(rows)} | {sum(own) / len(own):.2f} | {layers:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sounder")
    parser.add_argument("--problems", type=Path, default=Path("examples/sounder.jsonl"))
    parser.add_argument("--deepest", type=int, default=16, help="the most iterations under a rule")
    parser.add_argument("--limit", type=int, default=0, help="the first problems only; 0: all")
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--rules", nargs="*", default=RULES)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject(asked.model)
    rows = [json.loads(text) for text in asked.problems.read_text().splitlines() if text][
        : asked.limit or None
    ]
    print(
        "| setting | right | iterations per generated token | layers per token |\n|---|---|---|---|"
    )
    with torch.inference_mode():
        for depth in asked.depths:
            print(line(f"depth {depth}", subject, rows, subject.at_depth(depth)), flush=True)
        for rule in asked.rules:
            print(line(f"`{rule}`", subject, rows, subject.under(rule, asked.deepest)), flush=True)


if __name__ == "__main__":
    main()
