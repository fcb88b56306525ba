"""How far each layer of a model turns the residual stream, where a think block could lie, and what looping it does. Values only.

Angular distances as in ETD (arXiv 2510.07358): d_l = arccos(cos(x_l, x_{l+1})) / pi between the residual streams before and after layer l,
averaged over the tokens of a text. Whether looping a frozen model's block helps is not promised by anybody: it is measured here, by the
likelihood of the same text, for plain loops and for damped ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from orchestrator.core.errors import PlanError
from orchestrator.core.schedule import Schedule
from orchestrator.depth.knees import proposed
from orchestrator.evaluate import Estimate, mean_estimate

if TYPE_CHECKING:
    from orchestrator.depth.decoder import Decoder

WINDOW_TOKENS = 128  # how much the model reads at once; the tokens of a window count alike, the first ones without context
_FEWEST_WINDOWS = 2  # below, nothing can be said about how certain a number is


@dataclass(frozen=True, slots=True)
class Looped:
    """What a depth does to the likelihood of the text. `nll` is nats a token; `change` is against depth 1, paired by window."""

    depth: int
    damped: bool
    n_layers_run: int
    nll: Estimate
    change: Estimate | None  # None at depth 1


@dataclass(frozen=True, slots=True)
class Probe:
    """`distances[l]` is layer l's; `schedule` is None when the curve has no knees. `loops` is empty without a schedule."""

    model: str
    n_tokens: int
    distances: tuple[float, ...]
    schedule: Schedule | None
    loops: tuple[Looped, ...]


def built_in_text() -> str:
    """Return the calibration text that comes along: about 1,400 words of plain English prose, dialogue and sums, written for this."""
    return resources.files("orchestrator.depth").joinpath("calibration.txt").read_text(encoding="utf-8")


def probe(decoder: Decoder, name: str, text: str, depths: Sequence[int]) -> Probe:
    """Return the curve over a text, the schedule that it proposes, and what that schedule does at each of these depths."""
    windows = _windows(decoder.text_ids(text))
    distances = mean_distances(decoder, windows)
    schedule = proposed(distances)
    loops = loop_effects(decoder, windows, schedule, depths) if schedule is not None else ()
    return Probe(name, sum(map(len, windows)), distances, schedule, loops)


def mean_distances(decoder: Decoder, windows: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Return the mean angular distance of each layer over all tokens, shape (n_layers,)."""
    from orchestrator.depth.decoder import angular_distances

    by_window = [angular_distances(decoder.streams(window)) for window in windows]
    return tuple(sum(column) / len(column) for column in zip(*by_window, strict=True))


def loop_effects(decoder: Decoder, windows: Sequence[Sequence[int]], schedule: Schedule, depths: Sequence[int]) -> tuple[Looped, ...]:
    """Return the likelihoods under a schedule, depth 1 first, then each other depth as a plain and as a damped loop."""
    once = _nlls(decoder.token_logprobs(windows, schedule.order(1)))
    found = [Looped(1, False, schedule.n_layers_run(1), mean_estimate(once), None)]
    for depth in sorted({*depths} - {1}):
        plain = _nlls(decoder.token_logprobs(windows, schedule.order(depth)))
        damped = _nlls(decoder.damped_logprobs(windows, schedule.head, schedule.think, schedule.tail, depth))
        for is_damped, nlls in ((False, plain), (True, damped)):
            change = mean_estimate([b - a for a, b in zip(once, nlls, strict=True)])
            found.append(Looped(depth, is_damped, schedule.n_layers_run(depth), mean_estimate(nlls), change))
    return tuple(found)


def _windows(ids: Sequence[int]) -> list[Sequence[int]]:
    windows = [ids[i : i + WINDOW_TOKENS] for i in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS)]
    if len(windows) < _FEWEST_WINDOWS:
        raise PlanError(f"the text has {len(ids)} tokens; at least {_FEWEST_WINDOWS * WINDOW_TOKENS} are needed")
    return windows


def _nlls(logprobs: Sequence[Sequence[float]]) -> list[float]:
    return [-sum(row) / len(row) for row in logprobs]
