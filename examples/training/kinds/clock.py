"""Whose clock is how many hours ahead of whose, and what time it is for somebody.

    It is 3 hours later for Gus than for Kim. It is 4 hours later for Tia than at home. It is 6
    hours later for Kim than for Tia. ... When it is twelve at home, what time is it for Gus?
    2 steps: 9 hours after Tia 5 steps: Answer: 1

A stride adds up the hours on its way, and a completion carries the sum on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from kinds.puzzle import Fact, Kind
from kinds.rooms import NAMES

ASK = "what time is it for"
HOME = "home"
N_HOURS = 12
_AHEAD = range(2, 7)  # without "1 hours"; more of them are more sums to learn, for the same walks
LATER = tuple(f"{hours} hours later" for hours in _AHEAD)
AFTER = tuple(f"{hours} {'hour' if hours == 1 else 'hours'} after" for hours in range(N_HOURS))


@dataclass(frozen=True, slots=True)
class Zones:
    """People up to home, and how many hours later it is for each than for the next."""

    people: tuple[str, ...]
    hours: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.hours)

    def question(self, start: int) -> tuple[str, ...]:
        return ASK, self.people[start]

    def passed(self, start: int, place: int) -> tuple[str, ...]:
        return AFTER[sum(self.hours[start:place]) % N_HOURS], self.people[place]

    def answer(self, start: int) -> str:
        return f"Answer: {sum(self.hours[start:]) % N_HOURS or N_HOURS}"


def _draw(rng: Random, n_hops: int, n_walks: int) -> tuple[list[Fact], tuple[Zones, ...]]:
    """Return chains of different people, which all end at home."""
    people = rng.sample(NAMES, n_walks * n_hops)
    ways = tuple(
        Zones(
            (*people[i * n_hops : (i + 1) * n_hops], HOME),
            tuple(rng.choice(_AHEAD) for _ in range(n_hops)),
        )
        for i in range(n_walks)
    )
    return [
        (way.people[i], str(way.hours[i]), way.people[i + 1]) for way in ways for i in range(n_hops)
    ], ways


def _sentence(fact: Fact) -> str:
    who, hours, whom = fact
    than = "at home" if whom == HOME else f"for {whom}"
    return f"It is {hours} hours later for {who} than {than}."


def _words(fact: Fact) -> tuple[str, ...]:
    who, hours, whom = fact
    return f"{hours} hours later", f"{who}:", whom


def _ask(question: Sequence[str]) -> str:
    return f"When it is twelve at home, {ASK} {question[1]}?"


KIND = Kind("clock", _draw, _sentence, _words, lambda n_hops, n_walks: 3 * n_hops * n_walks, _ask)
