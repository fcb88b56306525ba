"""Puzzles of several hops: who follows whom, who goes to which room, where somebody ends up.

    Gus follows Kim. Tia goes to room 4. Kim follows Tia. ... Where does Gus end up?
    2 steps: Tia 3 steps: Answer: 4

A completion writes strides, drawn at random, and the person that many steps on; a stride that
reaches the room ends it. So what must be found without writing is bounded by the stride, not by the
hops: that much depth is needed, and different strides are different routes to one answer.

The one rule: a puzzle belongs to training or to the held-out part by a hash of its facts, so no
seed can mix them.

    python examples/sounder/puzzles.py --n 120 --seed 1 --hops 2-8 > problems.jsonl

Not covered: tokens (`vocabulary.py`) and batches (`packing.py`).
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

_NAMES = """
Abe Ada Amy Ann Ben Bea Bob Cal Dan Deb Don Dot Ed Eli Eva Fay Gil Gus Guy Hal Hugo Ian Ida Ira Ivy
Jan Jay Jed Jim Joe Jon Joy Kay Ken Kim Kit Lea Lee Len Leo Lia Liz Lou Lyn Mae Max May Meg Mia Ned
Nia Nan Pam Pat Ray Rex Rob Ron Roy Sam Sid Sue Tia Tim
"""
NAMES = tuple(_NAMES.split())
ROOMS = tuple("0123456789")
N_CHAINS = 4
STRIDES = range(4, 8)  # of completions; training also practises shorter ones
MAX_STRIDE = STRIDES[-1]
_HELD_OUT_OF = 16  # one puzzle in sixteen is never trained on


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Facts in the order of the text, (person, next person or room); `chains` are the same, from
    the far end to the room.
    """

    facts: tuple[tuple[str, str], ...]
    chains: tuple[tuple[str, ...], ...]

    def text(self, person: str) -> str:
        """Return the problem that asks for one person's room."""
        facts = " ".join(
            f"{who} goes to room {goal}." if goal in ROOMS else f"{who} follows {goal}."
            for who, goal in self.facts
        )
        return f"{facts} Where does {person} end up?"

    def is_held_out(self) -> bool:
        """Whether these facts, in any order, are kept from training."""
        return hashlib.sha256(repr(sorted(self.facts)).encode()).digest()[0] % _HELD_OUT_OF == 0


def draw_puzzle(rng: Random, n_hops: int, *, held_out: bool, n_chains: int = N_CHAINS) -> Puzzle:
    """Return a puzzle of `n_chains` chains of `n_hops` people each, with different rooms, from
    the held-out part or the other.
    """
    while True:
        people = rng.sample(NAMES, n_chains * n_hops)
        rooms = rng.sample(ROOMS, n_chains)
        chains = tuple((*people[i * n_hops : (i + 1) * n_hops], rooms[i]) for i in range(n_chains))
        facts = [(chain[i], chain[i + 1]) for chain in chains for i in range(n_hops)]
        rng.shuffle(facts)
        puzzle = Puzzle(tuple(facts), chains)
        if puzzle.is_held_out() == held_out:
            return puzzle


def draw_route(
    rng: Random, chain: tuple[str, ...], start: int, strides: range = STRIDES
) -> list[tuple[int, int]]:
    """Return strides and the places of the chain they lead to, until the room: [(stride, place),
    ...].
    """
    route = []
    place = start
    while place < len(chain) - 1:
        stride = rng.choice(strides)
        place = min(place + stride, len(chain) - 1)
        route.append((stride, place))
    return route


def draw_problems(n: int, seed: int, hops: range) -> Iterator[dict[str, object]]:
    """Yield `n` held-out rows of a problem file, hops in turn; chains are 8 people long, or as long
    as the hops need.
    """
    rng = Random(f"sounder problems {seed}")
    for i in range(n):
        n_hops = hops[i % len(hops)]
        puzzle = draw_puzzle(rng, max(8, n_hops), held_out=True)
        chain = rng.choice(puzzle.chains)
        row = {
            "id": f"hops{n_hops}-{i}",
            "prompt": puzzle.text(chain[-1 - n_hops]),
            "answer": chain[-1],
            "domain": "number",
        }
        yield row | {"tags": {"hops": str(n_hops)}}


def hops_range(text: str) -> range:
    """Return the numbers of hops that a text such as 8 or 2-8 names; for argparse."""
    first, _, last = text.partition("-")
    hops = range(int(first), int(last or first) + 1)
    longest = len(NAMES) // N_CHAINS
    if not hops or hops[0] < 1 or hops[-1] > longest:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number or range from 1 to {longest}: "
            f"there are {len(NAMES)} names for {N_CHAINS} chains"
        )
    return hops


def main() -> None:
    parser = argparse.ArgumentParser(description="Write held-out problems as JSON lines.")
    parser.add_argument("--n", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--hops", type=hops_range, default="2-8", help="one number, or a range such as 2-8"
    )
    args = parser.parse_args()
    for row in draw_problems(args.n, args.seed, args.hops):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
