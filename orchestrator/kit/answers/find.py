r"""Finding the answer in a reply: its last statement, else what its closing line says.

    answer = find_answer(text, finished, read)

This module decides *which* place counts, and finds sentences and formulas in it.
`kit.answers.statements` knows what the places look like, and the domain whether the text there is
an answer, and of what kind. Linear time on any text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from orchestrator.kit.answers.languages import language_of
from orchestrator.kit.answers.numerals import ascii_forms
from orchestrator.kit.answers.statements.explicit import statements
from orchestrator.kit.answers.statements.phrases import without_list_mark
from orchestrator.kit.answers.statements.statement import Mark, Statement
from orchestrator.kit.answers.tags import may_have_tags
from orchestrator.kit.answers.thinking import split

_SENTENCE_END = re.compile(
    r"[.!?](?:[*_\"'”)]{0,3})(?=\s|$)|[.!?](?=[A-Z][a-z]|[^\x00-\x7f])|[。！？।؟]"
)
_FORMULA = re.compile(
    r"\$[^$]{1,500}\$|\\\([^\\]{1,500}(?:\\[^)][^\\]{0,500}){0,200}\\\)|\\\[.{1,2000}?\\\]"
)
_EQUALS = re.compile(r"(?<![<>!=:\\])=(?!=)")
_BRACED = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*){0,20}\}")
_NAME = re.compile(
    r"(?:\\?[A-Za-z]+(?:_(?:\w|\{[^{}]{1,20}\}))?'{0,2}(?:\([^()]{1,20}\))?|\\(?:text|mathrm)\{[^{}]*\}.{0,20})"
)


# "x = 2 or x = 3"
SEVERAL_EQUATIONS = re.compile(
    r"\b[A-Za-z]\s?=[^=]{1,80}?(?:,|\b(?:or|and|oder|und|ou|et|o|y|e|или|и)\b|或|和)"
    r"(?:[\s}]|\\q?quad|\\[,; ]){0,6}[A-Za-z]\s?="
)
_ALIGNMENT = re.compile(
    r"\\begin\{((?:align(?:ed)?|gather(?:ed)?|split|equation|eqnarray|multline)\*?)\}(.*?)\\end\{\1\}",
    re.DOTALL,
)
_ENDS_ALIGNMENT = re.compile(
    r"\\end\{((?:align(?:ed)?|gather(?:ed)?|equation|eqnarray|multline)\*?)\}[.\s]{0,4}$"
)
_MAX_TURN_CHARS = 48
_MAX_ENDS_OF_TURN = 4
_END_OF_TURN = re.compile(
    r"(?:<\|[a-z_]{2,24}\|>(?:user|assistant)?|</s>|<eos>|<end_of_turn>|<｜[a-z▁]{2,24}｜>)\s{0,8}$"
)
_STYLED = re.compile(r"\\(?:mathbf|boldsymbol|bm|textbf|mathit)\s?\{(.*)\}", re.DOTALL)
_ABBREVIATIONS = frozenset(
    [
        "Mr",
        "Mrs",
        "Ms",
        "Dr",
        "St",
        "Mt",
        "Jr",
        "Sr",
        "Prof",
        "vs",
        "etc",
        "approx",
        "No",
        "Rs",
        "sq",
        "cu",
        "fl",
    ]
)
_CLOSING_FENCE = re.compile(r"(?:^|\n)[ \t]{0,3}`{3,}[ \t]*$")
_FENCE_LINE = re.compile(r"^[ \t]{0,3}`{3,}[ \t]*([\w-]{0,20})[ \t]*$", re.MULTILINE)
_ARROW = re.compile(r"^([*_$]{0,3})(?:[-=]{1,2}>|[→⇒]|\\(?:Right|right)arrow(?![A-Za-z]))\s{0,3}")
_PROSE_FENCES = ("", "text", "txt", "plaintext", "plain", "math", "latex", "tex", "markdown", "md")


_NEXT_FORMULA = re.compile(r"\s{0,3}(?:,\s{0,3}(?:and|or)?|and|or)\s{0,3}(?=\$|\\\()")
_PAIRS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_OPENING = re.compile(r"\$\$?|\\[(\[]")
_PERCENT = re.compile(r"\s?(?:\\?%|(?:percent(?:age)?|per cent|pct)\b)", re.IGNORECASE)


class Reply(NamedTuple):
    """The part of a text in which answers count, and whether the text is complete."""

    text: str
    finished: bool


def find_answer(
    text: str,
    finished: bool,
    read: Callable[[Statement], str | None],
    nouns: tuple[str, ...] = ("answer",),
    fallbacks: tuple[Callable[[str], Statement], ...] | None = None,
) -> str | None:
    """Return the last explicit answer; if a finished reply has none, that of its last line.

    `fallbacks` are other places to look at instead, in order. Digits and signs of other scripts are
    ASCII in the statements that are read.
    """
    part = reply(text, finished)
    content = ascii_forms(part.text)
    found = statements(content, nouns)
    if value := latest_answer(found, read):
        return value
    if not part.finished or not is_silent(found):
        return None
    for place in fallbacks or (last_line,):
        if value := read(place(content)):
            return value
    return None


def reply(text: str, finished: bool) -> Reply:
    """Return the text without its thinking. A text that ends inside its thinking is unfinished."""
    for _ in range(_MAX_ENDS_OF_TURN if "<" in text[-_MAX_TURN_CHARS:] else 0):
        if ends := _END_OF_TURN.search(text[-_MAX_TURN_CHARS:]):
            text = text[: len(text[:-_MAX_TURN_CHARS]) + ends.start()]
    if not may_have_tags(text):
        return Reply(text, finished)
    parts = split(text, finished)
    return Reply(parts.reply_text, finished and not parts.is_open)


def latest_answer(
    candidates: list[Statement], read: Callable[[Statement], str | None]
) -> str | None:
    """Return the latest answer that `read` finds in a statement and that is not denied later."""
    denied: set[str] = set()
    for statement in reversed(candidates):
        value = read(statement)
        if value is None:
            continue
        if statement.denied:
            denied.add(value)
        elif value not in denied:
            return value
    return None


def is_silent(candidates: list[Statement]) -> bool:
    """Tell whether no explicit answer is given; then a fallback may read the reply's last line.

    A failed statement (an empty box, "is not 5", "is between 5 and 6") is not silence. A label
    alone is: the text after `Answer:` is often a solution or a sentence.
    """
    return all(statement.mark is Mark.LABEL and not statement.denied for statement in candidates)


def last_line(text: str) -> Statement:
    r"""Return the last non-empty line, without a list mark.

    A closing display formula (`$$…$$`, `\[…\]`) is one line. The last line of a closing fence
    counts unless the fence names a programming language.
    """
    text = text.rstrip()
    language = language_of(text)
    if _CLOSING_FENCE.search(text[-200:]):
        fences = list(_FENCE_LINE.finditer(text))
        if len(fences) % 2 == 0 and fences[-2][1].lower() in _PROSE_FENCES:
            text = text[fences[-2].end() : fences[-1].start()].rstrip()
    start = text.rfind("\n") + 1
    line = _ARROW.sub(r"\1", without_list_mark(text[start:].strip()), count=1)
    for left, right in ((r"\[", r"\]"), ("$$", "$$")):
        bare = text.rstrip(".")
        if bare.endswith(right) and (at := bare.rfind(left, 0, len(bare) - len(right))) >= 0:
            # the formula stands alone, or ends the last line
            line = bare[at:].replace("\n", " ") if at < start else line
            break
    if (ends := _ENDS_ALIGNMENT.search(text[-40:])) and (
        at := text.rfind(f"\\begin{{{ends[1]}}}")
    ) >= 0:
        line = f"$${text[at:].strip(' .')}$$".replace("\n", " ")
    return Statement(Mark.LAST_LINE, (line,), start, len(text), language=language)


def first_sentence(text: str) -> str:
    """Return the text up to the end of its first sentence or first line."""
    line = text.split("\n", 1)[0]
    return line[: next(_sentence_ends(line), (len(line), 0))[0]]


def sentences(line: str) -> list[str]:
    """Return the sentences of a line, without the signs that end them; a formula stays whole."""
    found, start = [], 0
    formulas = [match.span() for match in _FORMULA.finditer(line)]
    for end, following in _sentence_ends(line):
        if any(left < end < right for left, right in formulas):
            continue
        found.append(line[start:end])
        start = following
    return [sentence.strip() for sentence in (*found, line[start:]) if sentence.strip()]


def _sentence_ends(line: str) -> Iterator[tuple[int, int]]:
    """Yield where the sentences of a line end, and where the next one may begin."""
    for match in _SENTENCE_END.finditer(line):
        word = re.search(r"(\w{1,12})$", line[max(0, match.start() - 12) : match.start()])
        if match[0] == "." and word:
            following = line[match.end() :].lstrip(" #")[:1]
            is_initial = len(word[1]) == 1 and word[1].isupper() and match.end() < len(line)
            is_short_form = word[1] in _ABBREVIATIONS and (word[1] != "No" or following.isdigit())
            if is_initial or is_short_form:
                continue
        yield match.start(), match.end()


def leading_formulas(words: str) -> tuple[list[str], str]:
    """Return the formulas at the start of a phrase, joined by commas or "and", and the rest."""
    contents: list[str] = []
    rest = words
    while (formula := _formula(rest)) and len(contents) < 16:
        content, rest = unstyled(formula[0]), formula[1]
        if percent := _PERCENT.match(rest):
            content, rest = content + "%", rest[percent.end() :]
        contents.append(content)
        following = _NEXT_FORMULA.match(rest)
        if not following:
            break
        rest = rest[following.end() :]
    return contents, rest


def _formula(text: str) -> tuple[str, str] | None:
    """Return the content of the formula at the start of a text, and the text after it.

    `$18 and $20` are two prices, not a formula.
    """
    for left, right in _PAIRS:
        if not text.startswith(left):
            continue
        end = text.find(right, len(left))
        while end > 0 and text[end - 1] == "\\" and left == "$":
            end = text.find(right, end + 1)
        content = text[len(left) : end] if end > 0 else ""
        price = (
            left == "$"
            and content[:1].isdigit()
            and (content[-1:].isspace() or text[end + 1 : end + 2].isdigit())
        )
        return (
            (content.strip(), text[end + len(right) :]) if content.strip() and not price else None
        )
    return None


def first_formula(line: str) -> int:
    """Return where the first formula of a line may begin; -1 if nothing opens one."""
    opened = _OPENING.search(line)
    return opened.start() if opened else -1


def formulas_in(line: str) -> list[str]:
    r"""Return the contents of the formulas of a line: `$…$`, `$$…$$`, `\(…\)`, `\[…\]`."""
    contents: list[str] = []
    at = 0
    while (opened := _OPENING.search(line, at)) and len(contents) < 16:
        formula = _formula(line[opened.start() :])
        if not formula:
            at = opened.end()
            continue
        content, rest = formula
        at = len(line) - len(rest)
        contents.append(unstyled(content) + ("%" if _PERCENT.match(rest) else ""))
    return contents


def right_side(formula: str) -> str:
    """Return what a formula says of its left side: `5` of `x = 2 + 3 = 5`.

    Several equations stay whole, and so does one in unknowns whose right side is 0.
    """
    formula = _exact(_unaligned(formula))
    if SEVERAL_EQUATIONS.search(formula):
        return formula.strip(" .,;")
    # an equals sign in braces belongs to an index: \\sum_{n=1}
    masked = _BRACED.sub(lambda match: "?" * len(match[0]), formula)
    signs = [match.start() for match in _EQUALS.finditer(masked)]
    if not signs:
        return formula.strip()
    right = formula[signs[-1] + 1 :].strip(" .,;")
    left = formula[: signs[0]].strip()
    if right == "0" and not _NAME.fullmatch(left) and re.search(r"[A-Za-hj-z]", left):
        return formula.strip(" .,;")
    # (2 + 3 = 5)
    return right.removesuffix(")") if right.count(")") > right.count("(") else right


def without_steps(formula: str) -> str:
    """Return `11` of `5 + 6 = 11`; an equation with a name or an unknown stays whole."""
    formula = _exact(formula)
    if _ALIGNMENT.search(formula):
        return right_side(formula)
    left, sign, _ = formula.rpartition("=")
    return right_side(formula) if sign and not re.search(r"[A-Za-z<>≤≥]", left) else formula


def _exact(formula: str) -> str:
    """Return a formula without the approximation behind it: `9/2` of `9/2 ≈ 4.5`."""
    exact, sign, approximate = formula.partition(r"\approx")
    if not sign:
        exact, sign, approximate = formula.partition("≈")
    is_name = not exact.strip() or _NAME.fullmatch(exact.strip())
    return (approximate if is_name else exact).strip() if sign else formula


def _unaligned(formula: str) -> str:
    """Return the equations of an alignment, joined by commas."""
    alignment = _ALIGNMENT.search(formula)
    return (
        re.sub(r"\s*\\\\\s*", ", ", alignment[2].replace("&", "")).strip(" ,")
        if alignment
        else formula
    )


def unstyled(formula: str) -> str:
    """Return a formula without the bold or slanted type that all of it is set in."""
    styled = _STYLED.fullmatch(formula.strip())
    inner = styled[1] if styled else ""
    depths = [0]
    for brace in re.findall(r"(?<!\\)[{}]", inner):
        depths.append(depths[-1] + (1 if brace == "{" else -1))
    return inner if styled and min(depths) == 0 == depths[-1] else formula
