"""Who follows whom, who goes to which room, where somebody ends up.

Gus follows Kim. Tia goes to room 4. Kim follows Tia. ... Where does Gus end up?
2 steps: Tia 3 steps: Answer: 4
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from kinds.puzzle import Fact, Kind

_NAMES = """
Abe Ada Amy Ann Ben Bea Bob Cal Dan Deb Don Dot Ed Eli Eva Fay Gil Gus Guy Hal Hugo Ian Ida Ira Ivy
Jan Jay Jed Jim Joe Jon Joy Kay Ken Kim Kit Lea Lee Len Leo Lia Liz Lou Lyn Mae Max May Meg Mia Ned
Nia Nan Pam Pat Ray Rex Rob Ron Roy Sam Sid Sue Tia Tim
"""
NAMES = tuple(_NAMES.split())
ROOMS = tuple("0123456789")
ASK = "Where does"


@dataclass(frozen=True, slots=True)
class Chain:
    """People, each of whom follows the next, and the room of the last."""

    stops: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.stops) - 1

    def question(self, start: int) -> tuple[str, ...]:
        return ASK, self.stops[start]

    def passed(self, start: int, place: int) -> tuple[str, ...]:
        return (self.stops[place],)

    def answer(self, start: int) -> str:
        return f"Answer: {self.stops[-1]}"


def _draw(rng: Random, n_hops: int, n_walks: int) -> tuple[list[Fact], tuple[Chain, ...]]:
    """Return chains of different people to different rooms."""
    people = rng.sample(NAMES, n_walks * n_hops)
    rooms = rng.sample(ROOMS, n_walks)
    chains = tuple(
        Chain((*people[i * n_hops : (i + 1) * n_hops], rooms[i])) for i in range(n_walks)
    )
    return [chain.stops[i : i + 2] for chain in chains for i in range(n_hops)], chains


def _sentence(fact: Fact) -> str:
    who, goal = fact
    return f"{who} goes to room {goal}." if goal in ROOMS else f"{who} follows {goal}."


def _words(fact: Fact) -> tuple[str, ...]:
    return f"{fact[0]}:", fact[1]


def _ask(question: Sequence[str]) -> str:
    return f"Where does {question[1]} end up?"


KIND = Kind("rooms", _draw, _sentence, _words, lambda n_hops, n_walks: 2 * n_hops * n_walks, _ask)
