"""Replays for people: tables. Every number comes in. The plot is `replay_plot`'s."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.plan.spec_syntax import spelled
from orchestrator.studies.evaluate import Estimate
from orchestrator.studies.replay.experiment import MAJORITY, ReplayRow, ReplaySetting


def replay_tables(rows: Sequence[ReplayRow], title: str) -> RenderableType:
    """Return the rows of one source, then, if anything was left unfinished or probed, what became
    of it.

    Tokens are per question; `path` is the longest chain of tokens that had to be made in sequence.
    `saved` is against all of a strategy's n attempts of the same draw, and `full vote` is their
    accuracy under the same selector.
    """
    table = _table(
        f"{title} · {rows[0].accuracy.n:,} questions",
        ("accuracy", "95% interval", "tokens", "saved", "path"),
    )
    for row in rows:
        saved = None if not row.full_tokens else 1 - row.tokens.value / row.full_tokens
        table.add_row(
            named(row.setting),
            f"{row.accuracy.value:.1%}",
            _interval(row.accuracy),
            f"{row.tokens.value:,.0f}",
            "" if saved is None else f"{saved:z.1%}",
            f"{row.path_tokens:,.0f}",
        )
    touched = [row for row in rows if row.pruned_tokens or row.probe_tokens]
    return Group(table, _accounts(touched)) if touched else table


def _accounts(rows: Sequence[ReplayRow]) -> Table:
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


def named(setting: ReplaySetting) -> Text:
    """Return a setting as it is typed; the selector where it is not the majority."""
    name = Text(spelled(setting.strategy))
    if setting.selector != MAJORITY:
        name.append(f" → {spelled(setting.selector)}", style="dim")
    return name


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "none"
    return f"{estimate.low:.1%} to {estimate.high:.1%}"
