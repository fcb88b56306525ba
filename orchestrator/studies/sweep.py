"""The surface accuracy(depth, width) and its cost, from one pool per depth sampled at the largest
width. Numbers only.

The one rule: a smaller width is evaluated by what a random part of the pool would have answered,
never by sampling again and never by the first traces alone, so every point is unbiased and all
points share their problems, which is what makes differences between them sharp. Sampling, files and
pictures are others' (`sweep_command`, `plot`); docs/sweep.md says how to read the numbers.

What a depth's votes are worth: the accuracy and the price of one trace, the weight of a vote, and
how far agreement can be trusted.

Pure functions of whole pools and of which answers are right. The weights are what the selector
`depth-weighted` takes.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from orchestrator.core.errors import LeadlineError, PlanError
from orchestrator.core.plan import derive_seed
from orchestrator.core.protocols import Selector
from orchestrator.core.values import Finish, Problem, Trace
from orchestrator.core.votes import conclude
from orchestrator.studies.evaluate import (
    CONFIDENCE,
    Estimate,
    attempts,
    majority_at_k,
    majority_error,
)

N_RESAMPLES = 9999  # of the bootstrap over problems, as in `evaluate`
N_DRAWS = 100  # parts of a pool per problem and width, for selectors without a formula

_Table: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Chances: TypeAlias = Callable[
    [str, Sequence[Trace], frozenset[str], Sequence[int]], list[tuple[float, float]]
]


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of the surface: `width` traces at `depth` (0: as the model ships), voted on.

    `accuracy` has its interval over problems; `drawing_error` is the standard error that it has
    from drawing parts of pools, 0.0 where it is an exact expectation. `below_best` is the best
    setting's accuracy minus this one's, problems resampled together. `layer_tokens` and `seconds`
    are what one problem takes. `on_front`: nothing else is as accurate for as few layer-tokens;
    `on_seconds_front` likewise.
    """

    depth: int
    width: int
    accuracy: Estimate
    drawing_error: float
    below_best: Estimate
    layer_tokens: float
    seconds: float
    on_front: bool = False
    on_seconds_front: bool = False

    @property
    def as_good_as_best(self) -> bool:
        """Whether the interval of its difference to the best setting holds 0, or the difference is
        less than half a problem.
        """
        difference = self.below_best
        return (
            difference.value if difference.low is None else difference.low
        ) <= 0.0 or difference.value * difference.n < 0.5


