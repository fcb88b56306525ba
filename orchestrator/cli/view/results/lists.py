"""What lists of problems share: answers cut to one line, questions in the room that is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import one_line
from orchestrator.cli.view.tables import numbers_table

_LONGEST_ANSWER = 24  # characters of an answer or a reference in a list
_NARROWEST_QUESTION = 16  # where less is left for the questions of a list, they are left out


@dataclass(frozen=True, slots=True)
class QuestionList:
    """A table with the question of each row in its last column, in one line, if there is room."""

    headings: Sequence[str]
    n_texts: int
    rows: Sequence[Sequence[Text]]
    questions: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        narrow = self._table(0)
        room = options.max_width - Measurement.get(console, options, narrow).maximum - 2
        yield self._table(room) if room >= _NARROWEST_QUESTION else narrow

    def _table(self, width: int) -> Table:
        """Return the table with the first characters of the questions, so that they fit."""
        table = numbers_table(
            self.headings, n_texts=self.n_texts, texts_after=["question"] if width else []
        )
        for row, text in zip(self.rows, self.questions, strict=True):
            table.add_row(*row, *([Text(shortened(text, width), style="dim")] if width else []))
        return table


def shortened(text: str, width: int = _LONGEST_ANSWER) -> str:
    """Return a text in one line of at most `width` cells."""
    short = Text(one_line(text))
    short.truncate(width, overflow="ellipsis")
    return short.plain


def notes_view(notes: Sequence[str]) -> list[Text]:
    return [Text(f"note: {note}", style="yellow") for note in notes]
