"""How many iterations a step of the engine runs before it ends. Pure.

A step costs the layers it calls, whatever their rows: those around the think block once, those of
the block in each iteration. It is worth what its requests advance. A long step leaves few requests
in its last iterations; a short one calls the layers around the block more often.
"""

from __future__ import annotations

from collections.abc import Sequence

_LEAST_GAIN = 1.02  # below it a step runs to the end: each step has a cost of its own


def step_length(remaining: Sequence[int], n_outside: float, n_think: int) -> int:
    """Return the iterations of a step whose requests need `remaining` more, one or more each.

    It is one of `remaining`, so at least one request ends. `n_outside` is what the layers before
    and after the block cost, with the rest of a step, in layers; `n_think` those of the block.
    """
    longest = max(remaining)

    def rate(length: int) -> float:
        in_block = n_think * sum(min(n, length) for n in remaining)
        around = n_outside * sum(n <= length for n in remaining)
        return (in_block + around) / (n_outside + n_think * length)

    best = max(sorted(set(remaining), reverse=True), key=rate)
    return best if rate(best) > _LEAST_GAIN * rate(longest) else longest
