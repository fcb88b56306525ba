r"""Answers that are one number: prices, counts, percentages, measurements without regard to their
unit.

The one rule: exact rationals, so `0.5`, `1/2` and `50\%` are one answer, and 0.333 is not 1/3
unless a tolerance says so. Lists, intervals and expressions are no answers here: that is
`verifiers.answers.math`.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from orchestrator.kit.answers.find import (
    Mark,
    Statement,
    is_silent,
    last_line,
    latest_answer,
    reply,
    statements,
)
from orchestrator.kit.answers.latex import closing_values, leading_expression
from orchestrator.kit.answers.numbers import fraction_key, quantity


@dataclass(frozen=True, slots=True)
class Number:
    """One number. `relative_tolerance` 0.01 makes two numbers equal that differ by at most 1 % of
    the larger one.
    """

    relative_tolerance: float = 0.0

    in_process: ClassVar[bool] = True

    def extract(self, text: str, finished: bool) -> str | None:
        """The number stated last; if a finished reply states none, the one number that its last
        line states.
        """
        part = reply(text, finished)
        found = statements(part.text)
        if value := latest_answer(found, _read):
            return value
        if not part.finished or not is_silent(found):
            return None
        values = {quantity(value): value for value in closing_values(last_line(part.text))}
        return next(iter(values.values())) if len(values) == 1 and None not in values else None

    def canonical(self, answer: str) -> str:
        """`=n/d`, or `n/d` under a tolerance.

        What is no number equals only itself, whatever its case and spacing.
        """
        value = quantity(answer)
        if value is None:
            return "=" + " ".join(answer.casefold().replace("=", " ").split())
        return fraction_key(value) if self.relative_tolerance else "=" + fraction_key(value)

    def equivalent(self, a: str, b: str) -> bool:
        """Whether the values are equal, within the tolerance. Fast."""
        left, right = quantity(a), quantity(b)
        if left is None or right is None:
            return self.canonical(a) == self.canonical(b)
        return abs(left - right) <= Fraction(self.relative_tolerance) * max(abs(left), abs(right))


def _read(statement: Statement) -> str | None:
    """The number of a statement. Several boxes in one statement must agree."""
    texts = {
        leading_expression(text) or "" if statement.mark in (Mark.WORDS, Mark.LABEL) else text
        for text in statement.texts
    }
    values = {quantity(text): text for text in texts}
    return next(iter(values.values())) if len(values) == 1 and None not in values else None
