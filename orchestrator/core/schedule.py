"""Layer schedules: which decoder layers run, in which order, and which of them form the block that latent depth repeats. Pure.

A schedule is written as layer numbers and ranges, in the order of execution, with at most one *think block* that runs as often as a
request's depth says:

    0-29                    as most models ship
    0-9 (10-19)*r 20-29     encode, think r times, decode (ETD, arXiv 2510.07358)
    0-4 6-9 8-11 12-29      layer 5 skipped, layers 8 and 9 run twice (CoLa, arXiv 2507.07996)
    0-9 (10-12)*3 13-29     a block repeated a fixed number of times

What a schedule does to a model is `orchestrator.latent`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.errors import PlanError

MAX_REPEATS = 256  # of a fixed block; a typing error should not ask for a gigabyte of layers
_PIECE = re.compile(r"\s*(?:,|\(([^()]*)\)\s*\*\s*(r|\d+)|(\d+(?:\s*-\s*\d+)?))\s*")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Layer indices in order of execution: `head`, then `think` as often as the depth says, then `tail`. `think` () has one depth only."""

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
            layers = [index for piece in re.split(r"[\s,]+", re.sub(r"\s*-\s*", "-", block.strip())) for index in _indices(piece, text)]
            if times != "r":
                _require(1 <= int(times) <= MAX_REPEATS, text, f"a block is repeated 1 to {MAX_REPEATS} times, not {times}")
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
        raise PlanError(f"layer schedule '{schedule}' names layer {highest}; the model has {n_layers} layers, 0 to {n_layers - 1}")


def _indices(item: str, text: str) -> Iterable[int]:
    found = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", item)
    if found is None:
        raise PlanError(f"layer schedule {text!r}: {item!r} is no layer and no range of layers; write 7 or 3-9")
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
            parts.append(str(indices[start]) if i - start == 1 else f"{indices[start]}-{indices[i - 1]}")
            start = i
    return " ".join(parts)
