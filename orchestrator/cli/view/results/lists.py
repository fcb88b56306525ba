"""What lists of problems share: answers cut to one line, questions in the room that is left."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import one_line
from orchestrator.cli.view.tables import numbers_table

LONGEST_ANSWER = 24  # cells of an answer or a reference in one line
_LONGEST_ANSWERS = (LONGEST_ANSWER, 16, 10)
_NARROWEST_QUESTION = 16  # where less is left for the questions of a list, they are left out


@dataclass(frozen=True, slots=True)
class QuestionList:
    """A table with the question of each row in its last column, in one line.

    The columns in `answers` are cut as far as the question needs room. Where that is not enough,
    the question is left out.
    """

    headings: Sequence[str]
    n_texts: int
    answers: Collection[str]
    rows: Sequence[Sequence[Text]]
    questions: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [
            (longest, Measurement.get(console, options, self._table(longest, 0)).maximum)
            for longest in _LONGEST_ANSWERS
        ]
        for least in (_NARROWEST_QUESTION, 0):  # the question, or else longer answers
            for longest, width in widths:
                room = options.max_width - width - 2
                if room >= least:
                    yield self._table(longest, room if least else 0)
                    return
        yield self._table(_LONGEST_ANSWERS[-1], 0)

    def _table(self, longest: int, room: int) -> Table:
        """Return the table with answers of `longest` and questions of `room` cells at most."""
        table = numbers_table(
            self.headings, n_texts=self.n_texts, texts_after=["question"] if room else []
        )
        for row, text in zip(self.rows, self.questions, strict=True):
            cells = [
                Text(shortened(cell.plain, longest)) if heading in self.answers else cell
                for heading, cell in zip(self.headings, row, strict=True)
            ]
            table.add_row(*cells, *([Text(shortened(text, room), style="dim")] if room else []))
        return table


def shortened(text: str, width: int = LONGEST_ANSWER) -> str:
    """Return a text in one line of at most `width` cells."""
    short = Text(one_line(text))
    short.truncate(width, overflow="ellipsis")
    return short.plain


def notes_view(notes: Sequence[str]) -> list[Text]:
    return [Text(f"note: {note}", style="yellow") for note in notes]
