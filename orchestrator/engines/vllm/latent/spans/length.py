"""How many iterations a step of the engine runs before it ends. Pure.

A step calls the layers around the think block once, and those of the block in each iteration; what
a call costs whatever its rows is what mixed depths waste. Short steps keep the iterations full, but
call the layers around the block more often.
"""

from __future__ import annotations

from collections.abc import Sequence

_LEAST_GAIN = 0.98  # of the cost; else steps run to the end, and each request with them


def step_length(
    remaining: Sequence[int], waiting: Sequence[int], n_outside: float, n_think: int
) -> int:
    """Return the iterations of a step whose requests need `remaining` more, one or more each.

    If all seats are taken, and by as many requests of each depth in the end as wait, a token of
    depth d takes ceil(d / k) steps of k iterations; so does its seat. The k of least cost is taken,
    the layers called times the steps of a token; at least one request ends.

    `waiting` are the depths of the next requests, one or more. `n_outside` is what the layers
    before and after the block cost, with the rest of a step, in layers; `n_think` those of the
    block.
    """

    def cost(length: int) -> float:
        n_steps = sum(-(-depth // length) for depth in waiting)
        return (n_outside + n_think * length) * n_steps

    longest = max(*remaining, *waiting)
    best = min(sorted({*waiting}, reverse=True), key=cost)
    return max(best, min(remaining)) if cost(best) < _LEAST_GAIN * cost(longest) else longest
