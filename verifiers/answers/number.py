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

from orchestrator.kit.answers.find import find_answer
from orchestrator.kit.answers.latex import statement_values
from orchestrator.kit.answers.numbers import quantity
from orchestrator.kit.answers.statements import Statement


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
        return find_answer(text, finished, _read)

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
    """Return the number of a statement. Several boxes or values in one statement must agree."""
    values = {quantity(text): text for text in statement_values(statement)}
    return next(iter(values.values())) if len(values) == 1 and None not in values else None
