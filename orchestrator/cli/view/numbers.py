"""Formats numbers for people: shares, intervals, counts and durations.

Tables, plots and messages all format a number the same way, because they all use this module.
"""

from __future__ import annotations

import math

from orchestrator.studies.estimates import Estimate

NONE = "–"  # in a table: there is no such number


def share(value: float | None) -> str:
    """Return a share as 41.7%."""
    return NONE if value is None else f"{value:.1%}"


def percent(value: float) -> str:
    """Return a share in whole percent; a value that rounds to zero has no sign."""
    return f"{value:z.0%}"


def interval(estimate: Estimate | None, spec: str = ".1%", missing: str = NONE) -> str:
    """Return a 95% interval as 19.3% to 68.0%, or `missing` if the data do not allow one."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return missing
    return f"{estimate.low:{spec}} to {estimate.high:{spec}}"


def estimate_text(estimate: Estimate | None) -> str:
    """Return a share as 41.7% (19.3% to 68.0%, n = 12)."""
    if estimate is None:
        return NONE
    bounds = interval(estimate, missing="")
    return f"{share(estimate.value)} ({f'{bounds}, ' if bounds else ''}n = {estimate.n:,})"


def points(estimate: Estimate) -> Estimate:
    """Return an estimate of a share in percentage points."""
    low, high = (None if end is None else 100 * end for end in (estimate.low, estimate.high))
    return Estimate(100 * estimate.value, low, high, estimate.n)


def count(number: float) -> str:
    """Return a count, rounded to a whole number, as 12,345."""
    return f"{number:,.0f}"


def counted(number: int, noun: str) -> str:
    """Return a count with its noun, as 1 problem or 12,345 problems."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def short_count(number: float) -> str:
    """Return a large count in few characters: 950, 12.3k, 4.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def usd(amount: float) -> str:
    """Return US dollars as $12.34; small amounts with two significant digits: $0.0031."""
    decimals = (
        2 if abs(amount) >= 1 or not amount else min(6, 1 - math.floor(math.log10(abs(amount))))
    )
    return f"${amount:,.{max(2, decimals)}f}"


def duration(seconds: float) -> str:
    """Return seconds as people write them: 0.4 s, 48 s, 2 min 05 s, 3 h 12 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def depth_name(depth: int) -> str:
    """Return a latent depth; 0 is the model's own."""
    return str(depth) if depth else "as it ships"


def thinking_name(n_tokens: int) -> str:
    """Return a limit of thinking; 0 is none."""
    return str(n_tokens) if n_tokens else "no limit"


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())
