"""Unfinished traces and the similarities that compare them, for strategies that prune. Pure.

A similarity's `score` is a generator of commands, so that one protocol serves both kinds: one that
computes from texts yields nothing, one that asks a model submits requests with `purpose=COMPARE`.
Either way the journal holds all that a replay needs.

    scores = yield from pair_scores(self.similarity, problem, [(Prefix(0, a), Prefix(1, b))])
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.errors import StrategyError
from orchestrator.core.protocols import Pair, Scores, Similarity
from orchestrator.core.steps import Routine
from orchestrator.core.values import Prefix, Problem

# DeepPrune (arXiv 2510.08483) names "wait", "thus" and "since" and gives no list: ours has words
# with which a text changes direction or concludes.
REASONING_WORDS = (
    *("wait", "thus", "since", "therefore", "hence", "because", "so", "but"),
    *("however", "alternatively", "actually", "hmm", "maybe", "perhaps", "instead", "then"),
)


def pair_scores(similarity: Similarity, problem: Problem, pairs: Sequence[Pair]) -> Scores:
    """Return P(same answer) of each pair, None where the similarity cannot tell.

    StrategyError when it returns anything else.
    """
    if isinstance(similarity, str):
        raise StrategyError(
            f"the similarity is only a name, {similarity!r}: load the strategy by registry.load, "
            "or pass the similarity itself"
        )
    if not pairs:
        return []
    scores = yield from similarity.score(problem, pairs)
    if len(scores) != len(pairs) or not all(s is None or 0.0 <= s <= 1.0 for s in scores):
        raise StrategyError(
            f"{type(similarity).__name__} returned {scores!r:.200} for {len(pairs)} pairs; "
            "one score in [0, 1] or None each"
        )
    return scores


def scores_without_engine(
    similarity: Similarity, problem: Problem, pairs: Sequence[Pair]
) -> list[float | None]:
    """Return what `pair_scores` returns; StrategyError for a similarity that asks a model."""
    routine = Routine(pair_scores(similarity, problem, pairs), "score")
    if routine.send(None) is not None:
        raise StrategyError(f"{type(similarity).__name__} asks the engine; there is none here")
    return routine.result


def opening(text: str, words: Sequence[str], count: int) -> str:
    """Return the text up to and with its `count`-th reasoning word; all of it when it has fewer.

    Whole words, in upper or lower case.
    """
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)
    ends = [match.end() for _, match in zip(range(count), pattern.finditer(text), strict=False)]
    return text[: ends[-1]] if len(ends) == count and ends else text


@dataclass(frozen=True, slots=True)
class LabelledPrefix:
    """A prefix of a finished trace, with the class of its answer: similarities are fitted on it."""

    prefix: Prefix
    final: str
