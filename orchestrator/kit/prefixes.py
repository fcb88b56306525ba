"""Judging unfinished traces: what a similarity is shown, how it is asked, and where a prefix ends. Pure.

A similarity's `score` is a generator of a strategy's commands, so that one protocol serves both kinds: a
judge that computes from texts yields nothing, one that asks a model submits requests with
`purpose=COMPARE`; either way the journal holds all that a replay needs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.errors import StrategyError
from orchestrator.core.protocols import Pair, Scores, Similarity
from orchestrator.core.steps import Routine
from orchestrator.core.values import Prefix, Problem

# DeepPrune (arXiv 2510.08483) names "wait", "thus" and "since" and gives no list: ours holds words
# with which a text turns or concludes.
REASONING_WORDS = (
    *("wait", "thus", "since", "therefore", "hence", "because", "so", "but"),
    *("however", "alternatively", "actually", "hmm", "maybe", "perhaps", "instead", "then"),
)


def pair_scores(similarity: Similarity, problem: Problem, pairs: Sequence[Pair]) -> Scores:
    """Return P(same answer) of each pair, None where the similarity cannot tell; StrategyError when it
    gives anything else.
    """
    if isinstance(similarity, str):
        raise StrategyError(
            f"the similarity is still a name, {similarity!r}: load the strategy by registry.load, or give it the similarity itself"
        )
    if not pairs:
        return []
    scores = yield from similarity.score(problem, pairs)
    if len(scores) != len(pairs) or not all(s is None or 0.0 <= s <= 1.0 for s in scores):
        raise StrategyError(
            f"{type(similarity).__name__} gave {scores!r:.200} for {len(pairs)} pairs; one score in [0, 1] or None each"
        )
    return scores


def scores_without_engine(
    similarity: Similarity, problem: Problem, pairs: Sequence[Pair]
) -> list[float | None]:
    """Return what `scored` returns, of a similarity that asks nothing; StrategyError when it asks."""
    routine = Routine(pair_scores(similarity, problem, pairs), "score")
    if routine.send(None) is not None:
        raise StrategyError(f"{type(similarity).__name__} asks the engine; there is none here")
    return routine.result


def opening(text: str, words: Sequence[str], count: int) -> str:
    """Return the text up to and with its `count`-th reasoning word (whole words, any case); all of
    it when it has fewer.
    """
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)
    ends = [match.end() for _, match in zip(range(count), pattern.finditer(text), strict=False)]
    return text[: ends[-1]] if len(ends) == count and ends else text


@dataclass(frozen=True, slots=True)
class LabelledPrefix:
    """A prefix of a trace that has finished, with the class of the answer it came to: what similarities
    are fitted and measured on.
    """

    prefix: Prefix
    final: str
