r"""Answers that are one number: prices, counts, percentages, measurements.

The one rule: values are exact rationals, so `0.5`, `1/2` and `50\%` are one answer, and 0.333 is
not 1/3 unless a tolerance allows it. Not covered: lists, intervals and expressions
(`verifiers.answers.math`), and the conversion of units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from orchestrator.kit.answers.find import find_answer
from orchestrator.kit.answers.latex import (
    Reader,
    leading_expression,
    leading_measurement,
    statement_values,
)
from orchestrator.kit.answers.numbers import measurement, unwrap
from orchestrator.kit.answers.numerals import in_digits
from orchestrator.kit.answers.statements.statement import Mark, Statement

_PRECISION = Context(prec=60, rounding=ROUND_HALF_EVEN)  # Decimal.ln rounds correctly everywhere
# apart from a number: the form of a cell, which no reply writes
_CELL = "≈"
# a number that is set as text: `\text{7 apples}`
_UPRIGHT = re.compile(r"(?<![\w.}])\\(?:text|textrm|mathrm|mbox)\s?\{\s*([-+$\\]{0,3}\d[^{}]*)\}")
# before a number of things that are known: "the two trains"
_KNOWN = re.compile(
    r"\b(?:the|these|those|all|any|its|their|his|her|our|my|your) \d", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Number:
    """One number, compared exactly or within a tolerance."""

    relative_tolerance: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Largest difference between an answer and the reference, as a fraction of "
            "the reference; 0 compares exactly. Answers are one class when they lie in one cell of "
            "a logarithmic grid of this width.",
        ),
    ] = 0.0
    units: Annotated[
        Literal["drop", "keep"],
        Meta(
            description="'drop': 5 cm, 5 m and 5 are one answer. 'keep': they are three; units are "
            "compared, never converted. Things that are counted (5 apples) are no units."
        ),
    ] = "drop"

    in_process: ClassVar[bool] = True
    expects: ClassVar[str] = "one number, such as 18"

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the number stated last.

        If a finished reply states none, return the only number in its last line.
        """
        return find_answer(text, finished, self._read)

    def canonical(self, answer: str) -> str:
        """Return `=n/d`, `=n/d unit` where units are kept, and under a tolerance `=≈` and a cell.

        A cell is named by the number in its middle. Any other text equals only itself, ignoring
        case and spacing.
        """
        form = " ".join(answer.removeprefix("=").split())
        if form.startswith(_CELL):
            return f"={form}"
        found = measurement(answer)
        if found is None:
            text = " ".join(answer.casefold().replace("=", " ").split())
            found = measurement(text)  # `0=` too
        if found is None:
            return f"={text}"
        value, unit = found
        key = _cell(value, self.relative_tolerance) if self.relative_tolerance else str(value)
        return f"={key} {unit}".rstrip() if self.units == "keep" else f"={key}"

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the values are equal, or in one cell of the tolerance's grid. Fast."""
        return self.canonical(a) == self.canonical(b)

    def accepts(self, answer: str, reference: str) -> bool:
        """Tell whether an answer differs from the reference by at most the tolerance. Fast."""
        found, wanted = measurement(answer), measurement(reference)
        if found is None or wanted is None:
            return self.canonical(answer) == self.canonical(reference)
        if self.units == "keep" and found[1] != wanted[1]:
            return False
        if not self.relative_tolerance:
            return found[0] == wanted[0]
        most = Fraction(self.relative_tolerance) * abs(wanted[0])
        return abs(found[0] - wanted[0]) <= most

    def _read(self, statement: Statement) -> str | None:
        """Return the number of a statement, in digits or else in words."""
        if value := self._value(statement):
            return value
        spelled = _in_digits(statement)
        return None if spelled == statement else self._value(spelled)

    def _value(self, statement: Statement) -> str | None:
        """Return the number of a statement. Several boxes or values in it must agree."""
        read: Reader = leading_measurement if self.units == "keep" else leading_expression
        texts = tuple(_UPRIGHT.sub(r"\1", text) for text in statement.texts)
        found = statement_values(statement._replace(texts=texts), read)
        values = {measurement(text): text for text in found}
        if self.units == "drop":
            values = {value and (value[0], ""): text for value, text in values.items()}
        return next(iter(values.values())) if len(values) == 1 and None not in values else None

    def read_reference(self, text: str) -> str | None:
        """Return the number that the text gives explicitly, or a bare number as it is."""
        if explicit := self.extract(text, finished=False):
            return explicit
        bare = in_digits(text.strip(), None)
        return None if measurement(bare) is None else bare


def _in_digits(statement: Statement) -> Statement:
    """Return a statement whose numbers are spelled as words with digits instead.

    Of unmarked ones only an English reply of one line, without "one" and "the two": in reasoning, a
    word for a number is seldom the answer.
    """
    if statement.mark is not Mark.LAST_LINE:
        texts = [in_digits(unwrap(text), statement.language) for text in statement.texts]
        return statement._replace(texts=tuple(texts))
    line = statement.texts[0]
    spelled = line if statement.start or statement.language else in_digits(line, None, least=2)
    return statement if _KNOWN.search(spelled) else statement._replace(texts=(spelled,))


@lru_cache(maxsize=8192)
def _cell(value: Fraction, tolerance: float) -> str:
    """Return the name of the cell of a number in a logarithmic grid with 1 in the middle of a cell.

    The grid is fixed, so that the class of an answer does not depend on the other answers. Two
    numbers on two sides of an edge are apart although they may differ by less than the tolerance.
    """
    if not value:
        return f"{_CELL}0"
    width = _PRECISION.ln(_PRECISION.add(Decimal(1), Decimal(tolerance)))
    size = _PRECISION.divide(Decimal(abs(value.numerator)), Decimal(value.denominator))
    index = _PRECISION.divide(_PRECISION.ln(size), width).to_integral_value(context=_PRECISION)
    middle = _PRECISION.exp(_PRECISION.multiply(index, width))
    n_digits = max(3, 3 - Decimal(tolerance).adjusted())
    rounded = Context(prec=n_digits).create_decimal(middle)
    return f"{_CELL}{'-' if value < 0 else ''}{rounded}".lower()
