"""What a depth's votes are worth: accuracy, price and weight of a trace, and trust in agreement.

Pure functions of whole pools and of which answers are right. The weights are what the selector
`depth-weighted` takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.core.values import Trace
from orchestrator.studies.scaling import votes

# traces whose agreement is tried: `deepen`'s first wave, and what its confidence of 0.95 requires
N_AGREED = 4

Pools: TypeAlias = Mapping[str, Sequence[Trace]]  # by problem id
Right: TypeAlias = Mapping[str, frozenset[str]]  # keys of right answers by problem id


@dataclass(frozen=True, slots=True)
class Level:
    """The measurements of one depth.

    `layer_tokens` and `seconds` are per trace (engine-seconds: from a request's start to its end,
    while others ran beside it). `accuracy` is that of one trace that answers, over all problems,
    (right + 1/2) / (answers + 1); `n_alternatives` is one over the chance that two wrong answers to
    a problem agree; `weight` is the log-odds of a vote, see `vote_weight`. `agreement` is how often
    `n_agreed` traces all state one answer, `agreed_accuracy` how often that is the right one (None:
    they never agree).
    """

    depth: int
    n_traces: int
    layer_tokens: float
    seconds: float
    accuracy: float
    n_alternatives: float
    weight: float
    n_agreed: int
    agreement: float
    agreed_accuracy: float | None


def level(depth: int, pools: Pools, right: Right) -> Level:
    """Return the measurements of whole pools of attempts at one depth."""
    n = sum(map(len, pools.values()))
    counts = {id: votes(pool) for id, pool in pools.items()}
    n_answers = sum(sum(c.values()) for c in counts.values())
    n_right = sum(c[key] for id, c in counts.items() for key in right[id])
    accuracy = (n_right + 0.5) / (n_answers + 1.0)
    n_alternatives = alternatives(
        [[c for key, c in counts[id].items() if key not in right[id]] for id in pools]
    )
    k = min(N_AGREED, *map(len, pools.values()))
    agreed = [agreed_at_k(counts[id], len(pool), right[id], k) for id, pool in pools.items()]
    agreement = sum(a for a, _ in agreed) / len(agreed)
    return Level(
        depth=depth,
        n_traces=n,
        layer_tokens=sum(sum(layer_tokens(t)) for pool in pools.values() for t in pool) / n,
        seconds=sum(t.usage.seconds for pool in pools.values() for t in pool) / n,
        accuracy=accuracy,
        n_alternatives=n_alternatives,
        weight=vote_weight(accuracy, n_alternatives),
        n_agreed=k,
        agreement=agreement,
        agreed_accuracy=sum(r for _, r in agreed) / len(agreed) / agreement if agreement else None,
    )


def alternatives(wrong: Sequence[Sequence[int]]) -> float:
    """Return the effective number of wrong answers, at least 1.

    It is one over the chance that two wrong traces of a problem agree. `wrong` are the counts of
    each problem's wrong answers. With no two wrong traces on any problem it is 1, the most cautious
    value.
    """
    pairs = sum(sum(counts) * (sum(counts) - 1) for counts in wrong)
    agreeing = sum(c * (c - 1) for counts in wrong for c in counts)
    return (
        1.0
        if not pairs
        else max(1.0, pairs / agreeing if agreeing else float(max(sum(counts) for counts in wrong)))
    )


def vote_weight(accuracy: float, n_alternatives: float) -> float:
    """Return the log-odds that one vote adds: log(a m / (1 - a)), at least 0.

    a in (0, 1) is the accuracy, m the effective number of wrong answers. Naive Bayes: if a trace
    states the right answer with probability a and each of m wrong ones with (1 - a) / m, and traces
    are independent, then the answer with the largest sum of these weights is the most probable one.
    """
    return max(0.0, math.log(accuracy * n_alternatives / (1.0 - accuracy)))


def agreed_at_k(
    counts: Mapping[str, int], n: int, right: frozenset[str], k: int
) -> tuple[float, float]:
    """Return the chances that k of n attempts all agree, and that they agree on a right answer.

    The attempts are drawn at random; the chances are exact.
    """
    ways = math.comb(n, k)
    return sum(math.comb(c, k) for c in counts.values()) / ways, sum(
        math.comb(counts.get(key, 0), k) for key in right
    ) / ways


def layer_tokens(trace: Trace) -> tuple[float, float]:
    """Return a trace's layer-tokens of its prompt and of what it generated.

    Where the engine does not know its layers these are tokens.
    """
    usage = trace.usage
    computed = usage.prompt_tokens - usage.cached_tokens
    total = computed + usage.output_tokens
    layers = usage.layer_tokens / total if usage.layer_tokens and total else 1.0
    return computed * layers, usage.output_tokens * layers


def first_look(levels: Sequence[Level], deep: Level) -> Level | None:
    """Return the shallower depth that saves most as `deepen`'s first wave, or None when none saves.

    All problems pay k shallow traces; where those agree, one trace of the deep level confirms in
    place of the k that would have to agree there: agreement x (k - 1) x deep price - k x shallow
    price, in layer-tokens a problem. Agreeing traces must be right at least as often as one deep
    trace.
    """
    k = deep.n_agreed
    able = [
        e
        for e in levels
        if e.depth < deep.depth
        and e.agreed_accuracy is not None
        and e.agreed_accuracy >= deep.accuracy
    ]
    saved = {e.depth: e.agreement * (k - 1) * deep.layer_tokens - k * e.layer_tokens for e in able}
    best = max(able, key=lambda e: saved[e.depth], default=None)
    return best if best is not None and saved[best.depth] > 0 else None
