"""The pilot of `leadline choose`: the settings it compares, and the one it picks.

A pilot samples a few problems with reference answers once, in full, and replays every candidate on
those traces (`experiment`), so that all candidates share their problems and their random draws. It
cannot compare strategies that need more than fresh attempts: cascades, refinement, depths, and
strategies that read prefixes. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.plan import Budget
from orchestrator.core.values import PluginSpec
from orchestrator.plan.auto import (
    LEAST_TO_STOP,
    M_SECONDS,
    MAJORITY,
    N_SECONDS,
    AutoChoice,
    Situation,
    choose,
)
from orchestrator.plan.spec_syntax import spelled
from orchestrator.studies.estimates import Estimate
from orchestrator.studies.replay.experiment import ReplayRow, ReplaySetting, difference

N_MAX = 32  # the maximum number of attempts that a pilot samples per problem
N_SEEDS = 40  # orders in which a candidate receives the traces


def candidates(situation: Situation, n: int) -> list[ReplaySetting]:
    """Return the settings of at most `n` attempts that a pilot compares, with each allowed vote.

    The setting of the rules (`default`) comes first, then the others by width.
    """
    widths = sorted({*(2**k for k in range(n.bit_length()) if 2**k <= n), n})
    strategies = [PluginSpec("consistency", {"n": width}) for width in widths]
    if n >= LEAST_TO_STOP:
        strategies.append(PluginSpec("adaptive", {"n": n}))
    if n >= N_SECONDS:
        strategies.append(PluginSpec("short-m@k", {"m": M_SECONDS, "k": N_SECONDS}))
    first = default(situation, n)
    return [
        first,
        *(
            s
            for s in (
                ReplaySetting(strategy, vote)
                for strategy in strategies
                for vote in votes(situation)
            )
            if s != first
        ),
    ]


def default(situation: Situation, n: int) -> ReplaySetting:
    """Return the setting that the rules choose for `n` fresh attempts of one model."""
    choice = choose(
        replace(
            situation,
            budget=Budget(traces=n, seconds=situation.budget.seconds),
            models=situation.models[:1],
            capabilities=frozenset(),
        )
    )
    return ReplaySetting(choice.strategy, choice.selector)


def votes(situation: Situation) -> list[PluginSpec]:
    """Return the votes to compare: the user's vote, or the majority and one vote per verifier."""
    if situation.vote is not None:
        return [situation.vote]
    return [
        MAJORITY,
        *(PluginSpec("best-weighted", {"by": f"verdict:{name}"}) for name in situation.verifiers),
    ]


def picked(rows: Sequence[ReplayRow]) -> ReplayRow:
    """Return the most accurate of the rows that are certainly better than the first, or the first.

    A row is certainly better if its paired 95% interval is above 0. The best of several settings on
    few problems looks better than it is: picking it lost 0.5 to 1.4 points against the rules'
    choice on recorded pools.
    """
    better = [row for row in rows[1:] if (difference(row, rows[0]).low or 0.0) > 0.0]
    return max(better, key=lambda row: (row.accuracy.value, -row.tokens.value), default=rows[0])


def measured(rows: Sequence[ReplayRow], budget_tokens: int) -> AutoChoice:
    """Return the picked setting as a choice, with its measurement as the reason."""
    row = picked(rows)
    within = f", each ended by budget.tokens = {budget_tokens:,}" if budget_tokens else ""
    gain = difference(row, rows[0])
    compared = (
        f"none of {len(rows) - 1} other settings{within} is certainly better than the rules' choice"
        if row is rows[0]
        else f"{100 * gain.value:+.1f}{_interval(gain, '')} points against the rules' "
        f"{spelled(rows[0].setting.strategy)}{within}"
    )
    accuracy = f"{row.accuracy.value:.1%}{_interval(row.accuracy, '%')}"
    why = (
        f"measured on {row.accuracy.n} problems: {accuracy} "
        f"for {row.tokens.value:,.0f} tokens a problem; {compared}"
    )
    return AutoChoice(row.setting.strategy, row.setting.selector, why)


def _interval(estimate: Estimate, unit: str) -> str:
    if estimate.low is None or estimate.high is None:
        return " (no interval)"
    return f" ({100 * estimate.low:.1f} to {100 * estimate.high:.1f}{unit})"