@dataclass(frozen=True, slots=True)
class Surface:
    """Every setting, depth by depth and by width within a depth; `best` and `cheapest` are
    positions in it.

    `unit` is what `layer_tokens` count: "tokens" where the engine does not know its layers.
    `n_left_out` problems had a reference but not enough attempts at every depth.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    selector: str
    unit: str
    n_problems: int
    n_left_out: int
    settings: tuple[Setting, ...]
    levels: tuple[Level, ...]
    best: int
    cheapest: int

    def at(self, depth: int, width: int) -> Setting:
        """Return one setting. ValueError when it is not on the surface."""
        return self.settings[self.depths.index(depth) * len(self.widths) + self.widths.index(width)]


def parse_counts(text: str, flag: str) -> tuple[int, ...]:
    """Return the whole numbers that `1,4,16` or `1..64` write, ascending: a range doubles from its
    start and ends at its end.
    """
    fault = PlanError(
        f"{flag} {text!r}: give whole numbers from 1, as a list (1,4,16) or as a range that doubles (1..64)"
    )
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = (piece.strip() for piece in part.partition(".."))
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise fault
        low, high = int(first), int(last or first)
        if not 1 <= low <= high:
            raise fault
        while low < high:
            found.add(low)
            low *= 2
        found.add(high)
    return tuple(sorted(found))


def surface(
    pools: Mapping[int, Pools],
    right: Mapping[int, Right],
    widths: Sequence[int],
    selector: str,
    chances: Chances,
) -> Surface:
    """Return the surface of pools by depth, each as wide as the largest width. LeadlineError
    without a problem to count.

    `right` are the keys of right answers (`evaluate.right_keys`) by depth; `chances` is
    `by_majority` or `by_drawing(selector)`.
    """
    depths = tuple(pools)
    known = [
        id for id in right[depths[0]] if all(id in right[d] and id in pools[d] for d in depths)
    ]
    tried = {depth: {id: attempts(pools[depth][id]) for id in known} for depth in depths}
    ids = [id for id in known if all(len(tried[d][id]) >= max(widths) for d in depths)]
    if not ids:
        raise LeadlineError(
            f"none of {len(known)} problems with a reference answer has {max(widths)} attempts at every depth"
        )
    # (n_problems, n_settings, 2): values and their errors; layer-tokens and seconds
    found = np.array(
        [
            [pair for d in depths for pair in chances(id, tried[d][id], right[d][id], widths)]
            for id in ids
        ]
    )
    costs = np.array(
        [[pair for d in depths for pair in _costs(tried[d][id], widths)] for id in ids]
    )
    drawing = np.sqrt((found[:, :, 1] ** 2).sum(axis=0)) / len(ids)
    settings = _settings(
        [(d, w) for d in depths for w in widths], found[:, :, 0], drawing, costs.mean(axis=0)
    )
    has_layers = any(t.usage.layer_tokens for d in depths for t in tried[d][ids[0]])
    return Surface(
        depths=depths,
        widths=tuple(widths),
        selector=selector,
        unit="layer-tokens" if has_layers else "tokens",
        n_problems=len(ids),
        n_left_out=len(known) - len(ids),
        settings=settings,
        levels=tuple(level(d, {id: tried[d][id] for id in ids}, right[d]) for d in depths),
        best=_best(settings),
        cheapest=cheapest(settings),
    )


def _settings(
    points: Sequence[tuple[int, int]], values: _Table, drawing: _Table, prices: _Table
) -> tuple[Setting, ...]:
    # equal expectations, of widths 1 and 2 say, differ in their last digits
    values = values.round(12)
    means = values.mean(axis=0)
    order = sorted(range(len(points)), key=lambda i: (-means[i], prices[i, 0], i))
    resampled = resampled_means(values)
    differences = resampled[:, [order[0]]] - resampled
    made = [
        Setting(
            depth,
            width,
            _estimate(means[i], values[:, i], resampled[:, i]),
            float(drawing[i]),
            _estimate(
                means[order[0]] - means[i], values[:, order[0]] - values[:, i], differences[:, i]
            ),
            float(prices[i, 0]),
            float(prices[i, 1]),
        )
        for i, (depth, width) in enumerate(points)
    ]
    by_tokens = pareto([(s.layer_tokens, round(s.accuracy.value, 12)) for s in made])
    by_seconds = pareto([(s.seconds, round(s.accuracy.value, 12)) for s in made])
    return tuple(
        replace(s, on_front=a, on_seconds_front=b)
        for s, a, b in zip(made, by_tokens, by_seconds, strict=True)
    )


def resampled_means(values: _Table) -> _Table:
    """Return the means of bootstrap samples of the rows, shape (9999, n_columns): each sample takes
    the same rows of every column.
    """
    n = len(values)
    rng = np.random.default_rng(0)
    step = max(1, 2_000_000 // n)  # 16 MB at a time
    sizes = [min(step, N_RESAMPLES - start) for start in range(0, N_RESAMPLES, step)]
    return np.concatenate(
        [rng.multinomial(n, np.full(n, 1.0 / n), size=size) @ values / n for size in sizes]
    )


def _estimate(value: float, by_problem: _Table, resampled: _Table) -> Estimate:
    """Return a mean with its percentile interval; none where all problems agree, since resampling
    cannot tell how certain that is.
    """
    if len(by_problem) < 2 or np.ptp(by_problem) == 0.0:
        return Estimate(float(value), None, None, len(by_problem))
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return Estimate(float(value), float(low), float(high), len(by_problem))


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Tell of each (cost, accuracy) whether no other costs as little and is as accurate, one of the
    two strictly better.
    """
    return [
        not any(c <= cost and a >= value and (c, a) != (cost, value) for c, a in points)
        for cost, value in points
    ]


def _best(settings: Sequence[Setting]) -> int:
    return min(
        range(len(settings)),
        key=lambda i: (-settings[i].accuracy.value, settings[i].layer_tokens, i),
    )


def cheapest(settings: Sequence[Setting]) -> int:
    """Return which setting takes the fewest layer-tokens among those as good as the best; of equal
    ones the more accurate, then the first.

    As good: the 95% interval of (best - this), both resampled over the same problems, holds 0; or
    the difference is less than half a problem. Expectations over a pool are sharp: without the
    second even 0.01 points would count.
    """
    able = [i for i, setting in enumerate(settings) if setting.as_good_as_best]
    return min(able, key=lambda i: (settings[i].layer_tokens, -settings[i].accuracy.value, i))


def by_majority(
    id: str, pool: Sequence[Trace], right: frozenset[str], widths: Sequence[int]
) -> list[tuple[float, float]]:
    """Return by width the chance that the majority of so many attempts is right: exact, with the
    error 0, in pools up to 512.
    """
    counts = votes(pool)
    values = majority_at_k(counts, len(pool), right, widths)
    return [
        (value, majority_error(counts, len(pool), right, k))
        for k, value in zip(widths, values, strict=True)
    ]


def by_drawing(selector: Selector) -> Chances:
    """Return what estimates any selector's chance to be right, by width, with its standard error.

    Of each pool it takes every part of that size when there are at most 100 (then the error is 0),
    else 100 seeded draws.
    """

    def chances(
        id: str, pool: Sequence[Trace], right: frozenset[str], widths: Sequence[int]
    ) -> list[tuple[float, float]]:
        return [_drawn(id, pool, right, k, selector) for k in widths]

    return chances


