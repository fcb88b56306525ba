"""Numbers of the fake engine: pure functions of a seed, and cheap.

Python's own generator takes longer to seed than a whole trace takes here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

_MASK = 2**64 - 1


def uniforms(seed: int) -> Iterator[float]:
    """Yield numbers in [0, 1)."""
    return (uniform(seed, place) for place in itertools.count())


def uniform(seed: int, place: int) -> float:
    """Return one of a seed's numbers in [0, 1), by splitmix64 (Steele et al., 2014)."""
    seed = (seed + (place + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((seed ^ seed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return (z ^ z >> 31) / 2**64
