"""Measuring instead of guessing: which settings a pilot compares, and which of them it picks. Pure but for what a replay computes.

A pilot samples a few problems with reference answers once, in full, and replays every candidate on those traces (`replay_runs`), so that
all of them share their problems and their luck. What it cannot compare is what asks otherwise than by fresh attempts: cascades, refinement,
depths, looks at prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.auto import LEAST_TO_STOP, MAJORITY, Choice, Situation
from orchestrator.core.types import PluginSpec
from orchestrator.evaluate import Estimate
from orchestrator.replay_runs import Row, Setting, difference

N_MAX = 32  # attempts of a problem that a pilot samples at most
N_SEEDS = 40  # orders in which a candidate meets the traces


def candidates(found: Situation, n: int) -> list[Setting]:
    """Return the settings of at most `n` attempts that a pilot compares, the plain ones first; each with the votes that the plan allows."""
    widths = sorted({*(2**k for k in range(n.bit_length()) if 2**k <= n), n})
    strategies = [PluginSpec("consistency", {"n": width}) for width in widths]
    if n >= LEAST_TO_STOP:
        strategies.append(PluginSpec("adaptive", {"n": n}))
    if n > 3:
        strategies.append(PluginSpec("short-m@k", {"m": 3, "k": n}))
    return [Setting(strategy, vote) for strategy in strategies for vote in votes(found)]


def votes(found: Situation) -> list[PluginSpec]:
    """Return the votes to compare: the one that the user named, else the majority and those by the plan's verifiers."""
    if found.vote is not None:
        return [found.vote]
    return [MAJORITY, *(PluginSpec("best-weighted", {"by": f"verdict:{name}"}) for name in found.verifiers)]


def picked(rows: Sequence[Row]) -> Row:
    """Return the most accurate row, or the cheapest of those less than half a problem below it; of equal ones the first."""
    best = max(rows, key=lambda row: (row.accuracy.value, -row.tokens.value))
    near = [row for row in rows if difference(best, row).value * row.accuracy.n < 0.5]
    return min(near, key=lambda row: row.tokens.value)


def measured(rows: Sequence[Row], budget_tokens: int) -> Choice:
    """Return the picked setting as a choice, its reason the measurement with its interval, paired with one attempt's."""
    row = picked(rows)
    within = f", each ended by budget.tokens = {budget_tokens:,}" if budget_tokens else ""
    gain = difference(row, rows[0])
    accuracy = f"{row.accuracy.value:.1%}{_interval(row.accuracy, '%')}"
    why = (
        f"measured on {row.accuracy.n} problems: {accuracy} for {row.tokens.value:,.0f} tokens a problem, the best of {len(rows)} "
        f"settings{within}; {100 * gain.value:+.1f}{_interval(gain, '')} points against one attempt"
    )
    return Choice(row.setting.strategy, row.setting.selector, why)


def _interval(estimate: Estimate, unit: str) -> str:
    if estimate.low is None or estimate.high is None:
        return " (no interval)"
    return f" ({100 * estimate.low:.1f} to {100 * estimate.high:.1f}{unit})"
