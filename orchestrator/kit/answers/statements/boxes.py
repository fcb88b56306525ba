r"""Answers in boxes: `\boxed{4}`, `\fbox{4}`, `\boxed 4`, and several that are one list.

The content comes with its sign, factor and percent sign outside of the box; a box that is a part
of a formula, or has a placeholder in it, has an empty content. Linear time on any text.
"""

from __future__ import annotations

import re

from orchestrator.kit.answers.languages import Language, language_of
from orchestrator.kit.answers.statements.statement import (
    CONTEXT,
    MAX_ANSWER_CHARS,
    MAX_STATEMENTS,
    Mark,
    Statement,
)

_MAX_BOXES = 16  # of one list
_BETWEEN_CHARS = 64  # of what may join two boxes
_BOX = r"\\(?:boxed|fbox|framebox)"
_BRACES = re.compile(rf"{_BOX}\s*\{{|\\\\(?!boxed|fbox|framebox)|\\[{{}}]|[{{}}]")
# \boxed 5, without braces
_BARE_BOX = re.compile(rf"{_BOX}[ \t]{{1,3}}([+-]?[\d.,/]{{1,40}}|[A-Za-z](?![A-Za-z]))")
_SPACES = r"(?:\s|\$|\\[()\[\]]|\\[,;: ]|\\q?quad(?![A-Za-z])|\*\*|~|\.(?=\$))"
_AND = (
    r"(?:,|;|&|、|，|(?:and|or|und|oder|et|ou|o|y|e|和|或|и|или)(?![^\W\d_])"
    r"|\\(?:text|mbox|textrm|mathrm)\s?\{\s?,?\s?(?:and|or|,|und|oder|et|ou|y|o|e)\s?\}"
    r"|\\(?:q?quad|l?or|vee)(?![A-Za-z]))"
)
_BETWEEN_BOXES = re.compile(rf"{_SPACES}*(?:{_AND}{_SPACES}*){{1,4}}(?:([A-Za-z])\s?=\s?)?")
_NAME_BEFORE = re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s?=\s?$")
_FACTOR_AFTER = re.compile(
    r"\s?(?:\\pi(?![A-Za-z])|π|\\sqrt(?:\[\d\])?\{[^{}]{1,20}\})|[a-z](?![A-Za-z])"
)
_SIGN_BEFORE = re.compile(r"(?:^|[=$(,;:]|\\[(\[]|[A-Za-z]{2})\s?[-−]\s?$")
_PLACEHOLDER = re.compile(
    r"[\s?._…\\~]{1,40}|\\(?:l?dots|square|_{1,9}|[hv]?phantom\s?\{[^{}]*\})"
    r"|(?:\\text\s?\{\s?)?(?:(?:your|the|my|insert|final) ){0,3}answer(?: here)?(?:\s?\})?"
)
_APPROXIMATED = re.compile(rf"{_SPACES}{{0,4}}(?:\\approx(?![A-Za-z])|≈){_SPACES}{{0,4}}")
# the box is a part of a larger formula
_PART_BEFORE = re.compile(r"(?:\\(?:sqrt|[dt]?frac)\s?\{|\d|\}\s?[+*/]\s?|\}\s?\{)$")
_PART_AFTER = re.compile(r"\s?(?:\^(?!\s?\{?\s?\\circ)|\+\s?C\b|[+*/]\s?\\boxed|\}\s?\{\\boxed)")
_APPROXIMATE = re.compile(r"\s{0,3}(?:\\approx|≈)")
_SCALE_AFTER = re.compile(
    r"(?:\$|\\\)|\*\*|\s)*?[ \t](hundred|thousand|million|billion|trillion)(?![A-Za-z])",
    re.IGNORECASE,
)
_PERCENT_AFTER = re.compile(
    r"(?:\$|\\\)|\*\*|\s)*?\s?(?:\\?[%％]|(?:percent(?:age)?|per cent|pct)(?![A-Za-z]))",
    re.IGNORECASE,
)
_DENIED_BEFORE = re.compile(r"\bnot\b[\s$(\\\[*]{0,6}$", re.IGNORECASE)


