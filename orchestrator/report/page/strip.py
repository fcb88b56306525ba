"""What was recorded along an attempt: by trace, and where an exit rule ran, by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.values import Trace

_N_CELLS = 400  # of a strip: more would not be seen


@dataclass(frozen=True, slots=True)
class Strip:
    """What was recorded of each trace of an attempt, for a strip of cells as long as the trace.

    `depths` are the iterations of each token under an exit rule, or of as many stretches of equal
    length as there is room for, on average; () unless every trace has them.
    """

    tokens: tuple[int, ...]
    metrics: Mapping[str, tuple[float | None, ...]]
    depths: tuple[float, ...]


def strip_of(links: Sequence[Trace]) -> Strip | None:
    """Return the metrics, scores and depths of an attempt's traces; None without any."""
    rows = [_measured(link) for link in links]
    names = list(dict.fromkeys(name for row in rows for name in row))
    depths = [depth for link in links for depth in link.depths]
    if not names and not depths:
        return None
    tokens = tuple(link.usage.output_tokens for link in links)
    metrics = {name: tuple(row.get(name) for row in rows) for name in names}
    is_whole = all(link.depths or not link.token_ids for link in links)
    return Strip(tokens, metrics, _stretches(depths) if is_whole else ())


def _stretches(depths: Sequence[int]) -> tuple[float, ...]:
    """Return the means of at most `_N_CELLS` stretches of equal length, in order."""
    n = min(len(depths), _N_CELLS)
    ends = [len(depths) * (i + 1) // n for i in range(n)]
    parts = (depths[start:end] for start, end in zip([0, *ends], ends, strict=False))
    return tuple(round(sum(part) / len(part), 2) for part in parts)


def _measured(link: Trace) -> dict[str, float]:
    return {**link.metrics, **{v.verifier: v.score for v in link.verdicts}}
