"""The surface accuracy(depth, thinking, width) and its cost, from one pool per effort.

An effort is a depth and a limit of thinking; its pool has the largest width.

The one rule: a smaller width is evaluated on random subsets of the pool, never by sampling again
and never on the first traces alone. Every point is therefore unbiased, and all points share their
problems, which makes differences between them precise. This module samples nothing and draws no
plots. docs/sweep.md explains how to read the numbers.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

import numpy as np

from orchestrator.core.errors import LeadlineError, PlanError
from orchestrator.core.lineage import lineage
from orchestrator.core.plan import derive_seed
from orchestrator.core.protocols import Selector
from orchestrator.core.values import Problem, Trace, Usage, changed
from orchestrator.core.votes import conclude
from orchestrator.studies.estimates import Estimate, Table, mean_estimates
from orchestrator.studies.scaling import attempts, majority_at_k, majority_error, votes
from orchestrator.studies.sweep.levels import Effort, Level, Pools, Right, layer_tokens, level

N_DRAWS = 100  # subsets of a pool per problem and width, for selectors without a formula

Chances: TypeAlias = Callable[
    [str, Sequence[Trace], frozenset[str], Sequence[int]], list[tuple[float, float]]
]


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of the surface: the vote of `width` traces at `depth` and with `thinking`.

    Depth 0 is as the model ships, thinking 0 without a limit. `accuracy` has its interval over
    problems. `drawing_error` is its standard error from drawing subsets of pools, 0.0 where the
    accuracy is an exact expectation. `below_best` is the accuracy of the best setting minus this
    one, with problems resampled together. `layer_tokens`, `seconds` and `reasoning_tokens` are per
    problem. `on_front`: no other setting is as accurate for as few layer-tokens;
    `on_seconds_front` likewise for seconds.
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
    thinking: int = 0
    reasoning_tokens: float = 0.0

    @property
    def effort(self) -> Effort:
        """The effort of each trace."""
        return Effort(self.depth, self.thinking)

    @property
    def as_good_as_best(self) -> bool:
        """Return whether its difference from the best setting may be zero.

        The interval of the difference contains 0, or the difference is less than half a problem.
        """
        difference = self.below_best
        return (
            difference.value if difference.low is None else difference.low
        ) <= 0.0 or difference.value * difference.n < 0.5


@dataclass(frozen=True, slots=True)
class Surface:
    """Every setting, ordered by depth, then by thinking, then by width.

    `best` and `cheapest` are indices into `settings`. `unit` is the unit of `layer_tokens`:
    "tokens" if the engine does not report its layers. `n_left_out` problems had a reference but not
    enough attempts at every effort.
    """

    depths: tuple[int, ...]
    thinking: tuple[int, ...]
    widths: tuple[int, ...]
    selector: str
    unit: str
    n_problems: int
    n_left_out: int
    settings: tuple[Setting, ...]
    levels: tuple[Level, ...]
    best: int
    cheapest: int

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """Every effort, in the order of the settings."""
        return tuple(level.effort for level in self.levels)

    def _repr_html_(self) -> str:
        """Return the accuracy by effort and width as a table, for notebooks; the best in bold."""
        best = self.settings[self.best]
        head = "".join(f"<th>width {width:,}</th>" for width in self.widths)
        rows = ""
        for effort in self.efforts:
            name = f"depth {effort.depth or 'as shipped'}"
            name += f", thinking {effort.thinking:,}" if effort.thinking else ""
            cells = ""
            for setting in (self.at(effort, width) for width in self.widths):
                share = f"{setting.accuracy.value:.1%}"
                cells += f"<td>{f'<b>{share}</b>' if setting is best else share}</td>"
            rows += f"<tr><th>{name}</th>{cells}</tr>"
        caption = escape(f"accuracy of {self.selector}, {self.n_problems:,} problems")
        return (
            f'<table style="color: inherit"><caption>{caption}</caption>'
            f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )

    def at(self, effort: Effort, width: int) -> Setting:
        """Return one setting; raises ValueError when it is not on the surface."""
        row = self.efforts.index(effort)
        return self.settings[row * len(self.widths) + self.widths.index(width)]


def parse_counts(text: str, flag: str) -> tuple[int, ...]:
    """Return the integers of a list (`1,4,16`) or a range (`1..64`), ascending.

    A range doubles from its start and includes its end.
    """
    fault = PlanError(
        f"{flag} {text!r}: give whole numbers from 1, "
        "as a list (1,4,16) or as a range that doubles (1..64)"
    )
    counts: set[int] = set()
    for part in text.split(","):
        first, dots, last = (piece.strip() for piece in part.partition(".."))
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise fault
        low, high = int(first), int(last or first)
        if not 1 <= low <= high:
            raise fault
        while low < high:
            counts.add(low)
            low *= 2
        counts.add(high)
    return tuple(sorted(counts))


def parse_limits(text: str, flag: str) -> tuple[int, ...]:
    """Return what `parse_counts` does, with 0, for no limit, last."""
    parts = text.split(",")
    limits = [part for part in parts if part.strip() != "0"]
    counts = parse_counts(",".join(limits), flag) if limits else ()
    return counts if len(limits) == len(parts) else (*counts, 0)


def surface(
    pools: Mapping[Effort, Pools],
    right: Mapping[Effort, Right],
    widths: Sequence[int],
    selector: str,
    chances: Chances,
) -> Surface:
    """Return the surface of pools by effort, each as wide as the largest width.

    There is a pool for each thinking of each depth, in this order. `right` maps efforts to the keys
    of right answers (`evaluate.right_keys`). `chances` is `by_majority` or `by_drawing(selector)`.
    Raises LeadlineError when no problem can be counted.
    """
    efforts = tuple(pools)
    known = [
        id for id in right[efforts[0]] if all(id in right[e] and id in pools[e] for e in efforts)
    ]
    tried = {effort: {id: _attempts(pools[effort][id]) for id in known} for effort in efforts}
    ids = [id for id in known if all(len(tried[e][id]) >= max(widths) for e in efforts)]
    if not ids:
        raise LeadlineError(
            f"none of {len(known)} problems with a reference answer has {max(widths)} attempts "
            "at every effort"
        )
    # shape (n_problems, n_settings, 2): values and their errors
    values = np.array(
        [
            [pair for e in efforts for pair in chances(id, tried[e][id], right[e][id], widths)]
            for id in ids
        ]
    )
    # shape (n_problems, n_settings, 3): layer-tokens, seconds, reasoning tokens
    costs = np.array(
        [[cost for e in efforts for cost in _costs(tried[e][id], widths)] for id in ids]
    )
    drawing = np.sqrt((values[:, :, 1] ** 2).sum(axis=0)) / len(ids)
    settings = _settings(
        [(e, w) for e in efforts for w in widths], values[:, :, 0], drawing, costs.mean(axis=0)
    )
    has_layers = any(t.usage.layer_tokens for e in efforts for t in tried[e][ids[0]])
    return Surface(
        depths=tuple(dict.fromkeys(e.depth for e in efforts)),
        thinking=tuple(dict.fromkeys(e.thinking for e in efforts)),
        widths=tuple(widths),
        selector=selector,
        unit="layer-tokens" if has_layers else "tokens",
        n_problems=len(ids),
        n_left_out=len(known) - len(ids),
        settings=settings,
        levels=tuple(level(e, {id: tried[e][id] for id in ids}, right[e]) for e in efforts),
        best=_best(settings),
        cheapest=cheapest(settings),
    )


def _attempts(pool: Sequence[Trace]) -> list[Trace]:
    """Return the attempts of a pool, each as its last trace with the cost of its whole lineage."""
    by_ordinal = {t.ordinal: t for t in pool}
    return [
        changed(t, usage=sum((link.usage for link in lineage(t, by_ordinal)), Usage()))
        if t.parent is not None
        else t
        for t in attempts(pool)
    ]


def _settings(
    points: Sequence[tuple[Effort, int]], values: Table, drawing: Table, prices: Table
) -> tuple[Setting, ...]:
    # equal expectations, for example of widths 1 and 2, differ in their last digits
    values = values.round(12)
    means = values.mean(axis=0)
    best = min(range(len(points)), key=lambda i: (-means[i], prices[i, 0], i))
    below = values[:, [best]] - values
    estimates = mean_estimates(np.hstack([values, below]))
    accuracies, differences = estimates[: len(points)], estimates[len(points) :]
    by_tokens = pareto(list(zip(prices[:, 0], means.round(12), strict=True)))
    by_seconds = pareto(list(zip(prices[:, 1], means.round(12), strict=True)))
    return tuple(
        Setting(
            depth=effort.depth,
            width=width,
            accuracy=accuracies[i],
            drawing_error=float(drawing[i]),
            below_best=differences[i],
            layer_tokens=float(prices[i, 0]),
            seconds=float(prices[i, 1]),
            on_front=by_tokens[i],
            on_seconds_front=by_seconds[i],
            thinking=effort.thinking,
            reasoning_tokens=float(prices[i, 2]),
        )
        for i, (effort, width) in enumerate(points)
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (cost, accuracy) whether it is on the Pareto front.

    A point is on the front when no other point costs as little and is as accurate, with one of the
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
    """Return the index of the setting with the fewest layer-tokens among those as good as the best.

    Ties go to the more accurate setting, then to the first. A setting is as good as the best if the
    95% interval of (best - this), both resampled over the same problems, contains 0, or if the
    difference is less than half a problem. Expectations over a pool are precise: without the second
    condition even 0.01 points would count.
    """
    able = [i for i, setting in enumerate(settings) if setting.as_good_as_best]
    return min(able, key=lambda i: (settings[i].layer_tokens, -settings[i].accuracy.value, i))


def by_majority(
    id: str, pool: Sequence[Trace], right: frozenset[str], widths: Sequence[int]
) -> list[tuple[float, float]]:
    """Return, by width, the probability that the majority is right, and its standard error.

    It is exact, with error 0, in pools of up to 512 attempts.
    """
    counts = votes(pool)
    values = majority_at_k(counts, len(pool), right, widths)
    return [
        (value, majority_error(counts, len(pool), right, k))
        for k, value in zip(widths, values, strict=True)
    ]


def by_drawing(selector: Selector) -> Chances:
    """Return a function that estimates, by width, how often a selector is right, with its error.

    It votes on every subset of that size if there are at most 100 (then the error is 0), otherwise
    on 100 seeded draws.
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


def _costs(pool: Sequence[Trace], widths: Sequence[int]) -> list[tuple[float, float, float]]:
    """Return the expected (layer-tokens, seconds, reasoning tokens) of each width.

    The cost of generated tokens grows with the width, and so do seconds. One trace computes the
    most prompt tokens (in the pool: the first to arrive); the others compute only the part that was
    not in the prefix cache. So width 1 pays for the whole prompt, and the full width pays the
    pool's cost.
    """
    prompts, outputs = zip(*map(layer_tokens, pool), strict=True)
    first, n = max(prompts), len(pool)
    others = (sum(prompts) - first) / (n - 1) if n > 1 else 0.0
    output, seconds = sum(outputs) / n, sum(t.usage.seconds for t in pool) / n
    reasoning = sum(t.usage.reasoning_tokens for t in pool) / n
    return [(k * output + first + (k - 1) * others, k * seconds, k * reasoning) for k in widths]
