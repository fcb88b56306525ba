"""The think block of a model: the angular distance of each layer, and the effect of looping.

As in ETD (Koishekenov et al., arXiv 2510.07358): angular distances d_l = arccos(cos(x_l, x_{l+1}))
/ pi between the residual streams before and after layer l, averaged over the tokens of a text. The
knees are where that curve becomes flat, from the front and from the back. Layers before the front
knee encode, layers after the back knee decode, and the layers between them think.

Looping a block of a frozen model is not guaranteed to help. The effect is measured here by the
likelihood of the same text, for plain and for damped loops. Values only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import Schedule
from orchestrator.studies.estimates import Estimate, mean_estimate

if TYPE_CHECKING:
    from orchestrator.studies.layers.decoder import Decoder

# the length of one forward pass; all tokens of a window count equally, including the first ones,
# which have no context
WINDOW_TOKENS = 128
# S of the Kneedle paper, which recommends 1 for curves known in full (section IV)
SENSITIVITY = 1.0
_FEWEST_WINDOWS = 2  # fewer windows give no interval


@dataclass(frozen=True, slots=True)
class LoopEffect:
    """The effect of a depth on the likelihood of the text.

    `nll` is in nats per token; `change` is against depth 1, paired by window.
    """

    depth: int
    damped: bool
    n_layers_run: int
    nll: Estimate
    change: Estimate | None  # None at depth 1


@dataclass(frozen=True, slots=True)
class LayerProbe:
    """The distances, the proposed schedule and the loop effects of one model.

    `distances[l]` belongs to layer l. `schedule` is None when the curve has no knees; then `loops`
    is empty.
    """

    model: str
    n_tokens: int
    distances: tuple[float, ...]
    schedule: Schedule | None
    loops: tuple[LoopEffect, ...]


def built_in_text() -> str:
    """Return the built-in calibration text.

    It contains about 1,400 words of plain English prose, dialogue and arithmetic, written for this
    purpose.
    """
    return (
        resources.files("orchestrator.studies.layers")
        .joinpath("calibration.txt")
        .read_text(encoding="utf-8")
    )


def probe(decoder: Decoder, name: str, text: str, depths: Sequence[int]) -> LayerProbe:
    """Return the curve over a text, the proposed schedule, and its effect at these depths."""
    windows = _windows(decoder.text_ids(text))
    distances = mean_distances(decoder, windows)
    schedule = proposed(distances)
    loops = loop_effects(decoder, windows, schedule, depths) if schedule is not None else ()
    return LayerProbe(name, sum(map(len, windows)), distances, schedule, loops)


def mean_distances(decoder: Decoder, windows: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Return the mean angular distance of each layer over all tokens, shape (n_layers,)."""
    from orchestrator.studies.layers.decoder import angular_distances

    by_window = [angular_distances(decoder.streams(window)) for window in windows]
    return tuple(sum(column) / len(column) for column in zip(*by_window, strict=True))


def loop_effects(
    decoder: Decoder, windows: Sequence[Sequence[int]], schedule: Schedule, depths: Sequence[int]
) -> tuple[LoopEffect, ...]:
    """Return the likelihoods at depth 1, then at each other depth with plain and damped loops."""
    once = _nlls(decoder.token_logprobs(windows, schedule.order(1)))
    effects = [LoopEffect(1, False, schedule.n_layers_run(1), mean_estimate(once), None)]
    for depth in sorted({*depths} - {1}):
        plain = _nlls(decoder.token_logprobs(windows, schedule.order(depth)))
        damped = _nlls(
            decoder.damped_logprobs(windows, schedule.head, schedule.think, schedule.tail, depth)
        )
        for is_damped, nlls in ((False, plain), (True, damped)):
            change = mean_estimate([b - a for a, b in zip(once, nlls, strict=True)])
            effects.append(
                LoopEffect(
                    depth, is_damped, schedule.n_layers_run(depth), mean_estimate(nlls), change
                )
            )
    return tuple(effects)


def _windows(ids: Sequence[int]) -> list[Sequence[int]]:
    windows = [
        ids[i : i + WINDOW_TOKENS] for i in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS)
    ]
    if len(windows) < _FEWEST_WINDOWS:
        raise PlanError(
            f"the text has {len(ids)} tokens; at least {_FEWEST_WINDOWS * WINDOW_TOKENS} are needed"
        )
    return windows


def _nlls(logprobs: Sequence[Sequence[float]]) -> list[float]:
    return [-sum(row) / len(row) for row in logprobs]


def kneedle(values: Sequence[float], sensitivity: float = SENSITIVITY) -> int | None:
    """Return the index at which a falling, convex curve becomes flat; None when it has no knee.

    Kneedle (Satopaa, Albrecht, Irwin and Raghavan 2011, section III) over equal steps: both axes
    are scaled to [0, 1] and the curve is inverted. The knee is the first local maximum of (curve -
    x) after which that difference falls below the maximum minus `sensitivity` mean steps, before it
    reaches another local maximum. Differs: we omit the first step of the paper, smoothing by a
    spline, because each value here is a mean over many tokens.
    """
    low, high = min(values, default=0.0), max(values, default=0.0)
    if len(values) < 3 or high == low:
        return None
    n = len(values) - 1
    differences = [(high - value) / (high - low) - i / n for i, value in enumerate(values)]
    knee: int | None = None
    for i in range(1, len(values)):
        if knee is not None and differences[i] < differences[knee] - sensitivity / n:
            return knee
        if i < n and differences[i - 1] < differences[i] >= differences[i + 1]:
            knee = i
    return None


def proposed(distances: Sequence[float]) -> Schedule | None:
    """Return the schedule encode, think × r, decode; None without knees.

    `distances[l]` is between the residual streams before and after layer l. The curve falls from
    the front, is low in the middle and may rise towards the end, a case that the paper does not
    treat. Here the front knee is that of the running minimum from the front, and the back knee that
    of the running minimum from the back. The result is also None when no layer is left between the
    two.
    """
    n_encode = kneedle(list(accumulate(distances, min)))
    n_decode = kneedle(list(accumulate(reversed(distances), min)))
    if n_encode is None or n_decode is None:
        return None
    layers = tuple(range(len(distances)))
    end = len(layers) - n_decode
    think = layers[n_encode:end]
    return Schedule(layers[:n_encode], think, layers[end:]) if think else None
