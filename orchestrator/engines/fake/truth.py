"""What the fake engine's judges and its pools with a task reply: they lean towards the truth.

A pure function of the request, like all that the engine returns: they read the truth off its text.
The right answer is the first of the engine's answers; a candidate is right when the prompt shows
the statement of it. At the engine's `judge_error` a judge says the opposite. The judges know one
mark of the prompts: of two solutions the second follows "Solution 2:".

Of a pool with a task, a text with the right answer gets a raw value from 1 to 3, one with another
answer from -3 to -1 (the other way round at `judge_error`), and one without an answer from -1 to 1,
like a reward model that cannot tell yet. An embedding counts words.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from orchestrator.core.values import Finish, Purpose, Request, Trace, Usage
from orchestrator.engines.reply import trace_for
from orchestrator.kit.prompts import question
from orchestrator.kit.verdicts import SCORE_FORM

JUDGING = (Purpose.VERIFY, Purpose.COMPARE)
_STATEMENT = " The answer is "  # before the answer in every trace of the fake engine
_WIDTH = 32  # of an embedding


def verdict_text(request: Request, right: str, error: float) -> str:
    """Return a judge's reply; `right` is how a right solution gives its answer.

    `error` is the share of its verdicts that are wrong. A turn without subjects comes to no
    verdict. Between two solutions that are both right, or both wrong, a coin decides.
    """
    if not request.subjects:
        return " I went through it."
    rng = random.Random(request.seed)
    truthful = rng.random() >= error
    before, _, after = question(request.prompt).rpartition("Solution 2:")
    if request.purpose is Purpose.VERIFY:
        accepted = (right in after) == truthful
        if SCORE_FORM in after:
            return f" Score: {rng.randint(8, 10) if accepted else rng.randint(1, 3)}/10"
        return f" Verdict: {'correct' if accepted else 'incorrect'}"
    if (right in before) == (right in after):
        return f" Winner: {rng.choice('12')}"
    return f" Winner: {1 if (right in before) == truthful else 2}"


def word_chances(
    request: Request, right: str, error: float, chances: Sequence[float]
) -> list[float]:
    """Return the chances of a verdict's words at its first token, the larger for what is true.

    The first word is the one for "right".
    """
    truthful = random.Random(request.seed).random() >= error
    ranked = sorted(chances, reverse=True)
    return ranked if (right in question(request.prompt)) == truthful else ranked[::-1]


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
