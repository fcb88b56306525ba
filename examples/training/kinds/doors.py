"""Which door of a place leads where, by colour; which gate is reached through doors of one colour.

    The red door of the attic leads to the mill. The blue door of the attic leads to gate 2. The red
    door of the mill leads to gate 7. ... Take only red doors from the attic. Which gate is it?
    1 step: mill 4 steps: Answer: 7

Every place has a door of each colour, so a step needs both, the place and the colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from kinds.puzzle import Fact, Kind

_PLACES = """
attic bakery barn cellar chapel court crypt dairy den forge garden hall hut inn kiln kitchen larder
library loft mill nook office pantry parlour porch shed stable studio study tower vault yard
"""
PLACES = tuple(_PLACES.split())
COLOURS = ("red", "blue")
GATES = tuple(f"gate {number}" for number in range(10))
ASK = tuple(f"Take only {colour}" for colour in COLOURS)


@dataclass(frozen=True, slots=True)
class Path:
    """Places on the way through doors of one colour, and the gate at its end."""

    colour: str
    stops: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.stops) - 1

    def question(self, start: int) -> tuple[str, ...]:
        return ASK[COLOURS.index(self.colour)], self.stops[start]

    def passed(self, start: int, place: int) -> tuple[str, ...]:
        return (self.stops[place],)

    def answer(self, start: int) -> str:
        return f"Answer: {self.stops[-1].removeprefix('gate ')}"


def _draw(rng: Random, n_hops: int, n_walks: int) -> tuple[list[Fact], tuple[Path, ...]]:
    """Return `n_walks` paths of each colour through the same places, to different gates."""
    places = rng.sample(PLACES, n_walks * n_hops)
    gates = rng.sample(GATES, n_walks * len(COLOURS))
    paths = []
    for colour in COLOURS:
        rng.shuffle(places)
        paths += [
            Path(colour, (*places[i * n_hops : (i + 1) * n_hops], gates.pop()))
            for i in range(n_walks)
        ]
    return [
        (path.colour, path.stops[i], path.stops[i + 1]) for path in paths for i in range(n_hops)
    ], tuple(paths)


def _sentence(fact: Fact) -> str:
    colour, place, goal = fact
    return f"The {colour} door of the {place} leads to {'' if goal in GATES else 'the '}{goal}."


def _words(fact: Fact) -> tuple[str, ...]:
    colour, place, goal = fact
    return colour, f"{place}:", goal


def _ask(question: Sequence[str]) -> str:
    return f"{question[0]} doors from the {question[1]}. Which gate is it?"


KIND = Kind(
    "doors",
    _draw,
    _sentence,
    _words,
    lambda n_hops, n_walks: 3 * n_hops * n_walks * len(COLOURS),
    _ask,
)