def _drawn(
    id: str, pool: Sequence[Trace], right: frozenset[str], k: int, selector: Selector
) -> tuple[float, float]:
    problem = Problem(id, "")
    whole = math.comb(len(pool), k) <= N_DRAWS
    rng = random.Random(derive_seed(0, id, k))
    parts = (
        itertools.combinations(pool, k) if whole else (rng.sample(pool, k) for _ in range(N_DRAWS))
    )
    answers = [conclude(problem, part, selector).answer for part in parts]
    hits = [answer is not None and answer.key in right for answer in answers]
    share = sum(hits) / len(hits)
    return share, 0.0 if whole else math.sqrt(share * (1.0 - share) / (len(hits) - 1))


def _costs(pool: Sequence[Trace], widths: Sequence[int]) -> list[tuple[float, float]]:
    """Return the expected (layer-tokens, seconds) of each width. What is generated grows with the
    width, and so do seconds.

    Of the prompt, one trace computes the most (in the pool: whichever came first), the others what
    the prefix cache did not hold: so a width of 1 pays the prompt in full, and the width of the
    pool pays what the pool did.
    """
    prompts, outputs = zip(*map(split, pool), strict=True)
    first = max(prompts)
    others = (sum(prompts) - first) / (len(pool) - 1) if len(pool) > 1 else 0.0
    output, seconds = sum(outputs) / len(pool), sum(t.usage.seconds for t in pool) / len(pool)
    return [(k * output + first + (k - 1) * others, k * seconds) for k in widths]


# traces whose agreement is tried: `deepen`'s first wave, and what its confidence of 0.95 asks for
N_AGREED = 4

Pools: TypeAlias = Mapping[str, Sequence[Trace]]  # by problem id
Right: TypeAlias = Mapping[str, frozenset[str]]  # keys of right answers by problem id


@dataclass(frozen=True, slots=True)
class Level:
    """What was seen of one depth.

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
    """Return what whole pools of attempts at one depth show; `right` has the keys of the right
    answers of each.
    """
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
        layer_tokens=sum(sum(split(t)) for pool in pools.values() for t in pool) / n,
        seconds=sum(t.usage.seconds for pool in pools.values() for t in pool) / n,
        accuracy=accuracy,
        n_alternatives=n_alternatives,
        weight=vote_weight(accuracy, n_alternatives),
        n_agreed=k,
        agreement=agreement,
        agreed_accuracy=sum(r for _, r in agreed) / len(agreed) / agreement if agreement else None,
    )


def alternatives(wrong: Sequence[Sequence[int]]) -> float:
    """Return how many wrong answers there are in effect: one over the chance that two wrong traces
    of a problem agree, at least 1.

    `wrong` are the counts of each problem's wrong answers. With no two wrong traces on any problem
    it is 1, the most cautious value.
    """
    pairs = sum(sum(counts) * (sum(counts) - 1) for counts in wrong)
    agreeing = sum(c * (c - 1) for counts in wrong for c in counts)
    return (
        1.0
        if not pairs
        else max(1.0, pairs / agreeing if agreeing else float(max(sum(counts) for counts in wrong)))
    )


def vote_weight(accuracy: float, n_alternatives: float) -> float:
    """Return the log-odds that one vote adds: log(a m / (1 - a)), at least 0, for accuracy a in (0,
    1) and m wrong answers in effect.

    Naive Bayes: if a trace states the right answer with probability a and each of m wrong ones with
    (1 - a) / m, and traces are independent, then the answer with the largest sum of these weights
    is the most probable one.
    """
    return max(0.0, math.log(accuracy * n_alternatives / (1.0 - accuracy)))


def agreed_at_k(
    counts: Mapping[str, int], n: int, right: frozenset[str], k: int
) -> tuple[float, float]:
    """Return the chances that k of n attempts drawn at random all state one answer, and that they
    do and it is right. Exact.
    """
    ways = math.comb(n, k)
    return sum(math.comb(c, k) for c in counts.values()) / ways, sum(
        math.comb(counts.get(key, 0), k) for key in right
    ) / ways


def votes(pool: Sequence[Trace]) -> Counter[str]:
    """Return the votes of attempts by answer key."""
    return Counter(
        t.answer.key for t in pool if t.answer is not None and t.finish is not Finish.FAILED
    )


def split(trace: Trace) -> tuple[float, float]:
    """Return a trace's layer-tokens (its tokens, where layers are not known) of the prompt, and of
    what was generated.
    """
    usage = trace.usage
    computed = usage.prompt_tokens - usage.cached_tokens
    total = computed + usage.output_tokens
    layers = usage.layer_tokens / total if usage.layer_tokens and total else 1.0
    return computed * layers, usage.output_tokens * layers


def first_look(levels: Sequence[Level], deep: Level) -> Level | None:
    """Return the shallower depth that saves most as `deepen`'s first wave before `deep`, or None
    when none saves.

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
