"""Two jobs side by side, and accuracy by tag; display only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import count, counted, interval, points, share
from orchestrator.cli.view.results.lists import QuestionList, notes_view
from orchestrator.cli.view.tables import numbers_table
from orchestrator.report.comparison import Change, Difference, JobComparison, TagDifference
from orchestrator.report.tags import TagAccuracy

# --- two jobs


def comparison_view(comparison: JobComparison, n_rows: int) -> RenderableType:
    """Return two jobs side by side, with at most `n_rows` of the problems that changed (0: all)."""
    difference = comparison.difference
    names = Table.grid(padding=(0, 2))
    names.add_row(Text("A", style="bold"), Text(comparison.first, overflow="fold"))
    names.add_row(Text("B", style="bold"), Text(comparison.second, overflow="fold"))
    for setting in comparison.settings:
        names.add_row("", Text(setting, style="dim", overflow="fold"))
    parts: list[RenderableType] = [names, _difference_table(difference)]
    if comparison.tags:
        parts.append(_tag_differences(comparison.tags))
    parts.append(_changes_line(comparison))
    changes = comparison.changes[:n_rows] if n_rows else comparison.changes
    if changes:
        parts.append(_changes_list(changes))
    if len(changes) < len(comparison.changes):
        shown = f"{count(len(changes))} of {count(len(comparison.changes))}"
        parts.append(Text(f"{shown}; --rows 0 lists all"))
    return Group(*parts, *notes_view(comparison.notes))


def _difference_table(difference: Difference) -> Table:
    heading = f"over {counted(difference.n, 'problem')}"
    table = numbers_table((heading, "A", "B", "B − A", "95% interval"), n_texts=1)
    table.add_row("accuracy", *_accuracies(difference))
    table.add_row(
        "output tokens per problem",
        count(difference.first_tokens),
        count(difference.second_tokens),
        f"{difference.tokens.value:+,.0f}",
        interval(difference.tokens, "+,.0f"),
    )
    return table


def _accuracies(difference: Difference) -> tuple[str, str, str, str]:
    gain = points(difference.accuracy)
    first, second = share(difference.first.value), share(difference.second.value)
    return first, second, f"{gain.value:+.1f} points", interval(gain, "+.1f")


def _tag_differences(tags: Sequence[TagDifference]) -> Table:
    headings = ("tag", "value", "n", "A", "B", "B − A", "95% interval")
    table = numbers_table(headings, n_texts=2, title="accuracy by tag")
    last = ""
    for one in tags:
        name = one.tag if one.tag != last else ""
        last = one.tag
        table.add_row(
            Text(name), Text(one.value), count(one.difference.n), *_accuracies(one.difference)
        )
    return table


def _changes_line(comparison: JobComparison) -> Text:
    n_gained = sum(change.is_gain for change in comparison.changes)
    n_lost = len(comparison.changes) - n_gained
    text = Text(f"{count(n_lost)} lost", style="red" if n_lost else "")
    text.append_text(Text(" · ", style="default"))
    text.append_text(Text(f"{count(n_gained)} gained", style="green" if n_gained else ""))
    other = (
        f" ({count(comparison.n_other_answer)} with another answer)"
        if comparison.n_other_answer
        else ""
    )
    rest = (
        f" · {count(comparison.n_both_right)} right in both"
        f" · {count(comparison.n_both_wrong)} wrong in both{other}"
    )
    return text.append(rest, style="default")


def _changes_list(changes: Sequence[Change]) -> QuestionList:
    headings = ("problem", "", "A", "B", "reference")
    rows = [list(_change_cells(change)) for change in changes]
    return QuestionList(
        headings,
        len(headings),
        ("A", "B", "reference"),
        rows,
        [change.question for change in changes],
    )


def _change_cells(change: Change) -> Iterator[Text]:
    yield Text(change.id)
    yield Text("gained", style="green") if change.is_gain else Text("lost", style="red")
    for answer, outcome in (
        (change.first, change.first_outcome),
        (change.second, change.second_outcome),
    ):
        yield Text(outcome.value if answer is None else answer)
    yield Text(change.reference)


# --- accuracy by tag


def tags_table(rows: Sequence[TagAccuracy]) -> Table:
    """Return the accuracy of each value of each tag."""
    headings = ("tag", "value", "accuracy", "95% interval", "n")
    table = numbers_table(headings, n_texts=2)
    last = ""
    for row in rows:
        name = row.tag if row.tag != last else ""
        last = row.tag
        estimate = row.accuracy
        cells = (share(estimate.value), interval(estimate), count(estimate.n))
        table.add_row(Text(name), Text(row.value), *cells)
    return table
