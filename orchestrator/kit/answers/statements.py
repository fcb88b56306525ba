r"""Where a reply gives its answer explicitly: boxes, "the answer is", `Answer:`, `####`, tags.

    statements(r"So \boxed{4} or \boxed{-7}.")     # one statement with the texts "4" and "-7"

The one rule: linear time on any text (no nested unbounded repetition, windows of fixed size, a
fixed number of statements), which makes it safe in the caller's process on replies of any length.
Not covered: whether the text there is an answer, and of what kind (`kit.answers.latex`, domains).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from orchestrator.kit.answers.languages import (
    LANGUAGES,
    Language,
    all_stems,
    is_denied,
    language_of,
    statement_of,
    stems_of,
)

MAX_ANSWER_CHARS = 2000  # a longer "answer" is a reply that looped or never ended
_MAX_STATEMENTS = 64  # the latest ones; a reply with more repeats itself
_MAX_BOXES = 16  # of one list
_WINDOW = 1200  # characters looked at after "the answer is"
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
_PERCENT_AFTER = re.compile(
    r"(?:\$|\\\)|\*\*|\s)*?\s?(?:\\?[%％]|(?:percent(?:age)?|per cent|pct)(?![A-Za-z]))",
    re.IGNORECASE,
)
_FILLER = (
    r"(?:actually|indeed|therefore|then|thus|hence|simply|just|now|still|exactly|approximately|about"
    r"|clearly|equal to|given by|for sure|certainly|definitely|probably|most likely|likely"
    r"|obviously|of course|in fact|roughly|around)"
)
_MARK = re.compile(
    r"\b(?:final[ \t]{1,3})?(?P<noun>answer|result|option|choice)s?\b"
    r"(?:[ \t]{1,3}(?:to|for|of)\b(?:[ \t]{1,3}[^\s.:;=]{1,24}){1,10}?)?"
    r"(?:[ \t]{0,3}[*_]{1,3})?[ \t]{0,3}"
    rf"(?:,?[ \t]{{1,2}}{_FILLER},?[ \t]{{0,2}})?"
    r"(?P<verb>(?:is|was|are|were)\b|['’]s\b|(?:will|should|must|would|has to) be\b|equals\b"
    r"|isn['’]t\b|can(?:not|['’]t) be\b|[-=]>|[:=：]|[→⇒]|(?<=[ \t])[-–—](?=[ \t]))"
    r"[ \t]{0,3}(?:[*_]{1,3}[ \t]{0,3})?[:：]?[ \t]{0,3}(?:[*_]{1,3})?"
    rf"(?:[ \t]{{0,3}}{_FILLER}\b,?)?",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[#*_ \t]{0,8}(?:the )?(?:(?:final answer|(?<=[#*_] )answer|(?<=[#*_])answer)[*_:： \t]{0,6}$"
    # "Answer $5$", "Answer B"
    r"|(?:final )?answer[*_]{0,3}[ \t]{1,3}[*_]{0,3}"
    r"(?=\$|\\[(\[]|\\boxed|(?:\(?[A-J]\)?|[-+]?[\d.,/]{1,40})[*_.]{0,3}[ \t]{0,8}$))",
    re.IGNORECASE | re.MULTILINE,
)
_HASHES = re.compile(r"^####[ \t]{1,3}(?=\S)", re.MULTILINE)
_TAG = re.compile(r"<(/?)(?:final[_-]?)?answer>", re.IGNORECASE)
_FIELD = re.compile(
    r'"(?:(?:final|correct)[_ ]?)?answer"\s{0,4}:\s{0,4}(?=["\d+[-])', re.IGNORECASE
)
_DENIED = re.compile(r"(?:not|never|neither|n't)\b", re.IGNORECASE)
_WRONG = r"(?:wrong|incorrect|false|mistaken|erroneous|not (?:quite )?(?:right|correct))\b"
_CALLED_WRONG = re.compile(rf"\b(?:{_WRONG}|never the)[ \t*_]{{1,4}}$", re.IGNORECASE)
# "The answer is 17. Actually, that's wrong": in the same line or the next
_TAKEN_BACK = re.compile(
    r"[^!?\n]{0,80}?(?:[.!][\s*_$)]{1,4}(?:(?:actually|wait|no|hmm|oh|oops|sorry|but|however)[,.!…—-]{0,3}\s){0,3}"
    r"(?:that|this|it|which)|,? which|,? but (?:that|this|it))(?:['’]s| is| was| would be)"
    rf" (?:(?!not )\w{{1,12}} )?{_WRONG}",
    re.IGNORECASE,
)
# "Many would say that", "One might think"
_HEARSAY = re.compile(
    r"(?:\b(?:many|some|most|others|people|students|someone)"
    r"(?: (?:people|students|readers|might|may|would|could|will|often|of (?:them|you|us))){0,3}"
    r"|\b(?:one|you|we|it) (?:might|may|could)(?: (?:easily|first|at|be|tempted|to|well)){0,4})"
    r" (?:say|think|believe|guess|assume|argue|claim|expect|suppose|answer|seem)"
    r"(?: that)?(?: (?:the|my|your|our))?(?: (?:correct|right))? $",
    re.IGNORECASE,
)
# "If we had counted twice, the answer would be"
_UNREAL = re.compile(r"\b(?:otherwise|if\b.{1,150}\b(?:had|were|did))\b", re.IGNORECASE)
_SOMEBODY = re.compile(
    r"\b(?:student|pupil|friend|classmate|teacher|author|user|someone|somebody|else)['’]s? "
    r"(?:(?:final|first|own|original|given) )?$",
    re.IGNORECASE,
)
_ENDS = (". ", "! ", "? ", "; ", "\n")
_MIN_INTRODUCTION = 6  # characters: "Wrong "
_MAX_BEFORE_HEADING = 24  # characters of a line before its "answer": "**The final "
_TAIL = 80  # characters before "the answer is" in which it is attributed or denied
_BEFORE = 200  # characters before "the answer is" that show whose statement it is
_DENIED_BEFORE = re.compile(r"\bnot\b[\s$(\\\[*]{0,6}$", re.IGNORECASE)
# "Final answer: The volume is 5"
_SENTENCE = re.compile(r"[A-Z][a-z]{0,12}\s[^.!?\n]{1,200}\b(?:is|are|equals)\s")
_ITEM = re.compile(r"(?:\d{1,2}[.)]|[-*+•])[ \t]+(?=\S)")
_END = re.compile(r"\n|</\w")
_LETTER_BEFORE = re.compile(r"\s\(?[A-J]\)?$")
_FENCE = re.compile(r"[`~]{3,}[\w-]{0,20}[ \t]*\n")


class Mark(Enum):
    r"""How a statement is marked."""

    BOX = "box"  # \\boxed{…}, \\fbox{…}
    TAG = "tag"  # <answer>…</answer>
    FIELD = "field"  # {"answer": …}
    HASHES = "hashes"  # #### …
    WORDS = "words"  # the answer is …
    LABEL = "label"  # Answer: …, or a heading "Final answer"
    # nothing marks these; they are read in a reply without a statement
    LAST_LINE = "last line"
    FIRST_LINE = "first line"


@dataclass(frozen=True, slots=True)
class Statement:
    """One place where an answer is given.

    `texts` are the contents of a box, with one text for each of several boxes joined by a comma,
    "and" or "or"; otherwise the rest of the line. A box, a tag, a field or a `####` line contains
    only the answer; a statement in words may continue after it. `denied`: the statement says "is
    not", or is taken back. `language`: that of its words, None for English. `is_reported`: it is
    somebody else's answer, which counts only where there is no other.
    """

    mark: Mark
    texts: tuple[str, ...]
    start: int
    end: int
    denied: bool = False
    language: Language | None = None
    is_reported: bool = False


def statements(text: str, nouns: tuple[str, ...] = ("answer",)) -> list[Statement]:
    """Return the explicit statements, in order, what somebody else answers first; at most 64.

    They are the last ones. Empty and unclosed boxes are included, with an empty text.
    """
    folded = text.casefold()
    candidates = _phrases(text, folded, nouns)
    candidates += _phrases_elsewhere(text, folded, options="option" in nouns)
    if r"\boxed" in text or r"\fbox" in text or r"\framebox" in text:
        candidates += _boxes(text)
    if "####" in text:
        candidates += _hashes(text)
    if "answer>" in folded:
        candidates += _tags(text)
    if 'answer"' in folded:
        candidates += _fields(text)
    if len(candidates) > 1:
        candidates.sort(key=lambda statement: (not statement.is_reported, statement.start))
    latest = candidates[-_MAX_STATEMENTS:]
    if not ("wrong" in folded or "incorrect" in folded or "not " in folded):
        return latest
    return [
        replace(one, denied=True) if _TAKEN_BACK.match(text, one.end) else one for one in latest
    ]


def without_list_mark(line: str) -> str:
    """Return a line without the dash or number that makes it an item of a list."""
    mark = _ITEM.match(line)
    return line[mark.end() :] if mark else line


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
    return candidates[-_MAX_STATEMENTS:]


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
    return language_of(text[max(0, start - 2 * _BEFORE) : start])


def _phrases(text: str, folded: str, nouns: tuple[str, ...]) -> list[Statement]:
    # a plain substring search takes a tenth of the patterns' time
    if "final" not in folded and not any(map(folded.__contains__, nouns)):
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
        before = _introduction(text, match.start())
        verb = match["verb"].lower()
        denied = negated is not None or verb[:3] in ("isn", "can")
        if before and match["noun"].lower() == "answer":
            denied |= _CALLED_WRONG.search(before, len(before) - _TAIL) is not None
        content = content[negated.end() :].strip() if negated else content
        mark = Mark.WORDS if verb[-1].isalpha() else Mark.LABEL
        sentence = _SENTENCE.match(content) if match[0][:5].lower() == "final" else None
        content = content[sentence.end() :] if sentence else content
        is_unreal = verb == "would be" and _UNREAL.search(f"{before} {content[:_BEFORE]}")
        if is_unreal or (before and _HEARSAY.search(before, len(before) - _TAIL)):
            mark, content = Mark.WORDS, ""
        reported = before != "" and _SOMEBODY.search(before, len(before) - _TAIL) is not None
        candidates.append(
            Statement(mark, (content,), match.start(), match.end(), denied, None, reported)
        )
    may_head = "\n" in text or "answer" in folded[: _MAX_BEFORE_HEADING + len("answer")]
    headings = list(_HEADING.finditer(text))[-_MAX_STATEMENTS:] if may_head else []
    return candidates + [
        Statement(Mark.LABEL, (_after(text, mark.end()),), mark.start(), mark.end())
        for mark in headings
    ]


def _introduction(text: str, end: int) -> str:
    """Return the beginning of the sentence that contains a place; "" if it is a word or less."""
    close = text[max(0, end - _MIN_INTRODUCTION) : end]
    if len(close) < _MIN_INTRODUCTION or "." in close or "\n" in close:
        return ""
    window = text[max(0, end - _BEFORE) : end]
    return window[max(map(window.rfind, _ENDS)) + 1 :].lstrip()


def _phrases_elsewhere(text: str, folded: str, *, options: bool) -> Iterator[Statement]:
    """Yield the statements in words of other languages than English."""
    if not any(map(folded.__contains__, all_stems(options, text.isascii()))):
        return
    for language in LANGUAGES:
        if not any(stem in folded for stem in stems_of(language, options)):
            continue
        for match in list(statement_of(language, options).finditer(text))[-_MAX_STATEMENTS:]:
            content = _after(text, match.end())
            denied = is_denied(language, match, content)
            # "option C is right" says nothing behind its verb
            is_option = re.match(language.options, match[0], re.IGNORECASE) is not None
            is_before = _LETTER_BEFORE.search(match["between"]) is not None
            is_words = match["verb"] and not is_option and not is_before
            mark = Mark.WORDS if is_words else Mark.LABEL
            yield Statement(mark, (content,), match.start(), match.end(), denied, language)


def _hashes(text: str) -> list[Statement]:
    candidates = []
    for match in list(_HASHES.finditer(text))[-_MAX_STATEMENTS:]:
        content = text[match.end() : match.end() + _WINDOW].split("\n", 1)[0]
        candidates.append(
            Statement(Mark.HASHES, (content.strip(),), match.start(), match.end() + len(content))
        )
    return candidates


def _tags(text: str) -> Iterator[Statement]:
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            opened = tag
        elif opened:
            content = text[opened.end() : tag.start()].strip()
            content = content if len(content) <= MAX_ANSWER_CHARS else ""
            yield Statement(Mark.TAG, (content,), opened.start(), tag.end())
            opened = None


def _fields(text: str) -> Iterator[Statement]:
    for match in list(_FIELD.finditer(text))[-_MAX_STATEMENTS:]:
        window = text[match.end() : match.end() + MAX_ANSWER_CHARS]
        try:
            value, length = json.JSONDecoder(strict=False).raw_decode(window)
        except ValueError:
            continue
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        content = value if isinstance(value, str) else window[:length]
        yield Statement(Mark.FIELD, (content.strip(),), match.start(), match.end() + length)


def _after(text: str, start: int) -> str:
    """Return the text a label refers to: the rest of its line, a display formula, or the next line.

    Empty if the next line starts a list. The line of a fence is skipped.
    """
    window = text[start : start + _WINDOW]
    content = window.lstrip()
    for left, right in (("$$", "$$"), (r"\[", r"\]")):
        if content.startswith(left) and (end := content.find(right, len(left))) >= 0:
            return content[: end + len(right)].replace("\n", " ")
    crossed = "\n" in window[: len(window) - len(content)]
    if fence := _FENCE.match(content):
        content, crossed = content[fence.end() :].lstrip(), False
    content = _END.split(content, maxsplit=1)[0].strip()
    return "" if crossed and _ITEM.match(content) else content
