"""Where a curve of angular distances goes flat, from the front and from the back, and the schedule that follows. Pure.

The rule is ETD's (Koishekenov et al., arXiv 2510.07358): layers before the front's knee encode, layers after the back's knee decode, those
between think. How distances are measured is `orchestrator.depth.probe`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from orchestrator.core.schedule import Schedule

SENSITIVITY = 1.0  # S of the Kneedle paper, which calls 1 the best for curves known as a whole (section IV)


def kneedle(values: Sequence[float], sensitivity: float = SENSITIVITY) -> int | None:
    """Return the index at which a falling, convex curve goes flat; None when it has no knee.

    Kneedle (Satopaa, Albrecht, Irwin and Raghavan 2011, section III) over equal steps: both axes are scaled to [0, 1] and the curve is
    turned over; the knee is the first local maximum of (curve - x) after which that difference falls below the maximum less
    `sensitivity` mean steps, before it reaches another local maximum. We leave out the paper's first step, smoothing by a spline: each
    value here is a mean over many tokens.
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
    """Return encode, think × r, decode for `distances[l]` between the residual streams before and after layer l; None without knees.

    The curve falls from the front, is low in the middle and may rise towards the end, which the paper does not say how to treat: here the
    front's knee is that of the lowest value so far, counted from the front, and the back's likewise from the back. None too when the two
    leave no layer between them.
    """
    n_encode = kneedle(list(accumulate(distances, min)))
    n_decode = kneedle(list(accumulate(reversed(distances), min)))
    if n_encode is None or n_decode is None:
        return None
    layers = tuple(range(len(distances)))
    end = len(layers) - n_decode
    think = layers[n_encode:end]
    return Schedule(layers[:n_encode], think, layers[end:]) if think else None
