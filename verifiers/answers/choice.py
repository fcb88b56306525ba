"""Answers that are one letter of a multiple-choice question.

The one rule: a letter counts only if it is unambiguous: "A man went home" does not choose A. The
text of an option is never matched against the question; only letters are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.kit.answers.find import Mark, Statement, find_answer

_NOUNS = ("answer", "option", "choice")
_DECORATION = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathbb|boxed|fbox|left|right|rm|bf)\b\s?"
    r"|\\[,;! (\[)\]]|[$*_`\"'“”‘’{}]"
)
_LABEL = re.compile(r"^(?:the )?(?:correct )?(?:option|choice|answer|letter)\s{1,3}", re.IGNORECASE)
_BECAUSE = r"because|since|as|for|due|which|with|so|given|based|is\b|\("


@dataclass(frozen=True, slots=True)
class Choice:
    """One letter of a multiple-choice question."""

    letters: Annotated[
        str, Meta(min_length=1, description="The letters of the choices, such as 'ABCD'.")
    ] = "ABCDEFGHIJ"

    in_process: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.letters.isalpha() or len(set(self.letters.upper())) != len(self.letters):
            raise ValueError(
                f"letters must be different letters such as 'ABCD', not {self.letters!r}"
            )

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the letter stated last.

        If a finished reply states none, return that of its last line: `B`, `B) Paris`, "so (B)".
        """
        return find_answer(text, finished, self._read, self._from_last_line, _NOUNS)

    def canonical(self, answer: str) -> str:
        """Return `=` and the capital letter.

        Any other text equals only itself, ignoring case and spacing.
        """
        letter = self._letter(answer.strip().removeprefix("="))
        return (
            f"={letter}" if letter else "=" + " ".join(answer.casefold().replace("=", " ").split())
        )

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the letters are the same. Fast."""
        return self.canonical(a) == self.canonical(b)

    @property
    def expects(self) -> str:
        """What a reference must be."""
        return f"one letter of {self.letters.upper()}, not an index"

    def read_reference(self, text: str) -> str | None:
        """Return the letter of a bare choice ("B", "(B)", "B. Paris"), else an explicit one.

        An index such as 2 is not a letter: files count from 0 or from 1.
        """
        return self._from_words(text) or self.extract(text, finished=False)

    def _read(self, statement: Statement) -> str | None:
        read = self._from_words if statement.mark in (Mark.WORDS, Mark.LABEL) else self._letter
        letters = {read(text) for text in statement.texts}
        return letters.pop() if len(letters) == 1 else None

    def _letter(self, text: str) -> str | None:
        """Return the letter of a text that consists only of a choice.

        Examples are `B`, `(b)`, `B.`, `(B) 15`, `B: Paris` and `option B`.
        """
        text = _LABEL.sub("", _bare(text))
        match = re.match(rf"\(?([{self._both}])(?:\)|[.:](?=\s|$)|$)|\[([{self._both}])\]", text)
        return self._upper(match) if match else None

    def _from_words(self, text: str) -> str | None:
        """Return the letter that begins a phrase.

        None when more letters follow ("A or B"), or when it begins a word or a sentence.
        """
        text = _LABEL.sub("", _bare(text))
        decorated = rf"\(([{self._both}])\)|\[([{self._both}])\]|([{self._both}])\)"
        upper = (
            rf"([{self.letters.upper()}])(?=[.:,;]?\s*$|[.:](?=\s|[A-Z])|[,;]\s|\s+(?i:{_BECAUSE}))"
        )
        alone = rf"([{self._both}])(?=[.!]?$)"
        match = re.match(rf"(?:{decorated}|{upper}|{alone})", text)
        if not match:
            return None
        more = re.match(
            rf"\s*(?:,|/|&|\band\b|\bor\b)+\s*(?:and |or )?\(?[{self.letters.upper()}]\b(?!')",
            text[match.end() :],
        )
        return None if more else self._upper(match)

    def _from_last_line(self, line: str) -> str | None:
        bare = _bare(line)
        if letter := self._letter(bare):
            return letter
        upper = self.letters.upper()
        named = rf"\(([{upper}])\)|\b(?i:option|choice)\s{{1,3}}\(?([{upper}])\b(?!')"
        letters = {self._upper(match) for match in re.finditer(named, bare)}
        return letters.pop() if len(letters) == 1 else None

    @property
    def _both(self) -> str:
        return self.letters.upper() + self.letters.lower()

    @staticmethod
    def _upper(match: re.Match[str]) -> str:
        return next(group for group in match.groups() if group).upper()


def _bare(text: str) -> str:
    return _DECORATION.sub("", text[:2000]).strip()
