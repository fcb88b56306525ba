"""The surface for people: tables and the sentences that name the front and the cheapest setting.

Drawing only; every number comes in.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.studies.evaluate import Estimate
from orchestrator.studies.sweep.levels import Level
from orchestrator.studies.sweep.surface import Setting, Surface

BEST, CHEAPEST, FRONT = "▲", "◆", "•"


def surface_table(surface: Surface) -> RenderableType:
    """Return the surface, its Pareto front, and what was seen of each depth."""
    heading = f"{surface.selector} over {surface.n_problems:,} problems: accuracy, 95% interval, {surface.unit} a problem"
    left_out = (
        f"{surface.n_left_out:,} more problems lack attempts at some depth and are left out"
        if surface.n_left_out
        else ""
    )
    parts: list[RenderableType] = [Text(heading, style="bold"), _grid(surface), _legend(surface)]
    parts += [Text(left_out, style="yellow")] if left_out else []
    return Group(
        *parts,
        Text("\nPareto front", style="bold"),
        _front(surface),
        Text("Depths", style="bold"),
        _levels(surface),
    )


def _grid(surface: Surface) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("depth", justify="right", style="bold", no_wrap=True)
    for i, width in enumerate(surface.widths):
        table.add_column(f"{'' if i else 'width '}{width}", justify="right", no_wrap=True)
    for depth in surface.depths:
        table.add_row(
            _depth(depth), *(_cell(surface, surface.at(depth, width)) for width in surface.widths)
        )
    return table


def _cell(surface: Surface, setting: Setting) -> Text:
    position = surface.settings.index(setting)
    marks = (BEST if position == surface.best else "") + (
        CHEAPEST if position == surface.cheapest else ""
    )
    style = "bold green" if position == surface.cheapest else "bold" if setting.on_front else ""
    first = Text(
        f"{marks or (FRONT if setting.on_front else '')} {setting.accuracy.value:.1%}\n",
        style=style,
    )
    return first + Text(f"{_brief(setting.accuracy)}\n{short(setting.layer_tokens)}\n", style="dim")


def _legend(surface: Surface) -> Text:
    worst = max(setting.drawing_error for setting in surface.settings)
    drawn = (
        f"each value has a standard error from drawing of up to {100 * worst:.2f} points"
        if worst
        else "values are exact expectations over the pools"
    )
    return Text(
        f"{CHEAPEST} cheapest as good as the best   {BEST} best   {FRONT} on the Pareto front\n{drawn}",
        style="dim",
    )


def _front(surface: Surface) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("depth", "width", "accuracy", "below best, points", surface.unit, "engine-s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for setting in sorted(
        (s for s in surface.settings if s.on_front), key=lambda s: s.layer_tokens
    ):
        table.add_row(
            _depth(setting.depth),
            str(setting.width),
            f"{setting.accuracy.value:.1%}",
            f"{100 * setting.below_best.value:.1f} ({_range(setting.below_best)})",
            f"{setting.layer_tokens:,.0f}",
            f"{setting.seconds:.3g}",
            style="bold green" if surface.settings[surface.cheapest] is setting else "",
        )
    return table


def _levels(surface: Surface) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    agree = f"{surface.levels[0].n_agreed} traces\nagree"
    per_trace = (f"{surface.unit}\na trace", "engine-s\na trace")
    for heading in (
        "depth",
        "one answer\nis right",
        "weight\nof a vote",
        agree,
        "and are\nright then",
        *per_trace,
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for level in surface.levels:
        table.add_row(*_level(level))
    return table


def _level(level: Level) -> Iterator[str]:
    yield _depth(level.depth)
    yield f"{level.accuracy:.1%}"
    yield f"{level.weight:.2f}"
    yield f"{level.agreement:.1%}"
    yield "–" if level.agreed_accuracy is None else f"{level.agreed_accuracy:.1%}"
    yield f"{level.layer_tokens:,.0f}"
    yield f"{level.seconds:.3g}"


def best_lines(surface: Surface) -> Iterator[str]:
    """Yield what to say of the best and the cheapest setting, a line each."""
    best, chosen = surface.settings[surface.best], surface.settings[surface.cheapest]
    yield f"Best: {_said(best, surface.unit)}."
    if best is chosen:
        yield "Nothing cheaper is as good: the interval of its difference to every cheaper setting is above 0."
        return
    share = 1.0 - chosen.layer_tokens / best.layer_tokens
    yield f"Cheapest within one interval of it: {_said(chosen, surface.unit)}: {share:.0%} fewer {surface.unit}."
    chance = chosen.below_best.low is not None and chosen.below_best.low <= 0.0
    why = "which may be chance" if chance else "which is less than half a problem"
    yield f"It is {_points(chosen.below_best)} below the best over the same {surface.n_problems:,} problems, {why}."


def _said(setting: Setting, unit: str) -> str:
    where = f"depth {_depth(setting.depth)}, width {setting.width}"
    return f"{where}, {setting.accuracy.value:.1%} (95%: {_range(setting.accuracy)}), {setting.layer_tokens:,.0f} {unit} a problem"


def _points(difference: Estimate) -> str:
    return f"{100 * difference.value:.1f} points (95%: {_range(difference)})"


def _range(estimate: Estimate) -> str:
    """Return an interval in hundredths, or that the problems cannot give one."""
    if estimate.low is None or estimate.high is None:
        return "no range"
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _brief(estimate: Estimate) -> str:
    return (
        "–"
        if estimate.low is None or estimate.high is None
        else f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f}"
    )


def _depth(depth: int) -> str:
    return str(depth) if depth else "as it ships"


def short(count: float) -> str:
    """Return a large count in few characters: 950, 12.3k, 4.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"
