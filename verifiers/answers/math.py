r"""Answers that are mathematical expressions: numbers, formulas, tuples, sets, equations, a word.

The one rule: reading is linear and bounded and needs no algebra. Comparison uses sympy (through
math-verify), may hang or exhaust memory, and therefore happens only in a process that can be killed
(`orchestrator.runtime.answer_workers`). Nothing here sets a time limit: math-verify's own limits
use signals, which fail in threads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator.kit.answers.find import (
    MAX_ANSWER_CHARS,
    Mark,
    Statement,
    find_answer,
    first_sentence,
)
from orchestrator.kit.answers.latex import closing_values, leading_expression
from orchestrator.kit.answers.numbers import quantity, rational_key, tidy, unwrap

if TYPE_CHECKING:
    from verifiers.answers.algebra.values import Value

_NAME = re.compile(
    r"[A-Z][\w'’-]{1,40}(?: [A-Z][\w'’-]{0,40}){0,3}"
    r"|(?i:yes|no|true|false|none|undefined|infinitely many)"
)
_ALL_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_NAMES = re.compile(
    r"(?:(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|sqrt)(?:[xyztn]|theta|alpha|pi)?|frac"
    r"|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|pi|rho|sigma|phi|omega"
    r"|gcd|lcm|max|min|det",
)
_EMPTY = r"=\emptyset"
_ALL_REALS = r"=(-\infty,\infty)"
_SETS = {
    **dict.fromkeys(
        (
            *(r"\emptyset", r"\{\}", "ø", "∅", "empty set", "the empty set", "no solution"),
            *("no solutions", "no real solution", "no real solutions", "there is no solution"),
            *("there are no solutions", r"\text{no solution}", r"\text{no real solution}"),
        ),
        _EMPTY,
    ),
    **dict.fromkeys(
        (
            *(r"\mathbb{r}", r"(-\infty,\infty)", r"(-\infty, \infty)", "all real numbers"),
            *(
                "all reals",
                "the real numbers",
                "real numbers",
                "any real number",
                "all real values",
            ),
            *("the set of all real numbers", "set of all real numbers", "ℝ"),
        ),
        _ALL_REALS,
    ),
}
_BASED = re.compile(r"(\d[0-9A-Fa-f]{0,200})\s*_\s*(?:\{\s*(\d{1,3})\s*\}|(\d{1,2}))")


@dataclass(frozen=True, slots=True)
class Math:
    """Numbers and formulas, compared by algebra; suits most problem sets."""

    in_process: ClassVar[bool] = True

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the expression stated last.

        If a finished reply states none, return the only value in its last line.
        """
        return find_answer(text, finished, _read, self._read_last_line)

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
        from verifiers.answers.algebra.notation import Unreadable
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

    def _read_last_line(self, line: str) -> str | None:
        values = {self.canonical(value): value for value in closing_values(line)}
        return next(iter(values.values())) if len(values) == 1 else None


def _read(statement: Statement) -> str | None:
    if statement.mark in (Mark.WORDS, Mark.LABEL):
        words = statement.texts[0]
        if value := leading_expression(words):
            return value
        name = first_sentence(words).strip(" *_`\"'")
        return name if _NAME.fullmatch(name) else None
    if statement.mark is Mark.HASHES:
        text = statement.texts[0]
        return (
            text if quantity(text) is not None or unwrap(text) == leading_expression(text) else None
        )
    texts = [text for text in map(unwrap, statement.texts) if _normal(text)]
    return ", ".join(dict.fromkeys(texts)) or None


def _normal(answer: str) -> str:
    """Return the answer after one pass of normalisation: what it unwraps may be wrapped again."""
    value = quantity(answer)
    if value is not None:
        return rational_key(value)
    tidied = tidy(answer)
    text = unwrap(tidied.rstrip("\\ ") or tidied)
    bare = text.lstrip("= ")
    if bare.casefold() in _SETS:
        return _SETS[bare.casefold()]
    if all_text := _ALL_TEXT.fullmatch(bare):
        bare = all_text[1].strip(" .")
        if len(bare) > 1 and all(word.isalpha() for word in re.split(r"[\s'-]+", bare)):
            return "=" + " ".join(bare.casefold().split())
    if _is_words(bare):
        return "=" + " ".join(bare.casefold().split())
    if based := _BASED.fullmatch(bare):
        return f"={based[1]}_{based[2] or based[3]}"
    return " ".join(bare.split())


def _is_words(text: str) -> bool:
    """Tell whether an answer is prose: letters only, and no product of variables or functions."""
    words = text.replace("-", " ").replace("'", " ").split()
    if not words or not all(word.isalpha() for word in words):
        return False
    return any(len(word) > 1 and not _is_formula(word) for word in words)


def _is_formula(word: str) -> bool:
    """Tell whether a run of letters is a name of mathematics or a product of variables.

    A product has no vowels, as in `xy` and `mgh`, or is a beginning of the alphabet.
    """
    if word.casefold() in ("inf", "infinity"):
        return True
    if _NAMES.fullmatch(word):
        return True
    return (
        word.isascii()
        and len(word) <= 3
        and word.islower()
        and (not set(word) & set("aeiou") or word in ("ab", "abc", "ac", "ax", "ay", "az"))
    )


def _typed(text: str) -> Value | None:
    """Return the typed value of a canonical form; None where it is no mathematics."""
    from verifiers.answers.algebra.arithmetic import Undecided
    from verifiers.answers.algebra.notation import Unreadable
    from verifiers.answers.algebra.structure import read

    try:
        return read(text)
    except (Unreadable, Undecided, RecursionError):
        return None
