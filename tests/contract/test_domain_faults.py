"""The contract of a domain can fail: each fault is caught by its rule, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from orchestrator.testing import (
    check_domain,
)


@dataclass(frozen=True)
class Words:
    """A sound domain, to break: the word after "the answer is"."""

    in_process: ClassVar[bool] = True

    def extract(self, text: str, finished: bool) -> str | None:
        words = text.rpartition("The answer is ")[2].split() if "The answer is " in text else []
        return words[0].rstrip(".") or None if words else None

    def canonical(self, answer: str) -> str:
        return "=" + answer.removeprefix("=").strip().lower()

    def equivalent(self, a: str, b: str) -> bool:
        return self.canonical(a) == self.canonical(b)


@dataclass(frozen=True)
class Guesses(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        return text.split()[-1] if text.split() else None


@dataclass(frozen=True)
class Empty(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        return ""


@dataclass(frozen=True)
class Raises(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        return str(int(text)) if finished else None


@dataclass(frozen=True)
class Unread(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        return Words.extract(self, text, finished) if finished else None


@dataclass(frozen=True)
class Unstable(Words):
    def canonical(self, answer: str) -> str:
        return "=" + answer + "!"


@dataclass(frozen=True)
class Lopsided(Words):
    def equivalent(self, a: str, b: str) -> bool:
        return a <= b


@dataclass(frozen=True)
class ToldApart(Words):
    def equivalent(self, a: str, b: str) -> bool:
        return a == b


@dataclass(frozen=True)
class HalfComplete(Words):
    def equivalent(self, a: str, b: str) -> bool:
        return True


@dataclass(frozen=True)
class Near(Words):
    def canonical(self, answer: str) -> str:
        return "~" + answer.lstrip("=~")

    def equivalent(self, a: str, b: str) -> bool:
        return abs(len(a) - len(b)) <= 2


@dataclass(frozen=True)
class KeyedApart(Words):
    def resolve(self, answer: str) -> str:
        return "=" + answer.removeprefix("=")


@dataclass(frozen=True)
class KeyedTogether(Words):
    def canonical(self, answer: str) -> str:
        return answer.lstrip("=").strip().lower()

    def resolve(self, answer: str) -> str:
        return "=x"


@dataclass(frozen=True)
class Quadratic(Words):
    def extract(self, text: str, finished: bool) -> str | None:
        for end in range(len(text)):
            text[:end].count("zz")
            [c for c in text[:end] if c == "z"]
        return Words.extract(self, text, finished)


@dataclass(frozen=True)
class MisreadReferences(Words):
    def read_reference(self, text: str) -> str | None:
        return text.strip() or None


@dataclass(frozen=True)
class EmptyReferences(Words):
    def read_reference(self, text: str) -> str | None:
        return self.extract(text, True) or ""


@dataclass(frozen=True)
class AcceptsNothing(Words):
    def accepts(self, answer: str, reference: str) -> bool:
        return False


@dataclass(frozen=True)
class DescribesAtLength(Words):
    def describe(self, answer: str) -> str:
        return f"words\n{answer}"


@pytest.mark.parametrize(
    ("domain", "rule"),
    [
        (Guesses(), "a truncated text abstains"),
        (Empty(), "extract"),
        (Raises(), "extract raises nothing"),
        (Unread(), "stated answers are read"),
        (Unstable(), "canonical is idempotent"),
        (Lopsided(), "equivalent is symmetric"),
        (ToldApart(), "equal forms are equivalent"),
        (HalfComplete(), "complete forms decide"),
        (Near(), "equivalent is transitive"),
        (KeyedApart(), "resolve keeps complete forms"),
        (KeyedTogether(), "keys decide"),
        (Quadratic(), "linear time in process"),
        (MisreadReferences(), "references are read"),
        (EmptyReferences(), "read_reference"),
        (AcceptsNothing(), "an answer accepts itself"),
        (DescribesAtLength(), "describe"),
    ],
)
def test_a_broken_domain_is_caught_by_its_rule(domain: Any, rule: str) -> None:
    """A check that cannot fail is worth nothing."""
    with pytest.raises(AssertionError, match=rf"^{rule}: "):
        check_domain(
            domain,
            stated=[("The answer is yes.", "yes"), ("The answer is no.", "no")],
            equal=[("Yes", "yes")],
            different=[("yes", "maybe")],
        )


def test_a_sound_domain_passes() -> None:
    """Else the broken ones above, made from it, would prove nothing."""
    check_domain(
        Words(),
        stated=[("The answer is yes.", "yes"), ("The answer is no.", "no")],
        equal=[("Yes", "yes")],
    )
