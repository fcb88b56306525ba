"""What the fake engine's pools with a task return: numbers that lean towards the truth.

A pure function of the request, off whose text they read the truth. A text with the right answer
gets a raw value from 1 to 3, one with another answer from -3 to -1 (the other way round at the
engine's `judge_error`), and one without an answer from -1 to 1, like a reward model that cannot
tell yet. An embedding counts words.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b

from orchestrator.core.values import Finish, Request, Trace, Usage
from orchestrator.engines.reply import trace_for
from orchestrator.kit.prompts import question

_STATEMENT = " The answer is "  # before the answer in every trace of the fake engine
_WIDTH = 32  # of an embedding


def pool_values(request: Request, task: str, right: str, error: float) -> Trace:
    """Return the values of a request's text; `right` is how a right solution gives its answer.

    `error` is the share of values that are the wrong way round.
    """
    text = request.prompt if isinstance(request.prompt, str) else request.prompt[-1].content
    n_words = len(question(request.prompt).split())
    usage = Usage(n_words, 0, 0, n_words)
    if task == "embed":
        return trace_for(request, Finish.STOP, usage=usage, values=_counts(text))
    ends = [len(text)]
    if request.read_at:
        parts = text.split(request.read_at)[:-1]
        ends = list(itertools.accumulate(len(p) + len(request.read_at) for p in parts))
    unit = _units(request.seed)
    flipped = next(unit) < error
    values = []
    for end in ends:
        part = text[:end].replace(request.read_at, "") if request.read_at else text
        if _STATEMENT in f" {part}":
            values.append((1 + 2 * next(unit)) * (1 if (right.strip() in part) != flipped else -1))
        else:
            values.append(2 * next(unit) - 1)
    return trace_for(request, Finish.STOP, usage=usage, values=tuple(values))


def _units(seed: int) -> Iterator[float]:
    """Return endless numbers in [0, 1) that a seed decides."""
    return (
        int.from_bytes(blake2b(f"{seed} {i}".encode(), digest_size=7).digest(), "big") / 2**56
        for i in itertools.count()
    )


def _counts(text: str) -> tuple[float, ...]:
    """Return a text's words, counted by hash into a vector of length one.

    It shows what two texts have in common, and no more.
    """
    places = Counter(
        blake2b(word.encode(), digest_size=1).digest()[0] % _WIDTH for word in text.lower().split()
    )
    length = math.sqrt(sum(n * n for n in places.values()))
    return tuple(places[i] / length if length else float(i == 0) for i in range(_WIDTH))
