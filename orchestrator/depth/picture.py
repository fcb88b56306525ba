"""The curve of angular distances as a picture. Needs matplotlib, imported late."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.schedule import Schedule


def can_draw() -> bool:
    """Tell whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_distances(path: Path, distances: Sequence[float], schedule: Schedule | None, title: str) -> None:
    """Write the picture, a PNG: one point a layer, the proposed think block shaded. OSError when it cannot be written."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(len(distances)), distances, marker="o", markersize=3.5, linewidth=1.2, color="#1f4e79")
    if schedule is not None:
        first, last = schedule.think[0], schedule.think[-1]
        axes.axvspan(first - 0.5, last + 0.5, color="#f2c14e", alpha=0.35, label=f"think block {first}-{last}")
        axes.legend(frameon=False)
    axes.set_xlabel("layer")
    axes.set_ylabel("angular distance, arccos(cos) / π")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
