"""Layer schedules, exit rules and cascades: which layers run, and how often. Pure.

A layer schedule lists layer numbers and ranges in the order of execution. At most one block is the
*think block*: it runs as many times as a request's depth:

    0-29                    as most models ship
    0-9 (10-19)*r 20-29     encode, think r times, decode (ETD, arXiv 2510.07358)
    0-4 6-9 8-11 12-29      layer 5 skipped, layers 8 and 9 run twice (CoLa, arXiv 2507.07996)
    0-9 (10-12)*3 13-29     a block repeated a fixed number of times

An exit rule lets a token of a looped model stop iterating before it reaches its request's depth.
It names what is measured after each iteration i, and the threshold at which the token stops:

    state<0.03              the latent state settled: ||s_i - s_{i-1}|| / ||s_i|| < 0.03
    acceleration<0.02       its steps settled: ||d_i - d_{i-1}|| / ||s_i|| < 0.02 twice in a row,
                            where d_i = s_i - s_{i-1} (arXiv 2509.23314)
    kl<5e-4                 the prediction settled: KL(p_{i-1} || p_i) < 5e-4 between next-token
                            distributions (Huginn, arXiv 2502.05171, 6.1)
    entropy<0.1             the prediction is certain: its entropy is below 0.1 nats (as in early
                            exits from layers, arXiv 2004.12993)
    agreement>=3            the last 3 iterations predict the same token (arXiv 2006.04152)
    state<0.03 after 4      as above, but not before the fourth iteration

A cascade predicts a token by an early iteration where it does not pay to defer to the deep one:

    diff 0.1 at 2           iteration 2 predicts unless its largest probability is more than 0.1
                            below that of the deep one (arXiv 2405.19261)

`orchestrator.engines.vllm.latent` applies all three to a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from orchestrator.core.errors import PlanError

MAX_REPEATS = 256  # of a fixed block; a typo must not request a gigabyte of layers
OF_STATES, OF_PREDICTIONS = ("state", "acceleration"), ("kl", "entropy", "agreement")
_RULE = re.compile(
    r"\s*(?:(state|acceleration|kl|entropy)\s*<\s*([0-9.eE+-]+?)|(agreement)\s*>=\s*(\d+))"
    r"\s*(?:\bafter\s+(\d+)\s*)?"
)
# The rules of a cascade, and the least and the largest threshold that changes what they do.
CASCADES: Mapping[str, tuple[float, float]] = {
    "chow": (0, 1),
    "diff": (-1, 1),
    "opt": (-math.inf, math.inf),
    "token": (0, 1),
}
_CASCADE = re.compile(r"\s*([a-z]+)\s+([0-9.eE+-]+)\s+at\s+(\d+)\s*")
_PIECE = re.compile(r"\s*(?:,|\(([^()]*)\)\s*\*\s*(r|\d+)|(\d+(?:\s*-\s*\d+)?))\s*")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Layer indices in order of execution: `head`, then `think` once per depth, then `tail`.

    With an empty `think` the only depth is 1.
    """

    head: tuple[int, ...]
    think: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()

    def order(self, depth: int = 1) -> tuple[int, ...]:
        """Return the layers that run at this depth, in order of execution."""
        return (*self.head, *(self.think * depth), *self.tail)

    def n_layers_run(self, depth: int = 1) -> int:
        """Return how many decoder layers a token passes at this depth, as in `layer_tokens`."""
        return len(self.head) + len(self.think) * depth + len(self.tail)

    def __str__(self) -> str:
        """Return the text from which `parse_schedule` reads this schedule."""
        think = [f"({_ranges(self.think)})*r"] if self.think else []
        return " ".join(part for part in (_ranges(self.head), *think, _ranges(self.tail)) if part)


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that a text describes; PlanError names the part that cannot be read."""
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
                _require(think is None, text, "only one block may have *r")
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


def kept_places(kept: Schedule, order: Sequence[int]) -> tuple[int, ...]:
    """Return where in `order` the layers are that a schedule keeps, ascending.

    A layer that `order` has several times is kept at the first place that is free. PlanError unless
    the schedule is `order` with some of its layers left out.
    """
    places: list[int] = []
    rest = iter(enumerate(order))
    for layer in kept.order(1):
        place = next((place for place, other in rest if other == layer), None)
        if kept.think or place is None:
            raise PlanError(
                f"layer schedule '{kept}' is not '{Schedule(tuple(order))}' with layers left out; "
                "write those that stay, in their order"
            )
        places.append(place)
    if len(places) == len(order):
        raise PlanError(f"layer schedule '{kept}' leaves out no layer")
    return tuple(places)


def _indices(item: str, text: str) -> Iterable[int]:
    match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", item)
    if match is None:
        raise PlanError(
            f"layer schedule {text!r}: {item!r} is neither a layer nor a range of layers; "
            "write 7 or 3-9"
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
    """A token stops at the first iteration at which its `measure` is below `threshold`.

    For "agreement", a whole number, at the first one at which it is at least `threshold`.
    Iterations count from 1. The token runs at least `least` of them.
    """

    measure: str  # one of `OF_STATES` or `OF_PREDICTIONS`
    threshold: float
    least: int = 1

    @property
    def reads_predictions(self) -> bool:
        """Whether it needs the next-token distribution of each iteration, not only the state."""
        return self.measure in OF_PREDICTIONS

    def __str__(self) -> str:
        """Return the text from which `parse_exit` reads this rule."""
        relation = ">=" if self.measure == "agreement" else "<"
        after = f" after {self.least}" if self.least > 1 else ""
        return f"{self.measure}{relation}{self.threshold:g}{after}"


def parse_exit(text: str) -> ExitRule:
    """Return the rule that a text describes; PlanError names the part that cannot be read."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise PlanError(
            f"exit rule {text!r}: cannot be read; write state<0.03, acceleration<0.02, kl<5e-4, "
            "entropy<0.1 or agreement>=3, optionally with 'after 4' as the minimum number of "
            "iterations"
        )
    measure, number, agreement, count, least = match.groups()
    if least is not None and int(least) < 1:
        raise PlanError(f"exit rule {text!r}: a token runs at least 1 iteration, not {least}")
    if agreement is not None and int(count) < 2:
        raise PlanError(
            f"exit rule {text!r}: at least 2 iterations can agree, not {count}; for a fixed number "
            "of iterations set the depth"
        )
    threshold = float(count) if agreement else _threshold(number, text)
    return ExitRule(measure or agreement, threshold, int(least or 1))


