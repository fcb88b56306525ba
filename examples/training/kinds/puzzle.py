"""What all kinds of puzzles share: facts that lead from one word to the next, walks along them, and
the part that is never trained on.

The one rule: a puzzle belongs to training or to the held-out part by a hash of its facts, so no
seed can mix them. Not covered: tokens (`vocabulary.py`) and batches (`packing.py`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

Fact = tuple[str, ...]
_HELD_OUT_OF = 16  # one puzzle in sixteen is never trained on


class Walk(Protocol):
    """The way from a far end to an answer; its length is in hops, its places count from 0."""

    def __len__(self) -> int: ...

    def question(self, start: int) -> tuple[str, ...]:
        """Return the words that ask for the answer from a place."""

    def passed(self, start: int, place: int) -> tuple[str, ...]:
        """Return the words that stand for a place, the end included, for who began at `start`."""

    def answer(self, start: int) -> str:
        """Return the answer's word."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of puzzle: how one is drawn, and how it is written as text and as tokens.

    `draw` returns facts in any order and the walks along them, from the number of hops of a walk
    and the number of walks (of each colour, if there are several). `words` are a fact's tokens,
    `n_words` their number for a whole puzzle; `sentence` and `ask` are a fact and a question as
    text.
    """

    name: str
    draw: Callable[[Random, int, int], tuple[list[Fact], tuple[Walk, ...]]]
    sentence: Callable[[Fact], str]
    words: Callable[[Fact], tuple[str, ...]]
    n_words: Callable[[int, int], int]
    ask: Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Facts in the order of the text, and the walks along them."""

    kind: Kind
    facts: tuple[Fact, ...]
    walks: tuple[Walk, ...]

    def words(self) -> list[str]:
        """Return the facts as tokens."""
        return [word for fact in self.facts for word in self.kind.words(fact)]

    def text(self, walk: Walk, start: int) -> str:
        """Return the problem that asks for the answer from a place of a walk."""
        sentences = [self.kind.sentence(fact) for fact in self.facts]
        return " ".join([*sentences, self.kind.ask(walk.question(start))])


def is_held_out(facts: Sequence[Fact]) -> bool:
    """Whether facts, in any order, are kept from training."""
    return hashlib.sha256(repr(sorted(facts)).encode()).digest()[0] % _HELD_OUT_OF == 0


def draw_puzzle(kind: Kind, rng: Random, n_hops: int, n_walks: int, *, held_out: bool) -> Puzzle:
    """Return a puzzle whose walks have `n_hops` hops, from the held-out part or the other."""
    while True:
        facts, walks = kind.draw(rng, n_hops, n_walks)
        rng.shuffle(facts)
        if is_held_out(facts) == held_out:
            return Puzzle(kind, tuple(facts), walks)


def found(walk: Walk, start: int, goal: int) -> tuple[str, ...]:
    """Return what a stride to `goal` finds: what stands for the place, or the answer at the end."""
    return walk.passed(start, goal) if goal < len(walk) else (walk.answer(start),)


def draw_route(
    rng: Random, n_hops: int, start: int, strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Return strides and the places they lead to, until the end of a walk: [(stride, place), ...].

    A stride that is longer than what is left leads to the end.
    """
    route = []
    place = start
    while place < n_hops:
        stride = rng.choice(strides)
        place = min(place + stride, n_hops)
        route.append((stride, place))
    return route