def boxes(text: str) -> list[Statement]:
    """Return the outermost boxes in order; boxes joined by a comma or a conjunction are one.

    An unclosed box has an empty text.
    """
    # an opening brace: None, or the start and content start of a box
    stack: list[tuple[int, int] | None] = []
    spans: list[tuple[int, int, str]] = []
    for match in _BRACES.finditer(text):
        token = match[0]
        if token == "}":
            opened = stack.pop() if stack else None
            if opened is not None:
                while spans and spans[-1][0] > opened[0]:
                    spans.pop()
                spans.append((opened[0], match.end(), text[opened[1] : match.start()].strip()))
        elif token == "{":
            stack.append(None)
        elif token.endswith("{") and len(token) > 2:
            stack.append((match.start(), match.end()))
    spans += [(opened[0], opened[1], "") for opened in stack if opened is not None]
    spans += [
        (match.start(), match.end(), match[1].rstrip(".,")) for match in _BARE_BOX.finditer(text)
    ]
    spans.sort()
    return _joined(text, spans)


def _joined(text: str, spans: list[tuple[int, int, str]]) -> list[Statement]:
    candidates: list[Statement] = []
    for start, end, content in spans:
        content = content if len(content) <= MAX_ANSWER_CHARS else ""
        if _PLACEHOLDER.fullmatch(content):
            content = ""
        if candidates and _APPROXIMATE.match(content):
            continue  # the exact value stands before it
        if candidates and _APPROXIMATED.fullmatch(text[candidates[-1].end : start][:24]):
            continue
        if _PART_BEFORE.search(text, max(0, start - 12), start) or _PART_AFTER.match(text, end):
            content = ""
        content = _with_neighbours(text, start, end, content)
        if content and (percent := _PERCENT_AFTER.match(text, end, end + 24)):
            content, end = content + r"\%", percent.end()
        elif content[-1:].isdigit() and (scale := _SCALE_AFTER.match(text, end, end + 24)):
            content, end = f"{content} {scale[1]}", scale.end()
        last = candidates[-1] if candidates else None
        between = None
        if last and start - last.end <= _BETWEEN_CHARS and len(last.texts) < _MAX_BOXES:
            between = _BETWEEN_BOXES.fullmatch(text, last.end, start)
        if last and between:
            candidates[-1] = _extended(text, last, content, end, between[1])
        else:
            denied = _DENIED_BEFORE.search(text, max(0, start - 12), start) is not None
            language = _box_language(text, start, content)
            candidates.append(Statement(Mark.BOX, (content,), start, end, denied, language))
    return candidates[-MAX_STATEMENTS:]


def _with_neighbours(text: str, start: int, end: int, content: str) -> str:
    r"""Return the content of a box with its sign and its factor: `-\\boxed{9}\\pi` is `-9\\pi`."""
    if not content:
        return ""
    factor = _FACTOR_AFTER.match(text, end, end + 40)
    sign = _SIGN_BEFORE.search(text, max(0, start - 8), start)
    content += factor[0].strip() if factor else ""
    if sign and re.search(r"(?<=.)[-+]", content):
        content = f"({content})"
    return f"-{content}" if sign else content


def _extended(text: str, last: Statement, content: str, end: int, name: str | None) -> Statement:
    """Return a list of boxes with one more.

    Of two boxes with different names before them ("x = …, y = …"), both keep their names.
    """
    texts = last.texts
    if name and len(texts) == 1:
        first = _NAME_BEFORE.search(text, max(0, last.start - 8), last.start)
        if first and first[1] != name:
            texts = (f"{first[1]} = {texts[0]}",)
    if name and "=" in texts[0] and "=" not in content:
        content = f"{name} = {content}"
    return Statement(Mark.BOX, (*texts, content), last.start, end, last.denied, last.language)


def _box_language(text: str, start: int, content: str) -> Language | None:
    r"""Return the language around a box where that matters: `\boxed{4,5}` is 4.5 in German."""
    if not re.fullmatch(r"\$?[+-]?\d[\d.]*,\d+\$?(?:\s?\\?%|\s?\\text\{[^{}]*\})?", content):
        return None
    return language_of(text[max(0, start - 2 * CONTEXT) : start])
