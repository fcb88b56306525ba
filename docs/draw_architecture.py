"""Draws docs/architecture.svg from the code: folders in their layers, imports between folders.

    python docs/draw_architecture.py

Each folder carries the beginning of its docstring; an arrow's width grows with the number of
imports. tests/docs/test_architecture.py fails when the picture no longer shows the code.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import textwrap
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import grimp
import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
PLUGINS = ("strategies", "verifiers")
_NOT_DRAWN = ("__main__",)


def layers() -> list[list[str]]:
    """Return the folders of `orchestrator` by layer, top first, from the import contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [order] = [c["layers"] for c in contracts["contracts"] if c["type"] == "layers"]
    named = [[name.strip(" ()") for name in line.replace(":", "|").split("|")] for line in order]
    exist = [[n for n in line if (ROOT / "orchestrator" / n).is_dir()] for line in named]
    return [line for line in exist if line]


def arrows() -> dict[tuple[str, str], int]:
    """Return how many imports lead from one folder to another."""
    graph = grimp.build_graph("orchestrator", *PLUGINS)
    counts: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            pair = (_folder(module), _folder(target))
            if pair[0] != pair[1] and all(pair):
                counts[pair] += 1
    return dict(counts)


def _folder(module: str) -> str:
    package, _, rest = module.partition(".")
    if package in PLUGINS:
        return package
    first = rest.partition(".")[0]
    return first if first not in _NOT_DRAWN else ""


def purpose(folder: str) -> str:
    """Return what a folder is for: its docstring up to the first punctuation mark."""
    if folder in PLUGINS:
        return "plugins, found by their entry points"
    docstring = ast.get_docstring(
        ast.parse((ROOT / "orchestrator" / folder / "__init__.py").read_text())
    )
    return re.split(r"[.:;,](?:\s|$)", (docstring or "").replace("`", ""))[0]


def draw() -> bytes:
    """Return the picture as SVG."""
    mpl.rcParams.update({"svg.hashsalt": "leadline", "font.family": "DejaVu Sans"})
    rows = layers()
    figure = Figure(figsize=(10, 1.15 * len(rows) + 0.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 10), ylim=(-0.6, len(rows) - 0.3))
    axes.axis("off")
    places: dict[str, tuple[float, float]] = {}
    for y, row in enumerate(reversed(rows)):
        axes.axhspan(y - 0.42, y + 0.42, xmin=0.01, xmax=0.99, color="#eef2f6", zorder=0)
        members = [*row, *PLUGINS] if "kit" in row else row
        for x, name in enumerate(members):
            places[name] = (10 * (x + 1) / (len(members) + 1), y)
    for (source, target), count in sorted(arrows().items()):
        _arrow(axes, places[source], places[target], count)
    for name, place in places.items():
        _box(axes, name, place)
    return _svg(figure)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], count: int) -> None:
    bend = 0.12 if start[0] <= end[0] else -0.12
    axes.add_patch(
        FancyArrowPatch(
            start, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=9,
            shrinkA=24, shrinkB=24, linewidth=0.5 + count**0.5 / 5, color="#5b7083", alpha=0.75,
        )
    )  # fmt: skip


def _box(axes: Any, name: str, place: tuple[float, float]) -> None:
    colour = "#fff3d6" if name in PLUGINS else "#ffffff"
    box = FancyBboxPatch(
        (place[0] - 0.95, place[1] - 0.27), 1.9, 0.54, boxstyle="round,pad=0.02", zorder=3,
        facecolor=colour, edgecolor="#1f4e79",
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(place[0], place[1] + 0.12, name, ha="center", va="center", zorder=4, fontsize=10)
    small = "\n".join(textwrap.wrap(purpose(name), 34))
    axes.text(place[0], place[1] - 0.1, small, ha="center", va="center", zorder=4, fontsize=6)


def _svg(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Description": _description()})
    return target.getvalue()


def _description() -> str:
    """Return what the picture shows as text: a test compares it with the code."""
    return "; ".join(f"{a} imports {b}" for a, b in sorted(arrows()))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PICTURE.write_bytes(draw())
