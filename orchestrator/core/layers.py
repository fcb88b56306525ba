"""Layer schedules: which decoder layers run, in which order, and which of them form the block that
latent depth repeats. Pure.

A schedule is written as layer numbers and ranges, in the order of execution, with at most one
*think block* that runs as often as a request's depth says:

    0-29                    as most models ship
    0-9 (10-19)*r 20-29     encode, think r times, decode (ETD, arXiv 2510.07358)
    0-4 6-9 8-11 12-29      layer 5 skipped, layers 8 and 9 run twice (CoLa, arXiv 2507.07996)
    0-9 (10-12)*3 13-29     a block repeated a fixed number of times

What a schedule does to a model is `orchestrator.engines.vllm.latent`'s.

Exit rules: when a token of a looped model stops iterating before it has reached its depth. Pure.

A rule is written as what is measured between two iterations of one token and the value below which
it stops:

    state<0.03              the latent state has settled: ||s_i - s_{i-1}|| / ||s_i|| < 0.03
    kl<5e-4                 the prediction has: KL(p_{i-1} || p_i) < 5e-4 between next-token
      distributions (Huginn, arXiv 2502.05171, 6.1)
    state<0.03 after 4      the same, but not before the fourth iteration

What a rule does to a model is `orchestrator.engines.vllm.latent`'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.errors import PlanError

MAX_REPEATS = 256  # of a fixed block; a typing error should not ask for a gigabyte of layers
_PIECE = re.compile(r"\s*(?:,|\(([^()]*)\)\s*\*\s*(r|\d+)|(\d+(?:\s*-\s*\d+)?))\s*")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Layer indices in order of execution: `head`, then `think` as often as the depth says, then
    `tail`. `think` () has one depth only.
    """

    head: tuple[int, ...]
    think: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()

    def order(self, depth: int = 1) -> tuple[int, ...]:
        """Return the layers that run at this depth, in order."""
        return (*self.head, *(self.think * depth), *self.tail)

    def n_layers_run(self, depth: int = 1) -> int:
        """Return how many decoder layers a token passes at this depth: what `layer_tokens` counts."""
        return len(self.head) + len(self.think) * depth + len(self.tail)

    def __str__(self) -> str:
        """Return the text that `parse_schedule` reads back to this schedule."""
        think = [f"({_ranges(self.think)})*r"] if self.think else []
        return " ".join(part for part in (_ranges(self.head), *think, _ranges(self.tail)) if part)


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that a text writes; PlanError naming what it cannot be."""
    before: list[int] = []
    think: tuple[int, ...] | None = None
    after: list[int] = []
    position = 0
    while position < len(text.rstrip()):
        found = _PIECE.match(text, position)
        if found is None:
            raise PlanError(
                f"layer schedule {text!r}: cannot read {text[position:]!r}; write ranges and one block, as in 0-9 (10-19)*r 20-29"
            )
        block, times, item = found.groups()
        position = found.end()
        part = before if think is None else after
        if item is not None:
            part += _indices(item, text)
        elif block is not None:
            layers = [
                index
                for piece in re.split(r"[\s,]+", re.sub(r"\s*-\s*", "-", block.strip()))
                for index in _indices(piece, text)
            ]
            if times != "r":
                _require(
                    1 <= int(times) <= MAX_REPEATS,
                    text,
                    f"a block is repeated 1 to {MAX_REPEATS} times, not {times}",
                )
                part += layers * int(times)
            else:
                _require(think is None, text, "there can be one block with *r")
                think = tuple(layers)
    _require(bool(before or think or after), text, "it names no layer")
    return Schedule(tuple(before), think or (), tuple(after))


def require_layers(schedule: Schedule, n_layers: int) -> None:
    """Raise PlanError when a schedule names a layer that a model of `n_layers` does not have."""
    highest = max(schedule.order(1))
    if highest >= n_layers:
        raise PlanError(
            f"layer schedule '{schedule}' names layer {highest}; the model has {n_layers} layers, 0 to {n_layers - 1}"
        )


def _indices(item: str, text: str) -> Iterable[int]:
    found = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", item)
    if found is None:
        raise PlanError(
            f"layer schedule {text!r}: {item!r} is no layer and no range of layers; write 7 or 3-9"
        )
    first, last = int(found[1]), int(found[2] or found[1])
    _require(first <= last, text, f"the range {item} runs backwards")
    _require(last - first < 10_000, text, f"the range {item} is longer than any model")
    return range(first, last + 1)


def _require(holds: bool, text: str, reason: str) -> None:
    if not holds:
        raise PlanError(f"layer schedule {text!r}: {reason}")


def _ranges(indices: tuple[int, ...]) -> str:
    parts: list[str] = []
    start = 0
    for i in range(1, len(indices) + 1):
        if i == len(indices) or indices[i] != indices[i - 1] + 1:
            parts.append(
                str(indices[start]) if i - start == 1 else f"{indices[start]}-{indices[i - 1]}"
            )
            start = i
    return " ".join(parts)


_RULE = re.compile(r"\s*(state|kl)\s*<\s*([0-9.eE+-]+?)\s*(?:\bafter\s+(\d+)\s*)?")


@dataclass(frozen=True, slots=True)
class ExitRule:
    """A token stops at the first iteration, counted from 1 and not before `least`, at which its
    `measure` is under `below`.
    """

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
        raise PlanError(
            f"exit rule {text!r}: cannot be read; write state<0.03 or kl<5e-4, and perhaps 'after 4' for the least iterations"
        )
    measure, number, least = found.groups()
    try:
        below = float(number)
    except ValueError:
        raise PlanError(f"exit rule {text!r}: {number!r} is no number") from None
    if not 0 < below < math.inf:
        raise PlanError(
            f"exit rule {text!r}: the value to fall below must be above 0, not {number}; nothing is below 0"
        )
    if least is not None and int(least) < 1:
        raise PlanError(f"exit rule {text!r}: a token takes at least 1 iteration, not {least}")
    return ExitRule(measure, below, int(least or 1))
