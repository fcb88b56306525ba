r"""Answers that are one number: prices, counts, percentages, measurements whatever their unit.

The one rule: values are exact rationals, so `0.5`, `1/2` and `50\%` are one answer, and 0.333 is
not 1/3 unless a tolerance allows it. Not covered: lists, intervals and expressions
(`verifiers.answers.math`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.kit.answers.find import Mark, Statement, find_answer
from orchestrator.kit.answers.latex import closing_values, leading_expression
from orchestrator.kit.answers.numbers import quantity


@dataclass(frozen=True, slots=True)
class Number:
    """One number, compared exactly or within a tolerance."""

    relative_tolerance: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Largest difference between two equal numbers, as a fraction of the larger "
            "one; 0 compares exactly.",
        ),
    ] = 0.0

    in_process: ClassVar[bool] = True
    expects: ClassVar[str] = "one number, such as 18"

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the number stated last.

        If a finished reply states none, return the only number in its last line.
        """
        return find_answer(text, finished, _read, _read_last_line)

    def canonical(self, answer: str) -> str:
        """Return `=n/d`, or `n/d` under a tolerance.

        Any other text equals only itself, ignoring case and spacing.
        """
        value = quantity(answer)
        if value is None:
            return "=" + " ".join(answer.casefold().replace("=", " ").split())
        return str(value) if self.relative_tolerance else f"={value}"  # `n` or `n/d`

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the values are equal, within the tolerance. Fast."""
        left, right = quantity(a), quantity(b)
        if left is None or right is None:
            return self.canonical(a) == self.canonical(b)
        return abs(left - right) <= Fraction(self.relative_tolerance) * max(abs(left), abs(right))

    def read_reference(self, text: str) -> str | None:
        """Return the number that the text gives explicitly, or a bare number as it is."""
        explicit = self.extract(text, finished=False)
        return explicit or (text.strip() if quantity(text.strip()) is not None else None)


def _read(statement: Statement) -> str | None:
    """Return the number of a statement. Several boxes in one statement must agree."""
    texts = {
        leading_expression(text) or "" if statement.mark in (Mark.WORDS, Mark.LABEL) else text
        for text in statement.texts
    }
    values = {quantity(text): text for text in texts}
    return next(iter(values.values())) if len(values) == 1 and None not in values else None


def _read_last_line(line: str) -> str | None:
    """Return the one number of a line, or None."""
    values = {quantity(text): text for text in closing_values(line)}
    return next(iter(values.values())) if len(values) == 1 and None not in values else None
