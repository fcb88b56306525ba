"""Answers in words, compared by their normal form.

The one rule: two answers are the same when they differ only in case, spacing, Unicode form, quotes,
emphasis, or punctuation at the ends of words. Articles, word order, synonyms and spelling count.
Not covered: meaning, which needs a judge.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.kit.answers.find import first_sentence, latest_answer, reply
from orchestrator.kit.answers.statements.explicit import statements
from orchestrator.kit.answers.statements.statement import MAX_ANSWER_CHARS, Mark, Statement

_MAX_TERSE_CHARS = 100  # a reply of one line this short is taken to be the answer itself
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|boxed|fbox)\s?\{([^{}]*)\}")
_QUOTES = str.maketrans("‘’“”«»–—−‐", '\'\'""""----')
_AROUND_WORDS = re.compile(
    r"(?:^|(?<=\s))[\"'`*_(\[{=.,;:!?]+(?=\w)|(?<=\w)[\"'`*_)\]}.,;:!?]+(?=\s|$)"
)


@dataclass(frozen=True, slots=True)
class Text:
    """Words, compared without regard to case, spacing and punctuation."""

    in_process: ClassVar[bool] = True
    expects: ClassVar[str] = "words"

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the last box, `<answer>` tag or JSON member "answer".

        Without one, return the words after the last "the answer is" (one sentence) or on a
        closing `####` line. If a finished reply has none of these, return the reply itself if it is
        one line of at most 100 characters. Boxes have priority because any words may follow "the
        answer is".
        """
        part = reply(text, finished)
        places = statements(part.text)
        boxes = [s for s in places if s.mark in (Mark.BOX, Mark.TAG, Mark.FIELD)]
        if value := latest_answer(boxes, _read):
            return value
        others = [s for s in places if s.mark in (Mark.WORDS, Mark.LABEL) or _closes(s, part.text)]
        if value := latest_answer(others, _read):
            return value
        terse = part.text.strip()
        if (
            part.finished
            and not boxes
            and not others
            and "\n" not in terse
            and 0 < len(terse) <= _MAX_TERSE_CHARS
        ):
            return _clean(terse) or None
        return None

    def canonical(self, answer: str) -> str:
        """Return `=` and the normal form of the text: complete.

        That is NFKC, casefolded, single-spaced, without punctuation at the ends of words.
        """
        plain = answer.strip().lstrip("= ")
        before = None
        while plain != before and len(plain) <= MAX_ANSWER_CHARS:
            before = plain
            plain = unicodedata.normalize(
                "NFKC", unicodedata.normalize("NFKC", plain).casefold()
            ).translate(_QUOTES)
            plain = (
                _AROUND_WORDS.sub("", " ".join(_TEXT_COMMAND.sub(r"\1", plain).split()))
                .strip()
                .lstrip("=")
                .strip()
            )
        return "=" + plain

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the normal forms are the same. Fast."""
        return self.canonical(a) == self.canonical(b)

    def read_reference(self, text: str) -> str | None:
        """Return the answer that the text gives explicitly, else the whole text."""
        answer = self.extract(text, finished=False) or text.strip()
        return None if self.canonical(answer) == "=" else answer


def _closes(statement: Statement, text: str) -> bool:
    """Tell whether it is a `####` line at the end: elsewhere such lines are headings."""
    return statement.mark is Mark.HASHES and not text[statement.end :].strip()


def _read(statement: Statement) -> str | None:
    if statement.mark in (Mark.WORDS, Mark.LABEL):
        words = _clean(first_sentence(statement.texts[0]))
        if statement.language and statement.language.endings:
            words = _clean(re.sub(rf"(?:{statement.language.endings})$", "", words))
        return words or None
    return ", ".join(dict.fromkeys(text for text in map(_clean, statement.texts) if text)) or None


def _clean(text: str) -> str:
    """Return the text without emphasis, formula delimiters and a closing full stop."""
    text = _TEXT_COMMAND.sub(r"\1", text).strip().strip("*_`").strip()
    if len(text) > 2 and text.startswith("$") and text.endswith("$"):
        text = text.strip("$").strip()
    text = text.removesuffix(".") if not re.search(r"\b[A-Z]\.$", text) else text
    return text.strip().strip('*_`"“”').strip()
