"""Exit rules: when a token of a looped model stops iterating before it has reached its depth. Pure.

A rule is written as what is measured between two iterations of one token and the value below which it stops:

    state<0.03              the latent state has settled: ||s_i - s_{i-1}|| / ||s_i|| < 0.03
    kl<5e-4                 the prediction has: KL(p_{i-1} || p_i) < 5e-4 between next-token distributions (Huginn, arXiv 2502.05171, 6.1)
    state<0.03 after 4      the same, but not before the fourth iteration

What a rule does to a model is `orchestrator.latent`'s.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from orchestrator.core.errors import PlanError

_RULE = re.compile(r"\s*(state|kl)\s*<\s*([0-9.eE+-]+?)\s*(?:\bafter\s+(\d+)\s*)?")


@dataclass(frozen=True, slots=True)
class ExitRule:
    """A token stops at the first iteration, counted from 1 and not before `least`, at which its `measure` is under `below`."""

    measure: str  # "state" or "kl"
    below: float
    least: int = 1

    def __str__(self) -> str:
        """Return the text that `parse_exit` reads back to this rule."""
        return f"{self.measure}<{self.below:g}" + (f" after {self.least}" if self.least > 1 else "")


def parse_exit(text: str) -> ExitRule:
    """Return the rule that a text writes; PlanError naming what it cannot be."""
    found = _RULE.fullmatch(text)
    if found is None:
        raise PlanError(f"exit rule {text!r}: cannot be read; write state<0.03 or kl<5e-4, and perhaps 'after 4' for the least iterations")
    measure, number, least = found.groups()
    try:
        below = float(number)
    except ValueError:
        raise PlanError(f"exit rule {text!r}: {number!r} is no number") from None
    if not 0 < below < math.inf:
        raise PlanError(f"exit rule {text!r}: the value to fall below must be above 0, not {number}; nothing is below 0")
    if least is not None and int(least) < 1:
        raise PlanError(f"exit rule {text!r}: a token takes at least 1 iteration, not {least}")
    return ExitRule(measure, below, int(least or 1))
