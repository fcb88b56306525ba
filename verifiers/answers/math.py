r"""Answers that are mathematical expressions: numbers, formulas, tuples, sets, equations, a word.

The one rule: reading is linear and bounded and needs no algebra. What an answer equals is decided
by `verifiers.answers.algebra`, which may hang or exhaust memory, and therefore runs only in a
process that can be killed (`orchestrator.runtime.answer_workers`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator.kit.answers.find import find_answer, first_sentence
from orchestrator.kit.answers.latex import leading_expression, statement_values
from orchestrator.kit.answers.numbers import quantity, rational_key, tidy, unwrap
from orchestrator.kit.answers.statements.explicit import statements
from orchestrator.kit.answers.statements.statement import MAX_ANSWER_CHARS, Mark, Statement
from verifiers.answers.algebra import words
from verifiers.answers.algebra.formulas.notation import compatible
from verifiers.answers.prose import is_prose

if TYPE_CHECKING:
    from verifiers.answers.algebra.values import Value

_NAME = re.compile(
    r"[A-Z][\w'’-]{1,40}(?: [A-Z][\w'’-]{0,40}){0,3}"
    r"|(?i:yes|no|true|false|none|undefined|infinitely many(?: solutions)?"
    r"|no (?:real |integer )?solutions?|does not exist|all real numbers|impossible|odd|even|prime"
    r"|composite|(?:ir)?rational|converge(?:s|nt)|diverge(?:s|nt))"
)
_MAX_TAG_CHARS = 200
_YES_OR_NO = re.compile(r"(?i:yes|no|true|false)(?=[,;:(—–]|\s+(?:because|since)\b)")
_ALL_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_BASED = re.compile(r"(\d[0-9A-Fa-f]{0,200})\s*_\s*(?:\{\s*(\d{1,3})\s*\}|(\d{1,2}))")


@dataclass(frozen=True, slots=True)
class Math:
    """Numbers and formulas, compared by algebra; suits most problem sets."""

    in_process: ClassVar[bool] = True
    expects: ClassVar[str] = "an expression or a few words, such as 3/4 or even"

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the expression stated last.

        If a finished reply states none, return the only value in its last line.
        """
        return find_answer(text, finished, self._read)

    def canonical(self, answer: str) -> str:
        r"""Return `=n/d` for a number, `=words` for words, a name for some sets: complete.

        All other answers become LaTeX in a uniform spelling, which is not complete; `resolve`
        completes it. An answer of more than 2000 characters is only trimmed.
        """
        answer = " ".join(answer.split())
        before = None
        while answer != before and len(answer) <= MAX_ANSWER_CHARS:
            before = answer
            answer = _normal(answer)
        return answer if len(answer) <= MAX_ANSWER_CHARS else answer.lstrip("= ")

    def resolve(self, answer: str) -> str:
        """Return the key of the answer's class: two answers are one exactly when it is the same.

        MAY HANG: call it only in a process that can be killed. An answer that is no mathematics
        has its text, between backquotes, as its key.
        """
        canonical = self.canonical(answer)
        if canonical.startswith("="):
            return canonical
        from verifiers.answers.algebra.formulas.notation import Unreadable
        from verifiers.answers.algebra.structure import as_text

        value = _typed(canonical)
        if value is not None:
            return value.key
        try:
            return as_text(canonical)
        except Unreadable:
            return f"=`{canonical}`"

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the answers have one key. MAY HANG, as `resolve`."""
        return self.resolve(a) == self.resolve(b)

    def describe(self, answer: str) -> str:
        """Return the type of an answer and its value, for people. MAY HANG, as `resolve`."""
        canonical = self.canonical(answer)
        value = _typed(canonical.removeprefix("="))
        if value is None or (canonical.startswith("=") and value.key != canonical):
            return f"words {canonical[1:]}" if canonical.startswith("=") else f"text {canonical}"
        return f"{value.kind} {value.shown}"

    def warm_up(self) -> None:
        """Import what `resolve` needs, outside the first answer's time limit."""
        self.resolve("x<1")

    def read_reference(self, text: str) -> str | None:
        """Return the answer that the text gives explicitly; a bare expression as it is.

        None for prose without an explicit answer.
        """
        if statements(text):
            return self.extract(text, finished=False)
        bare = text.strip()
        form = self.canonical(bare) if len(bare) <= MAX_ANSWER_CHARS else ""
        return bare if form.strip("=") and not is_prose(form) else None

    def _read(self, statement: Statement) -> str | None:
        values = statement_values(statement)
        if statement.mark is Mark.LAST_LINE:
            distinct = {self.canonical(value): value for value in values}
            return next(iter(distinct.values())) if len(distinct) == 1 else None
        if statement.mark is Mark.HASHES:
            text = values[0]
            is_all = unwrap(text) == leading_expression(text)
            return text if quantity(text) is not None or is_all else None
        if statement.mark is Mark.BOX:
            texts = {self.canonical(text): text for text in map(unwrap, values) if _normal(text)}
            return ", ".join(texts.values()) or None
        return values[0] if len(values) == 1 else _words(statement)


def _words(statement: Statement) -> str | None:
    """Return a name or another word: `Evelyn`, `No`; in a tag, whatever short text is there."""
    text = first_sentence(statement.texts[0]).strip(" *_`\"'")
    if statement.mark in (Mark.TAG, Mark.FIELD):
        text = unwrap(statement.texts[0])
        return text if len(text) <= _MAX_TAG_CHARS and "\n" not in text and _normal(text) else None
    reasoned = _YES_OR_NO.match(text)
    return reasoned[0] if reasoned else text if _NAME.fullmatch(text) else None


def _normal(answer: str) -> str:
    """Return the answer after one pass of normalisation: what it unwraps may be wrapped again."""
    value = quantity(answer)
    if value is not None:
        return rational_key(value)
    tidied = tidy(compatible(answer))
    text = unwrap(tidied.rstrip("\\ ") or tidied)
    bare = text.lstrip("= ")
    if key := words.key(bare):
        return key
    if upright := _ALL_TEXT.fullmatch(bare):  # \text{9 and 7}
        bare = upright[1].strip(" .")
    if based := _BASED.fullmatch(bare):
        return f"={based[1]}_{based[2] or based[3]}"
    return " ".join(bare.split())


def _typed(text: str) -> Value | None:
    """Return the typed value of a canonical form; None where it is no mathematics."""
    from verifiers.answers.algebra.formulas.notation import Unreadable
    from verifiers.answers.algebra.numbers.arithmetic import Undecided
    from verifiers.answers.algebra.structure import read

    try:
        return read(text)
    except (Unreadable, Undecided, RecursionError):
        return None
