"""Exit rules calibrated to a loss: the loosest threshold that provably costs no more than that.

A problem's loss, in [0, 1], is what its attempt loses by exits against the same attempt at full
depth: the same prompt, seed and sampling. Thresholds are tested from the strictest to the loosest,
up to the first whose expected loss is not shown to be within the limit: learn-then-test
(Angelopoulos et al., arXiv 2110.01052) with fixed-sequence testing, as CALM calibrates early exits
from layers (arXiv 2207.07061, section 4). Then, with the given confidence over the draw of the
problems, the expected loss of the threshold before that one, on problems like these, is within the
limit. The thresholds are chosen before the problems are seen, and the guarantee is for one rule:
whoever picks the best of m rules calibrates each at the confidence 1 - (1 - confidence) / m.

Not covered: running the jobs (`orchestrator.cli.study.depth.calibrate`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, TypeAlias

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import ExitRule
from orchestrator.core.values import Trace
from orchestrator.studies.estimates import Estimate, mean_estimate, share_of

LossKind: TypeAlias = Literal["answers", "tokens"]
# the thresholds of each measure, from the strictest to the loosest
GRIDS: Mapping[str, tuple[float, ...]] = {
    "state": (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "acceleration": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6),
    "kl": (5e-4, 5e-3, 0.05, 0.2, 0.5, 1.0),
    "entropy": (0.01, 0.05, 0.1, 0.3, 0.6, 1.0, 1.5),
    "agreement": (6, 5, 4, 3, 2),
}


@dataclass(frozen=True, slots=True)
class ExitLevel:
    """The measurements of one threshold.

    `loss` has its 95% interval over problems. `p_value` is that of the hypothesis that the expected
    loss is above the limit. `mean_depth` is in iterations per generated token, `layer_tokens` per
    attempt.
    """

    rule: str
    loss: Estimate
    p_value: float
    mean_depth: float
    layer_tokens: float
    is_shown: bool  # whether the loss is shown to be within the limit


@dataclass(frozen=True, slots=True)
class ExitCalibration:
    """The thresholds of a rule that were tested, from the strictest on, and the chosen rule.

    `limit` is of the loss `of`; `rule` is "" if even the strictest threshold is not shown to be
    within it.
    """

    of: LossKind
    limit: float
    confidence: float
    n_problems: int
    n_failed: int  # attempts without a result, which count as lost
    full_depth: int
    full_layer_tokens: float
    levels: tuple[ExitLevel, ...]
    rule: str


def rules_of(measure: str, thresholds: Sequence[float], least: int, depth: int) -> list[ExitRule]:
    """Return the rules to test, the strictest first; by default those of `GRIDS`.

    Of the default ones only those that can fire before `depth`. PlanError unless each threshold is
    looser than the one before.
    """
    is_count = measure == "agreement"
    if not thresholds:
        own = GRIDS[measure]
        thresholds = [x for x in own if x < depth] if is_count else own
    ordered = sorted(set(thresholds), reverse=is_count)
    if list(thresholds) != ordered:
        raise PlanError(
            f"--thresholds {','.join(f'{x:g}' for x in thresholds)}: name each once, the strictest "
            f"first, as in {','.join(f'{x:g}' for x in ordered)}"
        )
    return [ExitRule(measure, float(x), least) for x in thresholds]


def require_problems(n: int, limit: float, confidence: float) -> None:
    """Raise PlanError if n problems could not show such a loss even without a single difference."""
    if n and (1 - limit) ** n <= 1 - confidence:
        return
    needed = math.ceil(math.log(1 - confidence) / math.log(1 - limit))
    raise PlanError(
        f"{n} problems cannot show a loss of at most {limit:g} with a confidence of "
        f"{confidence:g}, even without any difference: take {needed} problems or more, or a larger "
        "--loss"
    )


def token_loss(full: Sequence[int], early: Sequence[int]) -> float:
    """Return the share of the longer attempt's tokens from the first that differs on."""
    n = max(len(full), len(early))
    pairs = zip(full, early, strict=False)
    n_equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return 1 - n_equal / n if n else 0.0


def p_value(losses: Sequence[float], of: LossKind, limit: float) -> float:
    """Return a p-value of the hypothesis that the expected loss is above the limit.

    For answers, with losses of 0 and 1, the exact binomial tail; for tokens that of Hoeffding and
    Bentkus (arXiv 2110.01052, proposition 1).
    """
    from scipy.stats import binom  # the import takes half a second

    n = len(losses)
    if of == "answers":
        return float(binom.cdf(round(math.fsum(losses)), n, limit))
    mean = math.fsum(losses) / n
    hoeffding = math.exp(-n * _divergence(min(mean, limit), limit))
    # rounding must not lift a whole number
    bentkus = math.e * float(binom.cdf(math.ceil(n * mean - 1e-9), n, limit))
    return min(1.0, hoeffding, bentkus)


def _divergence(a: float, b: float) -> float:
    """Return the Kullback-Leibler divergence of two coins."""
    rest = (1 - a) * math.log((1 - a) / (1 - b))
    return rest + (a * math.log(a / b) if a else 0.0)


def level_of(
    rule: ExitRule,
    losses: Sequence[float],
    traces: Sequence[Trace],
    of: LossKind,
    limit: float,
    confidence: float,
) -> ExitLevel:
    """Return the measurements of a rule, from the loss of each problem and the attempts under it.

    PlanError if no attempt has its depths.
    """
    depths = [depth for trace in traces for depth in trace.depths]
    if not depths:
        raise PlanError(
            f"no attempt under exit = {str(rule)!r} has its depths: every one failed or was empty, "
            "or the engine is one without exits, such as 'fake'"
        )
    n, p = len(losses), p_value(losses, of, limit)
    loss = share_of(round(math.fsum(losses)), n) if of == "answers" else mean_estimate(losses)
    assert loss is not None, "there are problems"
    return ExitLevel(
        str(rule), loss, p, sum(depths) / len(depths), layer_tokens(traces), p <= 1 - confidence
    )


def layer_tokens(traces: Sequence[Trace]) -> float:
    """Return the layer-tokens of an attempt, on average."""
    return sum(trace.usage.layer_tokens for trace in traces) / len(traces)


def chosen(levels: Sequence[ExitLevel]) -> str:
    """Return the last rule before the first that is not shown to be within the limit, or ""."""
    shown = [level.rule for level in takewhile(lambda level: level.is_shown, levels)]
    return shown[-1] if shown else ""
