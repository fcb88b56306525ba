"""Problems of a model, from the part of its puzzles that it is never trained on, as JSON lines.

    python examples/training/puzzles.py --n 120 --seed 1 --hops 2-8 > problems.jsonl
    python examples/training/puzzles.py --model fathom --n 120 --seed 1 --hops 2-16 > problems.jsonl

A completion writes strides, drawn at random, and what is found that many steps on; a stride that
reaches the end gives the answer. So what must be found without writing is bounded by the stride,
not by the hops: that much depth is needed, and different strides are different routes to one
answer.

The one rule: the seed decides the problems. Not covered: the kinds of puzzles (`kinds`).
"""

import argparse
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from kinds.puzzle import draw_puzzle
from recipes import RECIPES, Recipe

MOST_HOPS = 16  # 64 names for four walks


def draw_problems(recipe: Recipe, n: int, seed: int, hops: range) -> Iterator[dict[str, Any]]:
    """Yield `n` held-out rows of a problem file, kinds in turn, and hops in turn within a kind;
    walks are as long as training's longest, or as the hops need.
    """
    rng = Random(f"{recipe.name} problems {seed}")
    for i in range(n):
        which, n_hops = i % len(recipe.kinds), hops[i // len(recipe.kinds) % len(hops)]
        kind, longest = recipe.kinds[which], max(recipe.hops[-1], n_hops)
        puzzle = draw_puzzle(kind, rng, longest, recipe.n_walks[which], held_out=True)
        walk = rng.choice(puzzle.walks)
        several = len(recipe.kinds) > 1
        row = {
            "id": f"{kind.name if several else 'hops'}{n_hops}-{i}",
            "prompt": puzzle.text(walk, longest - n_hops),
            "answer": walk.answer(longest - n_hops).removeprefix("Answer: "),
            "domain": "number",
        }
        yield row | {"tags": ({"kind": kind.name} if several else {}) | {"hops": str(n_hops)}}


def hops_range(text: str) -> range:
    """Return the numbers of hops that a text such as 8 or 2-8 names; for argparse."""
    first, _, last = text.partition("-")
    hops = range(int(first), int(last or first) + 1)
    if not hops or hops[0] < 1 or hops[-1] > MOST_HOPS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number or range from 1 to {MOST_HOPS}: "
            "there are no more words for longer walks"
        )
    return hops


def main() -> None:
    parser = argparse.ArgumentParser(description="Write held-out problems as JSON lines.")
    parser.add_argument("--model", choices=sorted(RECIPES), default="sounder")
    parser.add_argument("--n", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--hops", type=hops_range, default="2-8", help="one number, or a range such as 2-8"
    )
    args = parser.parse_args()
    for row in draw_problems(RECIPES[args.model], args.n, args.seed, args.hops):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
