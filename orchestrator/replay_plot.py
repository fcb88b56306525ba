"""Replays as a picture: accuracy against tokens, a line for each strategy. Every number comes in.

Drawn like the sweep's pictures (`plot`): a figure of its own, without pyplot. matplotlib is imported when something is drawn, since it need
not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.core.errors import PlanError
from orchestrator.replay_runs import MAJORITY, Row
from orchestrator.spelling import spelled
from orchestrator.sweep_view import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = "osD^vPX*"
_DPI = 150


def draw_plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write accuracy against tokens with intervals, one line per strategy. PlanError without matplotlib, or if it cannot."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
    except ImportError as error:
        raise PlanError(f"--plot needs matplotlib: pip install 'leadline[plot]' ({error})") from error
    figure = Figure(figsize=(9, 5.5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for i, (name, line) in enumerate(lines(rows).items()):
        _draw_line(axes, name, line, _MARKS[i % len(_MARKS)])
    axes.set(xscale="log", xlabel="output tokens a question (log scale)", ylabel="accuracy (bars: 95% over questions)", title=title)
    tokens = [row.tokens.value for row in rows]
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if max(tokens) < 100 * min(tokens) else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # ValueError: an ending that it does not know
        raise PlanError(f"--plot {path}: {error}") from error


def lines(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return the rows of each line of the plot, by what tells them apart, in order of tokens; lines by their name.

    Rows of one strategy and selector make a line along the option that has the most different numbers among them; where other options
    differ, too, there is a line for each of their choices.
    """
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        selector = row.setting.selector
        name = row.setting.strategy.name
        kinds.setdefault(name if selector == MAJORITY else f"{name} → {spelled(selector)}", []).append(row)
    found: dict[str, dict[str, Row]] = {}
    for kind, alike in kinds.items():
        options = [row.setting.strategy.options for row in alike]
        along = _along(options)
        differ = [
            key for key in dict.fromkeys(k for o in options for k in o) if key != along and len({str(o.get(key)) for o in options}) > 1
        ]
        for row in sorted(alike, key=lambda row: row.tokens.value):
            chosen = row.setting.strategy.options
            others = " ".join(f"{key}={chosen[key]}" for key in differ if key in chosen)
            name = " ".join(filter(None, (kind, others))) + (f", by {along}" if along else "")
            found.setdefault(name, {})[str(chosen[along]) if along else ""] = row
    return found


def _along(options: Sequence[Mapping[str, object]]) -> str:
    """Return the option that all have as a number, with the most different ones; "" when none differs. The first of equals."""
    numbers = [key for key in options[0] if all(isinstance(o.get(key), int | float) for o in options)]
    n_different = {key: len({str(o[key]) for o in options}) for key in numbers}
    best = max(n_different, key=lambda key: n_different[key], default="")
    return best if best and n_different[best] > 1 else ""


def _draw_line(axes: Axes, name: str, line: Mapping[str, Row], mark: str) -> None:
    values = [row.accuracy.value for row in line.values()]
    below = [0.0 if row.accuracy.low is None else row.accuracy.value - row.accuracy.low for row in line.values()]
    above = [0.0 if row.accuracy.high is None else row.accuracy.high - row.accuracy.value for row in line.values()]
    tokens = [row.tokens.value for row in line.values()]
    [drawn] = axes.plot(tokens, values, marker=mark, label=name)
    axes.errorbar(tokens, values, yerr=[below, above], fmt="none", ecolor=drawn.get_color(), alpha=0.35, capsize=3)
    for what, x, y in zip(line, tokens, values, strict=True):
        axes.annotate(what, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8, color=drawn.get_color())
