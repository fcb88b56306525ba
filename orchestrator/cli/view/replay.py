"""Tables of `leadline replay`; display only. `view.plots` draws the plot."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import count, interval, share
from orchestrator.cli.view.tables import numbers_table
from orchestrator.plan.spec_syntax import spelled
from orchestrator.studies.replay.experiment import MAJORITY, ReplayRow, ReplaySetting


def replay_tables(rows: Sequence[ReplayRow], title: str) -> RenderableType:
    """Return a table of one source's rows, and a second one if attempts were cut or probed.

    Tokens are per problem; `path` is the longest chain of tokens generated in sequence. `saved` is
    against all of a strategy's n attempts of the same draw, and `full vote` is their accuracy under
    the same selector.
    """
    table = numbers_table(
        ("strategy", "accuracy", "95% interval", "tokens", "saved", "path"),
        n_texts=1,
        title=f"{title} · {count(rows[0].accuracy.n)} problems",
    )
    for row in rows:
        saved = _saved(1 - row.tokens.value / row.full_tokens) if row.full_tokens else ""
        table.add_row(
            setting_name(row.setting),
            share(row.accuracy.value),
            interval(row.accuracy),
            count(row.tokens.value),
            saved,
            count(row.path_tokens),
        )
    cut = [row for row in rows if row.pruned_tokens or row.probe_tokens]
    return Group(table, _cut_table(cut)) if cut else table


def _cut_table(rows: Sequence[ReplayRow]) -> Table:
    table = numbers_table(
        ("strategy", "attempts", "pruned", "probed", "full vote", "errors"),
        n_texts=1,
        title=(
            "Tokens of attempts that did not end, and of probes; errors: one of those was right, "
            "the vote wrong"
        ),
    )
    for row in rows:
        table.add_row(
            setting_name(row.setting),
            f"{row.n_attempts:.1f}",
            count(row.pruned_tokens),
            count(row.probe_tokens),
            "" if row.full_accuracy is None else share(row.full_accuracy),
            share(row.pruning_errors),
        )
    return table


def setting_name(setting: ReplaySetting) -> Text:
    """Return a setting as it is typed; its selector where that is not the majority."""
    name = Text(spelled(setting.strategy))
    if setting.selector != MAJORITY:
        name.append(f" → {spelled(setting.selector)}", style="dim")
    return name


def _saved(share: float) -> str:
    """Return a share of full sampling that was saved; what was spent beyond it is "more"."""
    return f"{share:z.1%}" if share > -0.0005 else f"{-share:.1%} more"