def _threshold(number: str, text: str) -> float:
    try:
        threshold = float(number)
    except ValueError:
        raise PlanError(f"exit rule {text!r}: {number!r} is not a number") from None
    if not 0 < threshold < math.inf:
        raise PlanError(
            f"exit rule {text!r}: the threshold must be above 0, not {number}; "
            "no measure is ever below 0"
        )
    return threshold


@dataclass(frozen=True, slots=True)
class DepthCascade:
    """A deferral rule of speculative cascades (arXiv 2405.19261, section 4), over iterations.

    The rules are those of the authors' notebook, equations 2, 5, 10 and 15:
    https://github.com/google-research/google-research/tree/19e1dcf50395/speculative_cascades

    With q the next token's distribution after iteration `depth`, p that at the request's depth, and
    a the threshold, the token is drawn from p where the rule defers, else from q:

    - "chow" defers if max q < 1 - a;
    - "diff" if max q < max p - a;
    - "opt" if max q < max p - a D(p, q), where D is their total variation distance;
    - "token" (the paper's TokenV3) decides for each token v: q(v) stays where p(v) >= (1 - a) max
      p, and what q gives to other tokens is distributed as p.
    """

    rule: str  # one of `CASCADES`
    threshold: float
    depth: int

    def __str__(self) -> str:
        """Return the text from which `parse_cascade` reads this cascade."""
        return f"{self.rule} {self.threshold:g} at {self.depth}"


def parse_cascade(text: str) -> DepthCascade:
    """Return the cascade that a text describes; PlanError names the part that cannot be read."""
    match = _CASCADE.fullmatch(text)
    if match is None or match[1] not in CASCADES:
        raise PlanError(
            f"cascade {text!r}: cannot be read; write a rule ({', '.join(CASCADES)}), its "
            "threshold and the early iteration, as in diff 0.1 at 2"
        )
    try:
        threshold = float(match[2])
    except ValueError:
        raise PlanError(f"cascade {text!r}: {match[2]!r} is not a number") from None
    least, largest = CASCADES[match[1]]
    if not math.isfinite(threshold) or not least <= threshold <= largest:
        raise PlanError(
            f"cascade {text!r}: the threshold of {match[1]} is "
            + (
                "a finite number"
                if largest == math.inf
                else f"at least {least} and at most {largest}"
            )
            + f", not {match[2]}"
        )
    if int(match[3]) < 1:
        raise PlanError(f"cascade {text!r}: the first iteration is 1, not {match[3]}")
    return DepthCascade(match[1], threshold, int(match[3]))
