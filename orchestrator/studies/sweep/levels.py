"""The value of votes at one effort: accuracy, cost and weight of a trace, and agreement of traces.

Pure functions of whole pools and of the keys of right answers. The selector `depth-weighted` uses
these weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.core.values import Trace
from orchestrator.studies.scaling import votes

# number of traces tested for agreement: the first wave of `deepen`, and the number that its
# confidence of 0.95 requires
N_AGREED = 4

Pools: TypeAlias = Mapping[str, Sequence[Trace]]  # by problem id
Right: TypeAlias = Mapping[str, frozenset[str]]  # keys of right answers by problem id


@dataclass(frozen=True, slots=True)
class Effort:
    """What an attempt may spend: its latent depth, and its limit of thinking in tokens.

    Depth 0 is the model's own, thinking 0 has no limit.
    """

    depth: int = 0
    thinking: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """The measurements of one effort.

    `layer_tokens` and `seconds` are per trace. Seconds are engine-seconds: from the start of a
    request to its end, while others ran concurrently. `accuracy` is the accuracy of one trace that
    answers, over all problems: (right + 1/2) / (answers + 1). `n_alternatives` is one over the
    probability that two wrong answers to a problem agree. `weight` is the log-odds of a vote, see
    `vote_weight`. `agreement` is how often `n_agreed` traces all give one answer, and
    `agreed_accuracy` is how often that answer is right (None: they never agree).
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
    thinking: int = 0
    reasoning_tokens: float = 0.0  # per trace, as far as the engine knows

    @property
    def effort(self) -> Effort:
        """The effort measured."""
        return Effort(self.depth, self.thinking)


def level(effort: Effort, pools: Pools, right: Right) -> Level:
    """Return the measurements of whole pools of attempts at one effort."""
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
        depth=effort.depth,
        n_traces=n,
        layer_tokens=sum(sum(layer_tokens(t)) for pool in pools.values() for t in pool) / n,
        seconds=sum(t.usage.seconds for pool in pools.values() for t in pool) / n,
        accuracy=accuracy,
        n_alternatives=n_alternatives,
        weight=vote_weight(accuracy, n_alternatives),
        n_agreed=k,
        agreement=agreement,
        agreed_accuracy=sum(r for _, r in agreed) / len(agreed) / agreement if agreement else None,
        thinking=effort.thinking,
        reasoning_tokens=sum(t.usage.reasoning_tokens for p in pools.values() for t in p) / n,
    )


def alternatives(wrong: Sequence[Sequence[int]]) -> float:
    """Return the effective number of wrong answers, at least 1.

    It is one over the probability that two wrong traces of a problem agree. `wrong` contains the
    counts of each problem's wrong answers. If no problem has two wrong traces, the result is 1, the
    most cautious value.
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
    gives the right answer with probability a and each of m wrong answers with probability (1 - a) /
    m, and traces are independent, then the answer with the largest sum of these weights is the most
    probable one.
    """
    return max(0.0, math.log(accuracy * n_alternatives / (1.0 - accuracy)))


def agreed_at_k(
    counts: Mapping[str, int], n: int, right: frozenset[str], k: int
) -> tuple[float, float]:
    """Return the probabilities that k of n attempts agree, and that they agree on a right answer.

    The attempts are drawn at random. The probabilities are exact.
    """
    ways = math.comb(n, k)
    return sum(math.comb(c, k) for c in counts.values()) / ways, sum(
        math.comb(counts.get(key, 0), k) for key in right
    ) / ways


def layer_tokens(trace: Trace) -> tuple[float, float]:
    """Return the layer-tokens of a trace's prompt and of its generated tokens.

    If the engine does not report its layers, these are tokens.
    """
    usage = trace.usage
    computed = usage.prompt_tokens - usage.cached_tokens
    total = computed + usage.output_tokens
    layers = usage.layer_tokens / total if usage.layer_tokens and total else 1.0
    return computed * layers, usage.output_tokens * layers


def first_look(levels: Sequence[Level], deep: Level) -> Level | None:
    """Return the shallower depth that saves most as the first wave of `deepen`; None if none saves.

    All problems pay for k shallow traces. Where these agree, one trace of the deep level confirms
    the answer instead of k agreeing deep traces. The savings are agreement x (k - 1) x deep cost -
    k x shallow cost, in layer-tokens per problem. Agreeing traces must be right at least as often
    as one deep trace.
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
