"""Replays for people: a table, and a plot of accuracy against tokens. Drawing only; every number comes in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.core.errors import PlanError
from orchestrator.core.types import PluginSpec
from orchestrator.evaluate import Estimate
from orchestrator.replay_runs import MAJORITY, Row, Setting
from orchestrator.spelling import spelled


def replay_tables(rows: Sequence[Row], title: str) -> RenderableType:
    """Return the rows of one source, then, if anything was left unfinished or probed, what became of it.

    Tokens are per question; `path` is the longest chain of tokens that had to be made in sequence. `saved` is against all of a strategy's n
    attempts of the same draw, and `full vote` is their accuracy under the same selector.
    """
    table = _table(title, ("accuracy", "95% interval", "n", "tokens", "saved", "path"))
    for row in rows:
        saved = None if not row.full_tokens else 1 - row.tokens.value / row.full_tokens
        table.add_row(
            named(row.setting),
            f"{row.accuracy.value:.1%}",
            _interval(row.accuracy),
            f"{row.accuracy.n:,}",
            f"{row.tokens.value:,.0f}",
            "" if saved is None else f"{saved:z.1%}",
            f"{row.depth_tokens:,.0f}",
        )
    touched = [row for row in rows if row.pruned_tokens or row.probe_tokens]
    return Group(table, _accounts(touched)) if touched else table


def _accounts(rows: Sequence[Row]) -> Table:
    table = _table(
        "Tokens of attempts that did not end, and of probes; errors: one of those was right, the vote wrong",
        ("attempts", "pruned", "probed", "full vote", "errors"),
    )
    for row in rows:
        table.add_row(
            named(row.setting),
            f"{row.n_attempts:.1f}",
            f"{row.pruned_tokens:,.0f}",
            f"{row.probe_tokens:,.0f}",
            "" if row.full_accuracy is None else f"{row.full_accuracy:.1%}",
            f"{row.pruning_errors:.1%}",
        )
    return table


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, title=Text(title, style="bold"), title_justify="left")
    table.add_column("strategy", overflow="fold", min_width=20)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def named(setting: Setting) -> Text:
    """Return a setting as it is typed; the selector where it is not the majority."""
    name = Text(spelled(setting.strategy))
    if setting.selector != MAJORITY:
        name.append(f" → {spelled(setting.selector)}", style="dim")
    return name


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "none"
    return f"{estimate.low:.1%} to {estimate.high:.1%}"


def draw_plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write accuracy against tokens with intervals, one line per strategy. PlanError without matplotlib, or if it cannot."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlanError(f"--plot needs matplotlib: pip install 'leadline[plot]' ({error})") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_family(row.setting.strategy, row.setting.selector), []).append(row)
    for name, group in groups.items():
        group.sort(key=lambda r: r.tokens.value)
        values = [r.accuracy.value for r in group]
        below = [r.accuracy.value - (r.accuracy.low if r.accuracy.low is not None else r.accuracy.value) for r in group]
        above = [(r.accuracy.high if r.accuracy.high is not None else r.accuracy.value) - r.accuracy.value for r in group]
        axes.errorbar([r.tokens.value for r in group], values, yerr=[below, above], marker="o", capsize=3, label=name)
    axes.set(xscale="log", xlabel="output tokens a question", ylabel="accuracy (bars: 95 % over questions)", title=title)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # ValueError: an ending that it does not know
        raise PlanError(f"--plot {path}: {error}") from error


def _family(strategy: PluginSpec, selector: PluginSpec) -> str:
    rule = strategy.options.get("rule")
    name = strategy.name if rule is None else f"{strategy.name} {rule}"
    return name if selector == MAJORITY else f"{name} → {selector.name}"
