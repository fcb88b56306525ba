"""Plays many histories and names the seeds that fail."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable

from simulation.history import play

_EVERY = 500  # histories between two lines


def simulate(
    first: int, n: int, seconds: float, strategy: str, echo: Callable[[str], None]
) -> list[int]:
    """Play the histories of `n` seeds from `first` on; return those that failed.

    It ends earlier after so many seconds (0: never).
    """
    began, failed = time.monotonic(), list[int]()
    ends, strategies = Counter[str](), Counter[str]()
    for n_played, seed in enumerate(range(first, first + n), 1):
        try:
            played = play(seed, strategy)
        except Exception as error:  # noqa: BLE001 - whatever it is, its seed is what matters
            failed.append(seed)
            echo(f"seed {seed}: {type(error).__name__}: {error}")
            echo("".join(traceback.format_exception(error, limit=-4)))
        else:
            ends += played.ends
            strategies[played.name] += 1
        spent = time.monotonic() - began
        if n_played % _EVERY == 0 or seed == first + n - 1 or (seconds and spent > seconds):
            rate = 60 * n_played / spent
            counts = ", ".join(f"{n} {end}" for end, n in ends.most_common())
            echo(
                f"{n_played:,} histories of {len(strategies)} strategies from seed {first} "
                f"({rate:,.0f} a minute), {len(failed)} failed; their lives: {counts}"
            )
            if seconds and spent > seconds:
                break
    return failed
