"""Tables of a sweep's surface, and sentences on its best and cheapest settings; display only."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import (
    count,
    depth_name,
    interval,
    percent,
    points,
    share,
    short_count,
    thinking_name,
)
from orchestrator.cli.view.tables import numbers_table
from orchestrator.studies.estimates import Estimate
from orchestrator.studies.sweep.levels import Effort
from orchestrator.studies.sweep.surface import Setting, Surface

BEST, CHEAPEST, FRONT = "▲", "◆", "•"


def surface_table(surface: Surface) -> RenderableType:
    """Return tables of the surface, its Pareto front, and the measurements at each depth."""
    heading = (
        f"{surface.selector} over {count(surface.n_problems)} problems: accuracy, 95% interval, "
        f"{surface.unit} per problem"
    )
    parts: list[RenderableType] = [Text(heading, style="bold"), _grid(surface), _legend(surface)]
    if surface.n_left_out:
        left_out = (
            f"{count(surface.n_left_out)} more problems lack attempts at some effort and are left "
            "out"
        )
        parts.append(Text(left_out, style="yellow"))
    return Group(
        *parts,
        Text("\nPareto front", style="bold"),
        _front(surface),
        Text(" and ".join(axis_names(surface)).capitalize(), style="bold"),
        _levels(surface),
    )


def axis_names(surface: Surface) -> tuple[str, ...]:
    """Return the axes beside width that the surface has: depth, thinking or both."""
    has_depth = surface.depths != (0,) or surface.thinking == (0,)
    return (*["depth"][:has_depth], *["thinking"][: surface.thinking != (0,)])


def places(surface: Surface, effort: Effort) -> tuple[str, ...]:
    """Return the place of an effort on each of these axes."""
    names = {"depth": depth_name(effort.depth), "thinking": thinking_name(effort.thinking)}
    return tuple(names[axis] for axis in axis_names(surface))


def effort_name(effort: Effort) -> str:
    """Return an effort in words, as depth 4, thinking 512."""
    depth, thinking = f"depth {depth_name(effort.depth)}", f"thinking {effort.thinking}"
    if not effort.thinking:
        return depth
    return f"{depth}, {thinking}" if effort.depth else thinking


def _grid(surface: Surface) -> Table:
    first, *others = surface.widths
    axes = axis_names(surface)
    table = numbers_table((*axes, f"width {first}", *map(str, others)))
    for column in table.columns[: len(axes)]:
        column.style = "bold"
    for effort in surface.efforts:
        cells = (_cell(surface, surface.at(effort, width)) for width in surface.widths)
        table.add_row(*places(surface, effort), *cells)
    return table


def _cell(surface: Surface, setting: Setting) -> Text:
    position = surface.settings.index(setting)
    is_cheapest = position == surface.cheapest
    marks = (BEST if position == surface.best else "") + (CHEAPEST if is_cheapest else "")
    style = "bold green" if is_cheapest else "bold" if setting.on_front else ""
    mark = marks or (FRONT if setting.on_front else "")
    bounds = interval(points(setting.accuracy), ".0f").replace(" to ", "–")
    return Text.assemble(
        (f"{mark} {share(setting.accuracy.value)}\n", style),
        (f"{bounds}\n{short_count(setting.layer_tokens)}\n", "dim"),
    )


def _legend(surface: Surface) -> Text:
    worst = max(setting.drawing_error for setting in surface.settings)
    exactness = (
        f"each value has a standard error from drawing of up to {100 * worst:.2f} points"
        if worst
        else "values are exact expectations over the pools"
    )
    marks = f"{CHEAPEST} cheapest as good as the best   {BEST} best   {FRONT} on the Pareto front"
    return Text(f"{marks}\n{exactness}", style="dim")


def _front(surface: Surface) -> Table:
    table = numbers_table(
        (
            *axis_names(surface),
            *("width", "accuracy", "below best, points", surface.unit),
            *_reasoning(surface, "reasoning tokens"),
            "engine-s",
        )
    )
    front = (setting for setting in surface.settings if setting.on_front)
    for setting in sorted(front, key=lambda setting: setting.layer_tokens):
        below = points(setting.below_best)
        table.add_row(
            *places(surface, setting.effort),
            str(setting.width),
            share(setting.accuracy.value),
            f"{below.value:.1f} ({_bounds(below)})",
            count(setting.layer_tokens),
            *_reasoning(surface, count(setting.reasoning_tokens)),
            f"{setting.seconds:.3g}",
            style="bold green" if surface.settings[surface.cheapest] is setting else "",
        )
    return table


def _reasoning(surface: Surface, cell: str) -> list[str]:
    """Return the cell of a column that only a surface with thinking has."""
    return [cell] if any(level.reasoning_tokens for level in surface.levels) else []


def _levels(surface: Surface) -> Table:
    table = numbers_table(
        (
            *axis_names(surface),
            "one answer\nis right",
            "weight\nof a vote",
            f"{surface.levels[0].n_agreed} attempts\nagree",
            "and are\nright then",
            f"{surface.unit}\nan attempt",
            "engine-s\nan attempt",
        )
    )
    for level in surface.levels:
        table.add_row(
            *places(surface, level.effort),
            share(level.accuracy),
            f"{level.weight:.2f}",
            share(level.agreement),
            share(level.agreed_accuracy),
            count(level.layer_tokens),
            f"{level.seconds:.3g}",
        )
    return table


def best_lines(surface: Surface) -> Iterator[str]:
    """Yield the sentences about the best and the cheapest setting, one per line."""
    best, cheapest = surface.settings[surface.best], surface.settings[surface.cheapest]
    yield f"Best: {_described(best, surface.unit)}."
    if best is cheapest:
        if any(s.layer_tokens < best.layer_tokens for s in surface.settings):
            yield "Every cheaper setting is worse: the 95% interval of the difference excludes 0."
        else:
            yield "It is also the cheapest setting."
        return
    saved = percent(1.0 - cheapest.layer_tokens / best.layer_tokens)
    yield (
        f"Cheapest within one interval of it: {_described(cheapest, surface.unit)}: {saved} fewer "
        f"{surface.unit}."
    )
    below = points(cheapest.below_best)
    may_be_chance = below.low is not None and below.low <= 0.0
    why = "which may be chance" if may_be_chance else "which is less than half a problem"
    yield (
        f"It is {below.value:.1f} points (95%: {_bounds(below)}) below the best over the same "
        f"{count(surface.n_problems)} problems, {why}."
    )


def _described(setting: Setting, unit: str) -> str:
    accuracy = f"{share(setting.accuracy.value)} (95%: {_bounds(points(setting.accuracy))})"
    cost = f"{count(setting.layer_tokens)} {unit} per problem"
    return f"{effort_name(setting.effort)}, width {setting.width}, {accuracy}, {cost}"


def _bounds(estimate: Estimate) -> str:
    return interval(estimate, ".1f", missing="no interval")
