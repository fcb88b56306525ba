r"""Accuracy of a model folder by depth, width and hops, on held-out problems, in plain torch.

    python examples/training/evaluate.py orchestrator/plan/shipped/sounder --n 420 --hops 2-8 \
        --depths 1,2,4,8,16

At width 1 a problem's rate is the mean over all its samples; at the largest width it is one vote of
them all, right or wrong; between, the mean over random subsets. A tie goes to the answer seen
first. An interval is 95 %, over problems, by the normal approximation.

The one rule: a problem enters as its text, through the shipped tokenizer, as a user's does.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from looped import LoopedModel, Past, Shape
from packing import visible
from puzzles import draw_problems, hops_range
from recipes import RECIPES
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from vocabulary import END

MAX_NEW_TOKENS = 50  # the longest completion of 16 hops: every stride a step, three words each
N_SUBSETS = 64
_ANSWER = re.compile(r"Answer: (\d+)$")


def load(folder: Path) -> tuple[LoopedModel, Tokenizer]:
    """Return model and tokenizer of a folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = Shape(
        config["vocab_size"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["head_dim"],
        config["intermediate_size"],
    )
    model = LoopedModel(shape)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


@torch.inference_mode()
def sample(
    model: LoopedModel, prompts: Tensor, n: int, depth: int, temperature: float, seed: int, end: int
) -> list[list[list[int]]]:
    """Return `n` completions of each of `prompts` (batch, length) as token ids.

    All prompts are of one length. The samples of a prompt are packed: they share all of it but its
    last token and see nothing of each other. Temperature 0 takes the most likely token; `end` ends
    a completion, and fills it up to the longest.
    """
    generator = torch.Generator().manual_seed(seed)
    n_prompts, length = prompts.shape
    cache = [Past() for _ in range(depth + 2)]
    shared = torch.zeros(n_prompts, length - 1, dtype=torch.long)
    positions = torch.arange(length - 1).expand(n_prompts, -1)
    model.states(prompts[:, :-1], positions, visible(shared), depth, cache)
    owner = torch.cat((shared[0], torch.arange(1, n + 1)))
    token, written = prompts[:, -1:].expand(-1, n), []
    for place in range(length - 1, length - 1 + MAX_NEW_TOKENS):
        mask = visible(owner[None])[:, :, -n:].expand(n_prompts, -1, -1, -1)
        positions = torch.full((n_prompts, n), place)
        logits = model.logits(model.states(token, positions, mask, depth, cache)[-1])
        if temperature > 0:
            chances = (logits / temperature).softmax(-1).flatten(0, 1)
            drawn = torch.multinomial(chances, 1, generator=generator).view(n_prompts, n)
        else:
            drawn = logits.argmax(-1)
        ended = written[-1] == end if written else torch.zeros_like(drawn, dtype=torch.bool)
        token = torch.where(ended, end, drawn)
        written.append(token)
        owner = torch.cat((owner, torch.arange(1, n + 1)))
        if bool((token == end).all()):
            break
    return torch.stack(written, -1).tolist()


def answers(
    model: LoopedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    n: int,
    depth: int,
    temperature: float,
) -> list[list[str]]:
    """Return the answers in `n` completions of each prompt, "" where one has none."""
    encoded = [tokenizer.encode(prompt).ids for prompt in prompts]
    answers_by_prompt: list[list[str]] = [[] for _ in prompts]
    by_length: dict[int, list[int]] = {}
    for i, ids in enumerate(encoded):
        by_length.setdefault(len(ids), []).append(i)
    for group in by_length.values():
        for start in range(0, len(group), 32):
            part = group[start : start + 32]
            ids = torch.tensor([encoded[i] for i in part])
            end = tokenizer.token_to_id(END)
            completions = sample(model, ids, n, depth, temperature, start, end)
            for i, tokens in zip(part, completions, strict=True):
                texts = [tokenizer.decode(t) for t in tokens]
                answers_by_prompt[i] = [
                    match[1] if (match := _ANSWER.search(text)) else "" for text in texts
                ]
    return answers_by_prompt


def majority_rate(votes: Sequence[str], right: str, width: int, rng: Random) -> float:
    """Return how often a vote of `width` of these answers is right; "" does not vote."""
    if width == 1:
        return sum(answer == right for answer in votes) / len(votes)
    subsets = (
        [list(votes)]
        if width == len(votes)
        else [rng.sample(votes, width) for _ in range(N_SUBSETS)]
    )
    return sum(_vote(subset) == right for subset in subsets) / len(subsets)


def _vote(votes: Sequence[str]) -> str:
    counts = Counter(answer for answer in votes if answer)
    return max(counts, key=lambda answer: counts[answer]) if counts else ""


def mean_with_interval(rates: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the problems' rates and half the width of its 95 % interval."""
    mean = sum(rates) / len(rates)
    variance = sum((rate - mean) ** 2 for rate in rates) / max(1, len(rates) - 1)
    return mean, 1.96 * math.sqrt(variance / len(rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--model", choices=sorted(RECIPES), default="sounder", help="whose problems"
    )
    parser.add_argument("--n", type=int, default=420, help="problems")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--hops", type=hops_range, default="2-8")
    parser.add_argument("--depths", default="1,2,4,8,16")
    parser.add_argument("--widths", default="1,4,16")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--by", choices=("hops", "kind"), default="hops", help="columns")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load(args.folder)
    problems = list(draw_problems(RECIPES[args.model], args.n, args.seed, args.hops))
    by_tag: dict[str, list[int]] = {}
    for i, problem in enumerate(problems):
        by_tag.setdefault(problem["tags"][args.by], []).append(i)
    widths = [int(width) for width in args.widths.split(",")]
    print(
        f"{args.n} problems of {args.hops[0]} to {args.hops[-1]} hops, temperature "
        f"{args.temperature}; % right, ± half a 95 % interval"
    )
    unit = " hops" if args.by == "hops" else ""
    print("| depth | width | all | " + " | ".join(f"{tag}{unit}" for tag in by_tag) + " |")
    print("|---|---|---|" + "---|" * len(by_tag))
    for depth in map(int, args.depths.split(",")):
        prompts = [problem["prompt"] for problem in problems]
        by_problem = answers(model, tokenizer, prompts, max(widths), depth, args.temperature)
        for width in widths:
            rng = Random(0)
            rates = [
                majority_rate(votes, problem["answer"], width, rng)
                for votes, problem in zip(by_problem, problems, strict=True)
            ]
            parts = [rates, *([rates[i] for i in places] for places in by_tag.values())]
            cells = [
                f"{100 * mean:.1f} ± {100 * half:.1f}"
                for mean, half in map(mean_with_interval, parts)
            ]
            print(f"| {depth} | {width} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
