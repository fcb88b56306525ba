"""Layer schedules and exit rules: which decoder layers run, in which order, and how often. Pure.

A layer schedule is written as layer numbers and ranges, in the order of execution, with at most one
*think block*, which runs as often as a request's depth says:

    0-29                    as most models ship
    0-9 (10-19)*r 20-29     encode, think r times, decode (ETD, arXiv 2510.07358)
    0-4 6-9 8-11 12-29      layer 5 skipped, layers 8 and 9 run twice (CoLa, arXiv 2507.07996)
    0-9 (10-12)*3 13-29     a block repeated a fixed number of times

An exit rule says when a token of a looped model stops iterating before it has reached its depth. It
is written as what is measured between two iterations of the token, and the value below which the
token stops:

    state<0.03              the latent state settled: ||s_i - s_{i-1}|| / ||s_i|| < 0.03
    kl<5e-4                 the prediction settled: KL(p_{i-1} || p_i) < 5e-4 between next-token
                            distributions (Huginn, arXiv 2502.05171, 6.1)
    state<0.03 after 4      the same, but not before the fourth iteration

What they do to a model is the business of `orchestrator.engines.vllm.latent`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from orchestrator.core.errors import PlanError

MAX_REPEATS = 256  # of a fixed block; a typing error must not ask for a gigabyte of layers
_RULE = re.compile(r"\s*(state|kl)\s*<\s*([0-9.eE+-]+?)\s*(?:\bafter\s+(\d+)\s*)?")
_PIECE = re.compile(r"\s*(?:,|\(([^()]*)\)\s*\*\s*(r|\d+)|(\d+(?:\s*-\s*\d+)?))\s*")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Layer indices in order of execution: `head`, `think` as often as the depth says, `tail`.

    With `think` () there is one depth only.
    """

    head: tuple[int, ...]
    think: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()

    def order(self, depth: int = 1) -> tuple[int, ...]:
        """Return the layers that run at this depth, in order."""
        return (*self.head, *(self.think * depth), *self.tail)

    def n_layers_run(self, depth: int = 1) -> int:
        """Return how many decoder layers a token passes at this depth, as `layer_tokens` counts."""
        return len(self.head) + len(self.think) * depth + len(self.tail)

    def __str__(self) -> str:
        """Return the text from which `parse_schedule` reads this schedule."""
        think = [f"({_ranges(self.think)})*r"] if self.think else []
        return " ".join(part for part in (_ranges(self.head), *think, _ranges(self.tail)) if part)


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that a text describes; PlanError naming what cannot be read."""
    before: list[int] = []
    think: tuple[int, ...] | None = None
    after: list[int] = []
    position = 0
    while position < len(text.rstrip()):
        piece = _PIECE.match(text, position)
        if piece is None:
            raise PlanError(
                f"layer schedule {text!r}: cannot read {text[position:]!r}; "
                "write ranges and one block, as in 0-9 (10-19)*r 20-29"
            )
        block, times, item = piece.groups()
        position = piece.end()
        part = before if think is None else after
        if item is not None:
            part += _indices(item, text)
        elif block is not None:
            layers = _block(block, text)
            if times == "r":
                _require(think is None, text, "there can be one block with *r")
                think = tuple(layers)
                continue
            _require(
                1 <= int(times) <= MAX_REPEATS,
                text,
                f"a block is repeated 1 to {MAX_REPEATS} times, not {times}",
            )
            part += layers * int(times)
    _require(bool(before or think or after), text, "it names no layer")
    return Schedule(tuple(before), think or (), tuple(after))


def _block(block: str, text: str) -> list[int]:
    pieces = re.split(r"[\s,]+", re.sub(r"\s*-\s*", "-", block.strip()))
    return [index for piece in pieces for index in _indices(piece, text)]


def require_layers(schedule: Schedule, n_layers: int) -> None:
    """Raise PlanError when a schedule names a layer that a model of `n_layers` does not have."""
    highest = max(schedule.order(1))
    if highest >= n_layers:
        raise PlanError(
            f"layer schedule '{schedule}' names layer {highest}; "
            f"the model has {n_layers} layers, 0 to {n_layers - 1}"
        )


def _indices(item: str, text: str) -> Iterable[int]:
    match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", item)
    if match is None:
        raise PlanError(
            f"layer schedule {text!r}: {item!r} is no layer and no range of layers; write 7 or 3-9"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    _require(first <= last, text, f"the range {item} runs backwards")
    _require(last - first < 10_000, text, f"the range {item} is longer than any model")
    return range(first, last + 1)


def _require(holds: bool, text: str, reason: str) -> None:
    if not holds:
        raise PlanError(f"layer schedule {text!r}: {reason}")


def _ranges(indices: tuple[int, ...]) -> str:
    """Return indices as text, with a range for each run of consecutive ones."""
    runs = groupby(enumerate(indices), key=lambda item: item[1] - item[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(group) for _, group in runs)]
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


@dataclass(frozen=True, slots=True)
class ExitRule:
    """A token stops at the first iteration at which its `measure` is under `below`.

    Iterations are counted from 1; it does not stop before `least` of them.
    """

    measure: str  # "state" or "kl"
    below: float
    least: int = 1

    def __str__(self) -> str:
        """Return the text from which `parse_exit` reads this rule."""
        return f"{self.measure}<{self.below:g}" + (f" after {self.least}" if self.least > 1 else "")


def parse_exit(text: str) -> ExitRule:
    """Return the rule that a text describes; PlanError naming what cannot be read."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise PlanError(
            f"exit rule {text!r}: cannot be read; write state<0.03 or kl<5e-4, "
            "and perhaps 'after 4' for the least iterations"
        )
    measure, number, least = match.groups()
    try:
        below = float(number)
    except ValueError:
        raise PlanError(f"exit rule {text!r}: {number!r} is no number") from None
    if not 0 < below < math.inf:
        raise PlanError(
            f"exit rule {text!r}: the value to fall below must be above 0, not {number}; "
            "nothing is below 0"
        )
    if least is not None and int(least) < 1:
        raise PlanError(f"exit rule {text!r}: a token takes at least 1 iteration, not {least}")
    return ExitRule(measure, below, int(least or 1))
