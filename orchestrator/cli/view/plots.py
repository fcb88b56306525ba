"""Plots of a sweep's surface, of replays, and of a probe's angular distances.

Display only. Each plot is a separate figure without pyplot, so no global state is changed and no
display is needed. Colours run from dark to bright with depth (viridis, which colour-blind people
can order), and markers differ too. matplotlib is optional, so this module is imported only where a
plot is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from orchestrator.cli.view.numbers import interval, points, share, short_count, thinking_name
from orchestrator.cli.view.sweep import axis_names, places
from orchestrator.core.errors import PlanError
from orchestrator.core.layers import Schedule
from orchestrator.plan.spec_syntax import spelled
from orchestrator.studies.estimates import Estimate
from orchestrator.studies.replay.experiment import MAJORITY, ReplayRow
from orchestrator.studies.sweep.levels import Effort
from orchestrator.studies.sweep.surface import Setting, Surface

_COLOURS = colormaps["viridis"]
_MARKS = "osD^vPX*"
_STROKES = ("-", "--", ":", "-.")
_MOST_BANDS = 8  # intervals of more curves than this hide each other
_AXES = {"depth": "latent depth d", "thinking": "limit of thinking t, tokens"}
_DPI = 150
_RED = "#c1272d"  # a red, which viridis has not


def surface_picture(surface: Surface) -> bytes:
    """Return the picture as PNG."""
    n_rows, n_columns = len(surface.efforts), len(surface.widths)
    height = 1.6 + 0.62 * n_rows
    figure = Figure(
        figsize=(max(10.5, 3.0 + 1.15 * n_columns), height + 5.2), dpi=_DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    above, below = cast("Sequence[SubFigure]", figure.subfigures(2, 1, height_ratios=[height, 5.2]))
    _heat_map(above.subplots(), surface)
    left, right = below.subplots(1, 2, sharey=True)
    _curves(
        left, surface, lambda s: s.layer_tokens, lambda s: s.on_front, f"{surface.unit} per problem"
    )
    _curves(
        right,
        surface,
        lambda s: s.seconds,
        lambda s: s.on_seconds_front,
        "engine-seconds per problem",
    )
    left.set_ylabel("accuracy")
    handles, labels = left.get_legend_handles_labels()
    most = 6 if len(axis_names(surface)) == 1 else 4
    below.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), most), frameon=False
    )
    by = f"{', '.join(axis_names(surface))} and width"
    figure.suptitle(
        f"Accuracy by {by}: {surface.selector} of k attempts, "
        f"{surface.n_problems:,} problems, 95% intervals",
        fontsize=12,
    )
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def _heat_map(axes: Axes, surface: Surface) -> None:
    rows = [[surface.at(effort, width) for width in surface.widths] for effort in surface.efforts]
    image = axes.imshow(
        [[s.accuracy.value for s in row] for row in rows],
        cmap=_COLOURS,
        aspect="auto",
        origin="lower",
    )
    low, high = image.get_clim()
    for y, row in enumerate(rows):
        for x, setting in enumerate(row):
            bright = high > low and (setting.accuracy.value - low) / (high - low) > 0.55
            weight = "bold" if setting.on_front else "normal"
            axes.text(
                x,
                y,
                _label(setting),
                ha="center",
                va="center",
                fontsize=8.5,
                color="black" if bright else "white",
                weight=weight,
            )
    chosen = surface.settings[surface.cheapest]
    x, y = surface.widths.index(chosen.width), surface.efforts.index(chosen.effort)
    axes.add_patch(
        Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, fill=False, edgecolor=_RED, linewidth=2.5)
    )
    axes.set_xticks(range(len(surface.widths)), [str(width) for width in surface.widths])
    axes.set_yticks(range(len(rows)), [_row_name(surface, effort) for effort in surface.efforts])
    _separate_depths(axes, surface)
    axes.set_xlabel("width k (attempts per problem)")
    axes.set_ylabel("\n".join(_AXES[axis] for axis in axis_names(surface)))
    axes.set_title(
        f"bold: on the Pareto front ({surface.unit}) · red frame: the cheapest as good as the best",
        fontsize=9.5,
    )
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, label="accuracy")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _separate_depths(axes: Axes, surface: Surface) -> None:
    n = len(surface.thinking)
    if n > 1:
        for first in range(n, len(surface.efforts), n):
            axes.axhline(first - 0.5, color="white", linewidth=3)


def _row_name(surface: Surface, effort: Effort) -> str:
    if len(axis_names(surface)) > 1:
        return f"d = {effort.depth or 'own'}, t = {effort.thinking or '∞'}"
    if surface.thinking != (0,):
        return thinking_name(effort.thinking)
    return str(effort.depth or "own")


def _curve_name(surface: Surface, effort: Effort) -> str:
    names = zip(axis_names(surface), places(surface, effort), strict=True)
    return ", ".join(f"{axis} {place}" for axis, place in names)


def _label(setting: Setting) -> str:
    low, high = _ends(setting.accuracy)
    bounds = interval(points(setting.accuracy), ".1f" if high - low < 0.02 else ".0f", missing="")
    return f"{share(setting.accuracy.value)}\n{bounds}".rstrip()


def _curves(
    axes: Axes,
    surface: Surface,
    cost: Callable[[Setting], float],
    on_front: Callable[[Setting], bool],
    title: str,
) -> None:
    n = len(surface.efforts)
    n_styles = len(surface.thinking) if len(surface.depths) > 1 else 1
    for i, effort in enumerate(surface.efforts):
        line = [surface.at(effort, width) for width in surface.widths]
        # of both axes, the colour is the depth and the stroke the thinking
        place, n_places = i // n_styles, n // n_styles
        colour = _COLOURS(0.92 * place / (n_places - 1) if n_places > 1 else 0.3)
        axes.plot(
            [cost(s) for s in line],
            [s.accuracy.value for s in line],
            color=colour,
            linestyle=_STROKES[i % n_styles % len(_STROKES)],
            marker=_MARKS[(i % n_styles if n_styles > 1 else i) % len(_MARKS)],
            markersize=5.5,
            markeredgecolor="black",
            markeredgewidth=0.4,
            label=_curve_name(surface, effort),
        )
        lows, highs = zip(*(_ends(s.accuracy) for s in line), strict=True)
        if n <= _MOST_BANDS:
            axes.fill_between(
                [cost(s) for s in line], lows, highs, color=colour, alpha=0.15, linewidth=0
            )
    _front(axes, surface, cost, on_front)
    _mark_cheapest(axes, surface, cost)
    _scale(axes, [cost(s) for s in surface.settings], title)


def _front(
    axes: Axes,
    surface: Surface,
    cost: Callable[[Setting], float],
    on_front: Callable[[Setting], bool],
) -> None:
    front = sorted((s for s in surface.settings if on_front(s)), key=cost)
    axes.plot(
        [cost(s) for s in front],
        [s.accuracy.value for s in front],
        color=_RED,
        linestyle="--",
        linewidth=1.2,
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgewidth=1.4,
        label="Pareto front",
        zorder=5,
    )


def _ends(estimate: Estimate) -> tuple[float, float]:
    """Return the ends of an interval; the value itself where there is none."""
    value, low, high = estimate.value, estimate.low, estimate.high
    return value if low is None else low, value if high is None else high


def _mark_cheapest(axes: Axes, surface: Surface, cost: Callable[[Setting], float]) -> None:
    chosen = surface.settings[surface.cheapest]
    axes.plot(
        [cost(chosen)],
        [chosen.accuracy.value],
        linestyle="none",
        marker="D",
        markersize=16,
        markerfacecolor="none",
        markeredgecolor=_RED,
        markeredgewidth=2.2,
        label="cheapest as good as the best",
        zorder=6,
    )


def _log_scale(axes: Axes, costs: Sequence[float], title: str) -> None:
    axes.set_xscale("log")
    steps = (1.0, 2.0, 5.0) if max(costs) < 100 * min(costs) else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{title} (log scale)")


def _accuracy_scale(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(alpha=0.3)


def _scale(axes: Axes, costs: Sequence[float], title: str) -> None:
    _accuracy_scale(axes)
    if min(costs) > 0:
        _log_scale(axes, costs, title)
    else:
        axes.set_xlabel(f"{title} (not measured by this engine)" if not max(costs) else title)


def draw_plot(rows: Sequence[ReplayRow], path: Path, title: str) -> None:
    """Write accuracy against tokens with intervals, one line per strategy.

    PlanError if it cannot.
    """
    figure = Figure(figsize=(9, 5.5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for i, (name, line) in enumerate(lines(rows).items()):
        _draw_line(axes, name, line, _MARKS[i % len(_MARKS)])
    axes.set(ylabel="accuracy (bars: 95% over problems)", title=title)
    _log_scale(axes, [row.tokens.value for row in rows], "output tokens per problem")
    _accuracy_scale(axes)
    axes.legend(frameon=False)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # ValueError: an ending that it does not know
        raise PlanError(f"--plot {path}: {error}") from error


def lines(rows: Sequence[ReplayRow]) -> dict[str, dict[str, ReplayRow]]:
    """Return the lines of the plot by name; each has its rows by label, in order of tokens.

    Rows of one strategy and selector make a line along the option that has the most different
    numbers among them; where other options differ, too, there is a line for each of their choices.
    """
    kinds: dict[str, list[ReplayRow]] = {}
    for row in rows:
        selector = row.setting.selector
        name = row.setting.strategy.name
        kinds.setdefault(
            name if selector == MAJORITY else f"{name} → {spelled(selector)}", []
        ).append(row)
    found: dict[str, dict[str, ReplayRow]] = {}
    for kind, alike in kinds.items():
        options = [row.setting.strategy.options for row in alike]
        along = _along(options)
        differ = [
            key
            for key in dict.fromkeys(k for o in options for k in o)
            if key != along and len({str(o.get(key)) for o in options}) > 1
        ]
        for row in sorted(alike, key=lambda row: row.tokens.value):
            chosen = row.setting.strategy.options
            others = " ".join(f"{key}={chosen[key]}" for key in differ if key in chosen)
            name = " ".join(filter(None, (kind, others))) + (f", by {along}" if along else "")
            found.setdefault(name, {})[str(chosen[along]) if along else ""] = row
    return found


def _along(options: Sequence[Mapping[str, object]]) -> str:
    """Return the numeric option with the most different values, "" if none differs.

    All settings must have it; ties go to the first.
    """
    numbers = [
        key for key in options[0] if all(isinstance(o.get(key), int | float) for o in options)
    ]
    n_different = {key: len({str(o[key]) for o in options}) for key in numbers}
    best = max(n_different, key=lambda key: n_different[key], default="")
    return best if best and n_different[best] > 1 else ""


def _draw_line(axes: Axes, name: str, line: Mapping[str, ReplayRow], mark: str) -> None:
    values = [row.accuracy.value for row in line.values()]
    lows, highs = zip(*(_ends(row.accuracy) for row in line.values()), strict=True)
    below = [value - low for value, low in zip(values, lows, strict=True)]
    above = [high - value for value, high in zip(values, highs, strict=True)]
    tokens = [row.tokens.value for row in line.values()]
    [drawn] = axes.plot(tokens, values, marker=mark, label=name)
    axes.errorbar(
        tokens,
        values,
        yerr=[below, above],
        fmt="none",
        ecolor=drawn.get_color(),
        alpha=0.35,
        capsize=3,
    )
    for what, x, y in zip(line, tokens, values, strict=True):
        axes.annotate(
            what,
            (x, y),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=8,
            color=drawn.get_color(),
        )


def draw_distances(
    path: Path, distances: Sequence[float], schedule: Schedule | None, title: str
) -> None:
    """Write the picture, a PNG: one point a layer, the proposed think block shaded.

    OSError when it cannot be written.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        range(len(distances)), distances, marker="o", markersize=3.5, linewidth=1.2, color="#1f4e79"
    )
    if schedule is not None:
        first, last = schedule.think[0], schedule.think[-1]
        axes.axvspan(
            first - 0.5,
            last + 0.5,
            color="#f2c14e",
            alpha=0.35,
            label=f"think block {first}-{last}",
        )
        axes.legend(frameon=False)
    axes.set_xlabel("layer")
    axes.set_ylabel("angular distance, arccos(cos) / π")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
