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

from orchestrator.kit.answers.find import (
    MAX_ANSWER_CHARS,
    Mark,
    Statement,
    find_answer,
    first_sentence,
    statements,
)
from orchestrator.kit.answers.latex import closing_values, leading_expression
from orchestrator.kit.answers.numbers import quantity, tidy, unwrap, without_name
from orchestrator.kit.answers.prose import is_prose

_NAME = re.compile(
    r"[A-Z][\w'’-]{1,40}(?: [A-Z][\w'’-]{0,40}){0,3}"
    r"|(?i:yes|no|true|false|none|undefined|infinitely many)"
)
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
    expects: ClassVar[str] = "an expression or a few words, such as 3/4 or even"

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the expression stated last.

        If a finished reply states none, return the only value in its last line.
        """
        return find_answer(text, finished, _read, self._read_last_line)

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

    def read_reference(self, text: str) -> str | None:
        """Return the answer that the text gives explicitly; a bare expression as it is.

        None for prose without an explicit answer.
        """
        if statements(text):
            return self.extract(text, finished=False)
        bare = text.strip()
        if quantity(bare) is not None:
            return bare
        is_answer = 0 < len(bare) <= MAX_ANSWER_CHARS and _normal(bare) and not is_prose(bare)
        return bare if is_answer else None

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
