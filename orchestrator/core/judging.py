"""Judging unfinished traces: what a judge is shown, how it is asked, and where a prefix ends. Pure.

A judge's `score` is a generator of a strategy's commands, so that one protocol serves both kinds: a judge that computes from texts yields
nothing, one that asks a model submits requests with `purpose=JUDGE`; either way the journal holds all that a replay needs.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.core.errors import StrategyError
from orchestrator.core.steps import Command, Reply
from orchestrator.core.types import Problem

if TYPE_CHECKING:
    from orchestrator.core.protocols import Judge

# DeepPrune (arXiv 2510.08483) names "wait", "thus" and "since" and gives no list: ours holds words with which a text turns or concludes.
REASONING_WORDS = (
    *("wait", "thus", "since", "therefore", "hence", "because", "so", "but"),
    *("however", "alternatively", "actually", "hmm", "maybe", "perhaps", "instead", "then"),
)


@dataclass(frozen=True, slots=True)
class Prefix:
    """An unfinished trace as a judge sees it. `key` is the class of the answer it states or, when probed, would state; None if none."""

    ordinal: int
    text: str
    key: str | None = None


Pair: TypeAlias = tuple[Prefix, Prefix]
Scores: TypeAlias = Generator[Command, Reply, list[float | None]]


def scored(judge: Judge, problem: Problem, pairs: Sequence[Pair]) -> Scores:
    """Return P(same answer) of each pair, None where the judge cannot tell; StrategyError when it gives anything else."""
    if isinstance(judge, str):
        raise StrategyError(f"the judge is still a name, {judge!r}: load the strategy by registry.load, or give it the judge itself")
    if not pairs:
        return []
    scores = yield from judge.score(problem, pairs)
    if len(scores) != len(pairs) or not all(s is None or 0.0 <= s <= 1.0 for s in scores):
        raise StrategyError(f"{type(judge).__name__} gave {scores!r:.200} for {len(pairs)} pairs; one score in [0, 1] or None each")
    return scores


def answered(judge: Judge, problem: Problem, pairs: Sequence[Pair]) -> list[float | None]:
    """Return what `scored` returns, of a judge that asks nothing; StrategyError when it asks."""
    asking = scored(judge, problem, pairs)
    try:
        next(asking)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # StopIteration does not carry the generator's type
    raise StrategyError(f"{type(judge).__name__} asks the engine; there is none here")


def opening(text: str, words: Sequence[str], count: int) -> str:
    """Return the text up to and with its `count`-th reasoning word (whole words, any case); all of it when it has fewer."""
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)
    ends = [match.end() for _, match in zip(range(count), pattern.finditer(text), strict=False)]
    return text[: ends[-1]] if len(ends) == count and ends else text


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prefix of a trace that has finished, with the class of the answer it came to: what judges are fitted and measured on."""

    prefix: Prefix
    final: str
