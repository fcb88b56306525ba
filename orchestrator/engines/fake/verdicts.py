"""What the fake engine's judges reply: the truth or, at a given error rate, its opposite.

They read the truth off the text that they are shown. A pure function of the request, like all that
the engine returns. The right answer is the first of the engine's answers; a candidate is right when
the prompt shows the statement of it. The judges know one mark of the prompts: of two solutions the
second follows "Solution 2:".
"""

import random
from collections.abc import Sequence

from orchestrator.core.values import Purpose, Request
from orchestrator.kit.prompts import question
from orchestrator.kit.verdicts import SCORE_FORM

JUDGING = (Purpose.VERIFY, Purpose.COMPARE)


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
