r"""Accuracy of a model folder by depth, width and hops, on held-out problems, in plain torch.

    python examples/sounder/evaluate.py orchestrator/plan/sounder --n 420 --hops 2-8 \
        --depths 1,2,4,8,16

At width 1 a problem's rate is the mean over all its samples; at the largest width it is one vote of
them all, right or wrong; between, the mean over random subsets. A tie goes to the answer seen
first. An interval is 95 %, over problems, by the normal approximation.

The one rule: a problem enters as its text, through the shipped tokenizer, as a user's does.
"""

import argparse
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from looped import Looped, Shape
from packing import visible
from puzzles import draw_problems, hops_range
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from vocabulary import ASK, END, ID, WORDS

MAX_NEW_TOKENS = 16
N_SUBSETS = 64
_ANSWER = re.compile(r"Answer: (\d+)$")


def load(folder: Path) -> tuple[Looped, Tokenizer]:
    """Return model and tokenizer of a folder."""
    model = Looped(Shape(len(WORDS)))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


@torch.inference_mode()
def sample(
    model: Looped, prompts: Tensor, n: int, depth: int, temperature: float, seed: int
) -> list[list[list[int]]]:
    """Return `n` completions of each of `prompts` (batch, length) as token ids.

    All prompts are of one length, and the question is their last two tokens. The samples of a
    prompt are packed: they share its facts and see nothing of each other. Temperature 0 takes the
    most likely token.
    """
    generator = torch.Generator().manual_seed(seed)
    n_prompts, length = prompts.shape
    assert bool((prompts[:, -2] == ID[ASK]).all())
    facts, question = prompts[:, :-2], prompts[:, None, -2:].expand(-1, n, -1)
    owners = torch.arange(1, n + 1)[None, :, None].expand(n_prompts, -1, -1)
    written = question  # (batch, n, tokens of the question and the completion)
    for _ in range(MAX_NEW_TOKENS):
        n_own = written.shape[2]
        ids = torch.cat((facts, written.flatten(1)), 1)
        owner = torch.cat((torch.zeros_like(facts), owners.expand(-1, -1, n_own).flatten(1)), 1)
        own = torch.arange(length - 2, length - 2 + n_own).repeat(n)
        positions = torch.cat((torch.arange(length - 2), own)).expand(n_prompts, -1)
        last = model.states(ids, positions, visible(owner), depth)[-1][:, length - 2 :].unflatten(
            1, (n, n_own)
        )[:, :, -1]
        logits = model.logits(last)
        if temperature > 0:
            chances = (logits / temperature).softmax(-1).flatten(0, 1)
            token = torch.multinomial(chances, 1, generator=generator).view(n_prompts, n, 1)
        else:
            token = logits.argmax(-1, keepdim=True)
        token = torch.where((written[:, :, 2:] == ID[END]).any(-1, keepdim=True), ID[END], token)
        written = torch.cat((written, token), 2)
        if bool((token == ID[END]).all()):
            break
    return written[:, :, 2:].tolist()


def answers(
    model: Looped,
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
            completions = sample(
                model, torch.tensor([encoded[i] for i in part]), n, depth, temperature, seed=start
            )
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
    parser.add_argument("--n", type=int, default=420, help="problems")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--hops", type=hops_range, default="2-8")
    parser.add_argument("--depths", default="1,2,4,8,16")
    parser.add_argument("--widths", default="1,4,16")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load(args.folder)
    hops = args.hops
    problems = list(draw_problems(args.n, args.seed, hops))
    widths = [int(width) for width in args.widths.split(",")]
    print(
        f"{args.n} problems of {hops[0]} to {hops[-1]} hops, temperature {args.temperature}; "
        "% right, ± half a 95 % interval"
    )
    print("| depth | width | all | " + " | ".join(f"{h} hops" for h in hops) + " |")
    print("|---|---|---|" + "---|" * len(hops))
    for depth in map(int, args.depths.split(",")):
        by_problem = answers(
            model,
            tokenizer,
            [str(p["prompt"]) for p in problems],
            max(widths),
            depth,
            args.temperature,
        )
        for width in widths:
            rng = Random(0)
            rates = [
                majority_rate(votes, str(problem["answer"]), width, rng)
                for votes, problem in zip(by_problem, problems, strict=True)
            ]
            parts = [rates, *(rates[i :: len(hops)] for i in range(len(hops)))]
            cells = [
                f"{100 * mean:.1f} ± {100 * half:.1f}"
                for mean, half in map(mean_with_interval, parts)
            ]
            print(f"| {depth} | {width} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
