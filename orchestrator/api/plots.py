"""Plots of a solution through matplotlib (the extra `plot`); each function returns the Axes.

Each draws what the notebook shows of the same value. matplotlib is imported when one is called.
"""

from __future__ import annotations

from typing import Any

from orchestrator.api.html import COLOURS, GREY
from orchestrator.api.race import PROBED, race
from orchestrator.api.results import Solution
from orchestrator.core.errors import PlanError


def plot_votes(solution: Solution, axes: Any = None) -> Any:
    """Return the votes of a solution as bars, the leading answer on top."""
    axes = axes or _new_axes()
    clusters = solution.result.clusters
    axes.barh(range(len(clusters)), [cluster.weight for cluster in clusters])
    axes.set_yticks(range(len(clusters)), [_label(c.answer.text) for c in clusters])
    axes.invert_yaxis()
    axes.set_xlabel("weight of the votes")
    return axes


def plot_race(solution: Solution, axes: Any = None) -> Any:
    """Return the race of a solution's attempts over tokens, with probes and checkpoints."""
    axes = axes or _new_axes()
    lanes = race(solution.result, solution.traces)
    colours = [COLOURS.get(lane.state, GREY) for lane in lanes]
    axes.barh(range(len(lanes)), [lane.tokens for lane in lanes], color=colours, alpha=0.75)
    for row, lane in enumerate(lanes):
        for mark in lane.marks:
            axes.plot([mark.tokens], [row], "o" if mark.what == PROBED else "|", color="black")
    names = [f"{lane.ordinal} {lane.state.value}" for lane in lanes]
    axes.set_yticks(range(len(lanes)), names)
    axes.invert_yaxis()
    axes.set_xlabel("output tokens")
    return axes


def _label(text: str) -> str:
    line = " ".join(text.split()).replace("$", r"\$")  # which would begin mathematics
    return line if len(line) <= 40 else f"{line[:39]}…"


def _new_axes() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise PlanError("plots need matplotlib: pip install 'leadline[plot]'") from error
    return pyplot.subplots(layout="constrained")[1]
