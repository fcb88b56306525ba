"""The view of `leadline answers`: what was read in a text, and how two answers compare.

Display only: `cli.study.answers.reader` reads and compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import NONE, count, counted, one_line
from orchestrator.cli.view.tables import numbers_table

_WIDTH = 100  # characters shown of a line of a reply


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer was read: a line, from 1, and the column, from 1, if it stands there so.

    `explicit`: the text gives the answer explicitly; otherwise it was read at the end of the text.
    """

    line: int
    explicit: bool
    text: str
    column: int | None


@dataclass(frozen=True, slots=True)
class ReferenceReading:
    """A reference, the answer that it gives (None: it cannot be read), and whether that is met.

    `right` is None when it cannot be read, or when a limit was reached before this was decided;
    `note` has the reason.
    """

    text: str
    answer: str | None
    right: bool | None
    note: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a domain read in a text.

    Texts of one `problem` share classes. `answer`, `place` and `key` are None when it abstained.
    `type` is "" for a domain that describes no answers. With thinking, the place is in the text
    without it. `recorded` is the answer in a journal, "" for none there, None outside a job.
    """

    name: str
    problem: str
    domain: str
    answer: str | None
    place: Place | None
    type: str
    key: str | None
    note: str
    n_thinking_chars: int
    references: tuple[ReferenceReading, ...]
    recorded: str | None

    @property
    def right(self) -> bool | None:
        """Whether it is right by any reference; None where there is none that can be read."""
        known = [r.right for r in self.references if r.right is not None]
        return any(known) if known else None

    @property
    def differs(self) -> bool:
        """Whether the journal of its job has another answer."""
        return self.recorded is not None and self.recorded != (self.answer or "")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers with their types and keys, and whether they are one.

    `doubt` says why that was not decided; then they count as different.
    """

    domain: str
    answers: tuple[str, str]
    types: tuple[str, str]
    keys: tuple[str, str]
    equal: bool
    doubt: str = ""

    @property
    def reason(self) -> str:
        """Why the answers are one or not."""
        if self.doubt:
            return f"this was not decided ({self.doubt}), so they count as different"
        if self.keys[0] == self.keys[1]:
            return f"both have the key {self.keys[0]}"
        if self.equal:
            return "the domain finds them equivalent"
        described = f": the first is {self.types[0]}, the second {self.types[1]}"
        return f"their keys differ{described if all(self.types) else ''}"


def reading_view(reading: Reading) -> RenderableType:
    """Return what was read in one text."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    if reading.answer is None:
        facts.add_row("answer", Text(f"none: {_abstention(reading)}", style="yellow"))
    else:
        facts.add_row("answer", Text(reading.answer, style="bold green"))
        facts.add_row("read from", _place(reading))
        if reading.type:
            facts.add_row("type", Text(reading.type))
        facts.add_row("key", Text(reading.key or ""))
        if reading.n_thinking_chars:
            apart = f"{count(reading.n_thinking_chars)} characters, apart from the reply"
            facts.add_row("thinking", Text(apart))
        if reading.note:
            facts.add_row("note", Text(reading.note, style="yellow"))
    for reference in reading.references:
        facts.add_row("reference", _reference(reference))
    if reading.differs:
        facts.add_row("journal", Text(reading.recorded or "no answer", style="yellow"))
    facts.add_row("domain", Text(reading.domain, style="dim"))
    return facts


def readings_view(readings: Sequence[Reading]) -> RenderableType:
    """Return what was read in several texts, one row each, and the number of classes."""
    columns: dict[str, list[str]] = {
        "text": [r.name or str(position) for position, r in enumerate(readings, start=1)],
        "answer": [r.answer or f"({r.note or 'no answer'})" for r in readings],
        "line": [_line(reading) for reading in readings],
        "key": [reading.key or NONE for reading in readings],
    }
    if any(reading.references for reading in readings):
        columns["right"] = [{True: "yes", False: "no", None: NONE}[r.right] for r in readings]
    if any(reading.differs for reading in readings):
        columns["journal"] = [(r.recorded or NONE) if r.differs else "" for r in readings]
    table = numbers_table(tuple(columns), n_texts=len(columns))
    for reading, *cells in zip(readings, *columns.values(), strict=True):
        style = "yellow" if reading.differs or reading.note else "dim" * (reading.answer is None)
        table.add_row(*(Text(one_line(cell), style=style) for cell in cells))
    return Group(table, *(Text(line, style="yellow") for line in _remarks(readings)))


def comparison_view(comparison: Comparison) -> RenderableType:
    """Return two answers side by side, whether they are one, and why."""
    columns = {"answer": comparison.answers, "type": comparison.types, "key": comparison.keys}
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    table = numbers_table(tuple(shown), n_texts=len(shown))
    for row in zip(*shown.values(), strict=True):
        table.add_row(*(Text(one_line(cell) or NONE) for cell in row))
    verdict = "one answer" if comparison.equal else "two different answers"
    style = "bold green" if comparison.equal else "bold yellow"
    what = f"{verdict} in the domain {comparison.domain}: {comparison.reason}"
    return Group(table, Text(what, style=style))


def _abstention(reading: Reading) -> str:
    return reading.note or "the text gives no answer that the domain reads"


def _place(reading: Reading) -> Text:
    place = reading.place
    if place is None:
        return Text("")
    how = "given explicitly" if place.explicit else "not explicit; read at the end of the text"
    at = 0 if place.column is None else place.column - 1
    start = max(0, at - _WIDTH // 2)
    shown = Text(place.text[start : start + _WIDTH].rstrip())
    if place.column is not None:
        shown.stylize("bold green", at - start, at - start + len(reading.answer or ""))
    of_reply = " of the reply" if reading.n_thinking_chars else ""
    return Text.assemble(f"line {place.line}{of_reply}, {how}: ", shown)


def _reference(reference: ReferenceReading) -> Text:
    if reference.answer is None:
        why = f" ({reference.note})" if reference.note else ""
        return Text(f"{one_line(reference.text)} cannot be read{why}", style="yellow")
    source = "" if reference.answer == reference.text else f', read from "{_end(reference.text)}"'
    verdict = {True: "right", False: "not met", None: f"not decided ({reference.note})"}[
        reference.right
    ]
    style = "green" if reference.right else "yellow"
    return Text.assemble(f"{reference.answer}{source}: ", (verdict, style))


def _end(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _WIDTH else f"...{line[3 - _WIDTH :]}"


def _line(reading: Reading) -> str:
    if reading.place is None:
        return NONE
    return f"{reading.place.line}{'' if reading.place.explicit else ' (end)'}"


def _remarks(readings: Sequence[Reading]) -> list[str]:
    answered = [reading for reading in readings if reading.answer is not None]
    n_classes = len({(reading.problem, reading.key) for reading in answered})
    classes = f"{count(n_classes)} {'class' if n_classes == 1 else 'classes'}"
    n_silent, n_other = len(readings) - len(answered), sum(r.differs for r in readings)
    total = f"{counted(len(answered), 'answer')} in {classes}; {counted(n_silent, 'abstention')}"
    return [total, f"{counted(n_other, 'answer')} not as in the journal"][: 1 + (n_other > 0)]
