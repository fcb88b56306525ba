r"""Finding the answer in a reply: boxes, "the answer is", `####`, or the last line.

    answer = find_answer(text, finished, read, read_last_line)

The one rule: linear time on any text (no nested unbounded repetition, windows of fixed size, a
fixed number of statements), which makes it safe in the caller's process on replies of any length.
This module finds *where* an answer is given; the domain decides whether the text there is an
answer, and of what kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from orchestrator.kit.answers.thinking import split

MAX_ANSWER_CHARS = 2000  # a longer "answer" is a reply that looped or never ended
_MAX_STATEMENTS = 64  # the latest ones; a reply with more repeats itself
_WINDOW = 1200  # characters looked at after "the answer is"

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\(?!boxed|fbox)|\\[{}]|[{}]")
_BETWEEN_BOXES = re.compile(
    r"[\s$]{0,8}(?:,|,?\s?\b(?:and|or)\b|\\text\{\s?(?:and|or)\s?\})[\s$]{0,8}(?:[A-Za-z]\s?=\s?)?"
)
_FILLER = (
    r"(?:actually|indeed|therefore|then|thus|simply|just|now|still|exactly|approximately|about|clearly"
    r"|equal to|given by)"
)
_MARK = re.compile(
    r"\b(?:final[ \t]{1,3})?(?P<noun>answer|result|option|choice)\b"
    r"(?:[ \t]{1,3}(?:to|for|of)\b(?:[ \t]{1,3}[^\s.:;=]{1,24}){1,10}?)?"
    r"(?:[ \t]{0,3}[*_]{1,3})?[ \t]{0,3}"
    rf"(?:,?[ \t]{{1,2}}{_FILLER},?[ \t]{{0,2}})?"
    r"(?P<verb>is\b|was\b|(?:will|should|must|would) be\b|equals\b|isn['’]t\b"
    r"|can(?:not|['’]t) be\b|[:=])"
    r"[ \t]{0,3}(?:[*_]{1,3}[ \t]{0,3})?:?[ \t]{0,3}(?:[*_]{1,3})?"
    rf"(?:[ \t]{{0,3}}{_FILLER}\b,?)?",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[#*_ \t]{0,8}(?:the )?final answer[*_: \t]{0,6}$", re.IGNORECASE | re.MULTILINE
)
_HASHES = re.compile(r"^####[ \t]{1,3}(?=\S)", re.MULTILINE)
_DENIED = re.compile(r"(?:not|never|neither|n't)\b", re.IGNORECASE)
_DENIED_BEFORE = re.compile(r"\bnot\b[\s$(\\\[*]{0,6}$", re.IGNORECASE)
_ABBREVIATIONS = frozenset(
    ["Mr", "Mrs", "Ms", "Dr", "St", "Mt", "Jr", "Sr", "Prof", "vs", "etc", "approx", "No"]
)
_ITEM = re.compile(r"(?:\d{1,2}[.)]|[-*+•])[ \t]+(?=\S)")


@dataclass(frozen=True, slots=True)
class Reply:
    """The part of a text in which answers count, and whether the text is complete."""

    text: str
    finished: bool


class Mark(Enum):
    r"""How a statement is marked."""

    BOX = "box"  # \\boxed{…}, \\fbox{…}
    HASHES = "hashes"  # #### …
    WORDS = "words"  # the answer is …
    LABEL = "label"  # Answer: …, or a heading "Final answer"


@dataclass(frozen=True, slots=True)
class Statement:
    """One place where an answer is stated.

    `texts` are the contents of a box, with one text for each of several boxes joined by a comma,
    "and" or "or"; otherwise the rest of the line. A box or a `####` line contains only the answer;
    a statement in words may continue after it. `denied`: the statement says "is not".
    """

    mark: Mark
    texts: tuple[str, ...]
    start: int
    end: int
    denied: bool = False


def find_answer(
    text: str,
    finished: bool,
    read: Callable[[Statement], str | None],
    read_last_line: Callable[[str], str | None],
    nouns: tuple[str, ...] = ("answer",),
) -> str | None:
    """Return the last explicit answer; if a finished reply has none, that of its last line."""
    part = reply(text, finished)
    found = statements(part.text, nouns)
    if value := latest_answer(found, read):
        return value
    return read_last_line(_last_line(part.text)) if part.finished and is_silent(found) else None


def reply(text: str, finished: bool) -> Reply:
    """Return the text without its thinking. A text that ends inside its thinking is unfinished."""
    parts = split(text, finished)
    return Reply(parts.reply_text, finished and not parts.is_open)


def statements(text: str, nouns: tuple[str, ...] = ("answer",)) -> list[Statement]:
    """Return the explicit statements, in order; at most the last 64.

    Empty and unclosed boxes are included, with an empty text.
    """
    candidates = _phrases(text, nouns)
    if r"\boxed" in text or r"\fbox" in text:
        candidates += _boxes(text)
    if "####" in text:
        candidates += _hashes(text)
    candidates.sort(key=lambda statement: statement.start)
    return candidates[-_MAX_STATEMENTS:]


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


def _last_line(text: str) -> str:
    r"""Return the last non-empty line, without a list mark.

    A closing display formula (`$$…$$`, `\[…\]`) is one line.
    """
    text = text.rstrip()
    for left, right in ((r"\[", r"\]"), ("$$", "$$")):
        bare = text.rstrip(".")
        if bare.endswith(right):
            start = bare.rfind(left, 0, len(bare) - len(right))
            if start >= 0:
                return bare[start:].replace("\n", " ")
    return _ITEM.sub("", text[text.rfind("\n") + 1 :].strip(), count=1)


def first_sentence(text: str) -> str:
    """Return the text up to the end of its first sentence or first line."""
    line = text.split("\n", 1)[0]
    for match in re.finditer(r"[.!?](?:[*_\"'”)]{0,3})(?=\s|$)|[.!?](?=[A-Z][a-z])", line):
        word = re.search(r"(\w{1,12})$", line[max(0, match.start() - 12) : match.start()])
        if match[0] == "." and word:
            is_initial = len(word[1]) == 1 and word[1].isupper() and match.end() < len(line)
            if is_initial or word[1] in _ABBREVIATIONS:
                continue
        return line[: match.start()]
    return line


def _boxes(text: str) -> list[Statement]:
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
    spans.sort()
    return _joined(text, spans)


def _joined(text: str, spans: list[tuple[int, int, str]]) -> list[Statement]:
    candidates: list[Statement] = []
    for start, end, content in spans:
        content = content if len(content) <= MAX_ANSWER_CHARS else ""
        before = text[max(candidates[-1].end, start - 40) : start] if candidates else ""
        if (
            candidates
            and start - candidates[-1].end <= 40
            and _BETWEEN_BOXES.fullmatch(before)
            and len(candidates[-1].texts) < 16
        ):
            last = candidates.pop()
            candidates.append(
                Statement(Mark.BOX, (*last.texts, content), last.start, end, last.denied)
            )
        else:
            denied = _DENIED_BEFORE.search(text, max(0, start - 12), start) is not None
            candidates.append(Statement(Mark.BOX, (content,), start, end, denied))
    return candidates[-_MAX_STATEMENTS:]


def _phrases(text: str, nouns: tuple[str, ...]) -> list[Statement]:
    folded = text.casefold()
    # a plain substring search takes a tenth of the patterns' time
    if "final" not in folded and all(noun not in folded for noun in nouns):
        return []
    marks = [
        match
        for match in _MARK.finditer(text)
        if match["noun"].lower() in nouns or match[0][:5].lower() == "final"
    ]
    candidates = []
    for match in marks[-_MAX_STATEMENTS:]:
        content = _after(text, match.end())
        negated = _DENIED.match(content)
        denied = negated is not None or match["verb"][:3].lower() in ("isn", "can")
        content = content[negated.end() :].strip() if negated else content
        mark = Mark.LABEL if match["verb"] in ":=" else Mark.WORDS
        candidates.append(Statement(mark, (content,), match.start(), match.end(), denied))
    headings = list(_HEADING.finditer(text))[-_MAX_STATEMENTS:] if "final answer" in folded else []
    return candidates + [
        Statement(Mark.LABEL, (_after(text, mark.end()),), mark.start(), mark.end())
        for mark in headings
    ]


def _hashes(text: str) -> list[Statement]:
    candidates = []
    for match in list(_HASHES.finditer(text))[-_MAX_STATEMENTS:]:
        content = text[match.end() : match.end() + _WINDOW].split("\n", 1)[0]
        candidates.append(
            Statement(Mark.HASHES, (content.strip(),), match.start(), match.end() + len(content))
        )
    return candidates


def _after(text: str, start: int) -> str:
    """Return the text a label refers to: the rest of its line, a display formula, or the next line.

    Empty if the next line starts a list.
    """
    window = text[start : start + _WINDOW]
    content = window.lstrip()
    for left, right in (("$$", "$$"), (r"\[", r"\]")):
        if content.startswith(left) and (end := content.find(right, len(left))) >= 0:
            return content[: end + len(right)].replace("\n", " ")
    crossed = "\n" in window[: len(window) - len(content)]
    content = content.split("\n", 1)[0].strip()
    return "" if crossed and _ITEM.match(content) else content
