"""Words as tokens. The tokenizers drop what carries nothing ("follows", "goes to room"), so a fact
is two or three tokens.

What a fact is about is another token than where another fact leads ("Gus:", "Gus"), or the end of
one fact and the beginning of the next would look like a fact.

The one rule: ids come from a language's `words` alone, here and in the shipped tokenizer.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kinds import clock, doors, rooms

PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"


@dataclass(frozen=True, slots=True)
class Language:
    """Words with their ids, and how text becomes words.

    `verbs` is read as ": ", then `pieces` are kept; both are regular expressions. `twins` are the
    words that have one with a colon, `rounds` those that stand on a round, as shares of it.
    """

    words: tuple[str, ...]
    ids: Mapping[str, int]
    twins: tuple[str, ...]
    rounds: Mapping[str, float]
    steps: tuple[str, ...]  # by stride, from 1
    verbs: str
    pieces: str


def _language(
    words: Sequence[str],
    twins: tuple[str, ...],
    rounds: Mapping[str, float],
    steps: tuple[str, ...],
    verbs: str,
    pieces: str,
) -> Language:
    everything = (PAD, END, UNKNOWN, *words)
    ids = {word: i for i, word in enumerate(everything)}
    return Language(everything, ids, twins, rounds, steps, verbs, pieces)


def _subjects(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{word}:" for word in words)


_STEPS = tuple(f"{stride} steps:" for stride in range(1, 8))
SOUNDER = _language(
    (
        rooms.ASK,
        *rooms.ROOMS,
        *(f"Answer: {room}" for room in rooms.ROOMS),
        *_STEPS,
        *rooms.NAMES,
        *_subjects(rooms.NAMES),
    ),
    rooms.NAMES,
    {},
    _STEPS,
    r" (follows|goes to room) ",
    r"Where does|[0-9]+ steps:|Answer: [0-9]+|[A-Z][a-z]*:?|[0-9]+",
)

LONGEST_STRIDE = 12
_LONG_STEPS = ("1 step:", *(f"{stride} steps:" for stride in range(2, LONGEST_STRIDE + 1)))
_TWINS = (*rooms.NAMES, *doors.PLACES)
FATHOM = _language(
    (
        rooms.ASK,
        clock.ASK,
        *doors.ASK,
        *_LONG_STEPS,
        *(f"Answer: {number}" for number in range(clock.N_HOURS + 1)),
        *rooms.ROOMS,
        *clock.LATER,
        *clock.AFTER,
        clock.HOME,
        *doors.COLOURS,
        *doors.GATES,
        *_TWINS,
        *_subjects(_TWINS),
    ),
    _TWINS,
    {word: int(word.split()[0]) / clock.N_HOURS for word in (*clock.LATER, *clock.AFTER)},
    _LONG_STEPS,
    r" (follows|goes to room|than for|than at|leads to) ",
    rf"Where does|{clock.ASK}|Take only (?:{'|'.join(doors.COLOURS)})|[0-9]+ steps?:"
    r"|Answer: [0-9]+|[0-9]+ hours later|[0-9]+ hours? after|gate [0-9]+"
    rf"|\b(?:{'|'.join(doors.COLOURS)})\b|\b(?:{'|'.join(doors.PLACES)})\b:?"
    rf"|(?<!twelve at )\b{clock.HOME}\b|(?!(?:The|Which|It|When)\b)[A-Z][a-z]*:?|[0-9]+",
)
