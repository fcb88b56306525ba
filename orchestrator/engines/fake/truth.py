"""Replies of the fake engine's judges and of its pools with a task; they lean towards the truth.

Like every reply of the engine, they are a pure function of the request: they read the truth from
its text. The right answer is the first of the engine's answers; a candidate is right when it states
that answer in the prompt. A judge errs at the rate `judge_error`. Judges rely on one marker in
prompts: of two solutions, the second follows "Solution 2:".

In a pool with a task, a text with the right answer gets a raw value from 1 to 3, a text with
another answer -3 to -1 (swapped at the rate `judge_error`), and a text without an answer -1 to 1,
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

    `error` is the share of wrong verdicts. A turn without subjects yields no verdict. Between two
    right or two wrong solutions, the verdict is a coin flip.
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
    """Return the probabilities of a verdict's words at its first token; the true one is larger.

    The first word is the one for "right".
    """
    truthful = random.Random(request.seed).random() >= error
    ranked = sorted(chances, reverse=True)
    return ranked if (right in question(request.prompt)) == truthful else ranked[::-1]


def pool_values(request: Request, task: str, right: str, error: float) -> Trace:
    """Return the values of a request's text; `right` is how a right solution gives its answer.

    `error` is the share of values with the wrong sign.
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
    """Yield an endless sequence of numbers in [0, 1), determined by a seed."""
    return (
        int.from_bytes(blake2b(f"{seed} {i}".encode(), digest_size=7).digest(), "big") / 2**56
        for i in itertools.count()
    )


def _counts(text: str) -> tuple[float, ...]:
    """Return a text's word counts, hashed into a vector of unit length.

    It only measures the words that two texts share.
    """
    places = Counter(
        blake2b(word.encode(), digest_size=1).digest()[0] % _WIDTH for word in text.lower().split()
    )
    length = math.sqrt(sum(n * n for n in places.values()))
    return tuple(places[i] / length if length else float(i == 0) for i in range(_WIDTH))
