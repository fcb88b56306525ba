r"""Answers that are mathematical expressions: numbers, formulas, tuples, sets, equations, a word.

The one rule: reading is linear and bounded and needs no algebra. Comparison uses sympy (through
math-verify), may hang or exhaust memory, and therefore happens only in a process that can be killed
(`orchestrator.runtime.answer_workers`). Nothing here sets a time limit: math-verify's own limits
use signals, which fail in threads.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from orchestrator.kit.answers.find import find_answer, first_sentence
from orchestrator.kit.answers.latex import leading_expression, statement_values
from orchestrator.kit.answers.numbers import quantity, tidy, unwrap, without_name
from orchestrator.kit.answers.statements import MAX_ANSWER_CHARS, Mark, Statement

_NAME = re.compile(
    r"[A-Z][\w'’-]{1,40}(?: [A-Z][\w'’-]{0,40}){0,3}"
    r"|(?i:yes|no|true|false|none|undefined|infinitely many(?: solutions)?"
    r"|no (?:real |integer )?solutions?|does not exist|all real numbers|impossible|odd|even|prime"
    r"|composite|(?:ir)?rational|converge(?:s|nt)|diverge(?:s|nt))"
)
_MAX_TAG_CHARS = 200
_YES_OR_NO = re.compile(r"(?i:yes|no|true|false)(?=[,;:(—–]|\s+(?:because|since)\b)")
_ALL_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda"),
    *("mu", "pi", "rho", "sigma", "phi", "omega"),
)
_FUNCTIONS = re.compile(r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|sqrt|frac|log|ln|exp")
_CONJUNCTION = re.compile(
    r"\s*,?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*,?\s*"
)
_SPACE = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+")
_BASED = re.compile(r"(\d[0-9A-Fa-f]{0,200})\s*_\s*(?:\{\s*(\d{1,3})\s*\}|(\d{1,2}))")
_BARE_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")
_NUMERIC_LEFT_SIDE = re.compile(
    r"(?:\\(?:frac|cdot|times|sqrt|pi|div)(?![A-Za-z])|[^A-Za-z\\=,;<>])+="
)


@dataclass(frozen=True, slots=True)
class Math:
    """Numbers and formulas, compared by algebra; suits most problem sets."""

    in_process: ClassVar[bool] = True

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the expression stated last.

        If a finished reply states none, return the only value in its last line.
        """
        return find_answer(text, finished, self._read)

    def canonical(self, answer: str) -> str:
        r"""Return `=n/d` for a number and `=words` for words: complete.

        All other answers become LaTeX in a uniform spelling, which is not complete.
        `50\%` is 1/2 and not 50; `x = 5`, `5\text{ cm}`, `\$5` and `90^\circ` keep only the number.
        An answer of more than 2000 characters is only trimmed.
        """
        answer = " ".join(answer.split())
        before = None
        while answer != before and len(answer) <= MAX_ANSWER_CHARS:
            before = answer
            answer = _normal(answer)
        return answer if len(answer) <= MAX_ANSWER_CHARS else answer.lstrip("= ")

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the expressions are the same, in either direction. MAY HANG.

        Numbers compare exactly: 0.333 is not 1/3. Decimals inside larger expressions compare to six
        decimals. Call it only in a process that can be killed.
        """
        left, right = self.canonical(a), self.canonical(b)
        if left == right or (left.startswith("=") and right.startswith("=")):
            return left == right
        from math_verify import verify

        parsed_left, parsed_right = _parsed(left), _parsed(right)
        return any(
            verify(gold, target, timeout_seconds=None)
            for gold, target in ((parsed_left, parsed_right), (parsed_right, parsed_left))
        )

    def warm_up(self) -> None:
        """Import what `equivalent` needs, outside the first answer's time limit."""
        from math_verify import parse, verify

        # math-verify warns that its own time limits are off, which is intended
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        verify(
            parse("$x+1$", parsing_timeout=None),
            parse("$1+x$", parsing_timeout=None),
            timeout_seconds=None,
        )

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
            texts = [text for text in map(unwrap, values) if _normal(text)]
            return ", ".join(dict.fromkeys(texts)) or None
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
    named = answer.startswith("=")
    value = quantity(answer)
    if value is not None:
        return f"={value}"
    text = unwrap(tidy(answer))
    if "," not in text or text.count("=") < 2:  # "x=3, y=4" keeps its names
        text = unwrap(without_name(text))
    all_text = _ALL_TEXT.fullmatch(text)
    if all_text:
        text, named = all_text[1].strip(" ."), True
    if _is_words(text, named):
        return "=" + " ".join(text.casefold().split())
    if text in _GREEK:
        return "\\" + text
    if text.casefold() in ("infinity", "inf", "+infinity", "+\\infty"):
        return r"\infty"
    if based := _BASED.fullmatch(text):  # sympy would drop the base
        return f"={based[1]}_{based[2] or based[3]}"
    if equation := _NUMERIC_LEFT_SIDE.match(text):
        text = text[equation.end() :].strip()
    text = _CONJUNCTION.sub(",", _BARE_PI.sub(r"\\pi ", text)).strip(",")
    return _SPACE.sub(lambda match: f"{match[1]} " if match[1] else "", text).lstrip("= ")


def _is_words(text: str, named: bool) -> bool:
    """Tell whether an answer is prose.

    That is letters only, with a word that is neither a product of variables nor a function.
    """
    words = text.replace("-", " ").replace("'", " ").split()
    if (
        not words
        or not all(word.isalpha() for word in words)
        or text in _GREEK
        or _FUNCTIONS.match(text)
    ):
        return False
    if text.casefold() in ("infinity", "inf"):
        return False
    return any(len(word) > (1 if named else 3) or not word.isascii() for word in words)


def _parsed(canonical: str) -> list[Any]:
    """Return the sympy forms of a canonical form.

    Its text where it has none, so that it equals only itself.
    """
    from math_verify import LatexExtractionConfig, parse
    from sympy import Rational

    if canonical.startswith("="):
        try:
            value = Fraction(canonical[1:])
        except ValueError:
            return [canonical]
        return [Rational(value.numerator, value.denominator)]
    forms = parse(f"${canonical}$", [LatexExtractionConfig()], parsing_timeout=None)
    return list(forms) or [canonical]
