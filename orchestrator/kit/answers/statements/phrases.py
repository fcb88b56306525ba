"""Answers in words: "the answer is", "Final answer:", headings, and the same in other languages.

Who says so, and whether it is denied, is read from the words around. Linear time on any text: the
patterns have no nested unbounded repetition, and look at windows of fixed size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from orchestrator.kit.answers.languages import (
    LANGUAGES,
    all_stems,
    is_denied,
    statement_of,
    stems_of,
)
from orchestrator.kit.answers.statements.statement import (
    CONTEXT,
    MAX_STATEMENTS,
    WINDOW,
    Mark,
    Statement,
)

_FILLER = (
    r"(?:actually|indeed|therefore|then|thus|hence|simply|just|now|still|exactly|approximately|about"
    r"|clearly|equal to|given by|for sure|certainly|definitely|probably|most likely|likely"
    r"|obviously|of course|in fact|roughly|around)"
)
_NOUNS = "answer|result|option|choice"
_MARK = re.compile(
    rf"\b(?:final[ \t]{{1,3}})?(?P<noun>{_NOUNS})s?\b"
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
_DENIED = re.compile(r"(?:not|never|neither|n't)\b", re.IGNORECASE)
_WRONG = r"(?:wrong|incorrect|false|mistaken|erroneous|not (?:quite )?(?:right|correct))\b"
_CALLED_WRONG = re.compile(rf"\b(?:{_WRONG}|never the)[ \t*_]{{1,4}}$", re.IGNORECASE)
_WRONG_END = "wrong|incorrect|false|mistaken|erroneous|right|correct|never the"
_WRONG_ENDS = tuple(_WRONG_END.split("|"))
# "The answer is 17. Actually, that's wrong": in the same line or the next
_TAKEN_BACK = re.compile(
    r"[^!?\n]{0,80}?(?:[.!][\s*_$)]{1,4}(?:(?:actually|wait|no|hmm|oh|oops|sorry|but|however)[,.!…—-]{0,3}\s){0,3}"
    r"(?:that|this|it|which)|,? which|,? but (?:that|this|it))(?:['’]s| is| was| would be)"
    rf" (?:(?!not )\w{{1,12}} )?{_WRONG}",
    re.IGNORECASE,
)
# "Many would say that", "One might think"
_SAYING = "say|think|believe|guess|assume|argue|claim|expect|suppose|answer|seem"
_SAYING_WORDS = frozenset(_SAYING.split("|"))
_HEARSAY = re.compile(
    r"(?:\b(?:many|some|most|others|people|students|someone)"
    r"(?: (?:people|students|readers|might|may|would|could|will|often|of (?:them|you|us))){0,3}"
    r"|\b(?:one|you|we|it) (?:might|may|could)(?: (?:easily|first|at|be|tempted|to|well)){0,4})"
    rf" (?:{_SAYING})"
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
_CLOSE = 40  # characters before it in which its author is named
_MIN_INTRODUCTION = 6  # characters: "Wrong "
_MAX_BEFORE_HEADING = 24  # characters of a line before its "answer": "**The final "
_TAIL = 80  # characters before "the answer is" in which it is attributed or denied
# "Final answer: The volume is 5"
_SENTENCE = re.compile(r"[A-Z][a-z]{0,12}\s[^.!?\n]{1,200}\b(?:is|are|equals)\s")
_ITEM = re.compile(r"(?:\d{1,2}[.)]|[-*+•])[ \t]+(?=\S)")
_END = re.compile(r"\n|</\w")
_LETTER_BEFORE = re.compile(r"\s\(?[A-J]\)?$")
_DISPLAYED = {"$$": "$$", r"\[": r"\]"}  # the delimiters of a display formula
_FENCE = re.compile(r"[`~]{3,}[\w-]{0,20}[ \t]*\n")


def without_list_mark(line: str) -> str:
    """Return a line without the dash or number that makes it an item of a list."""
    mark = _ITEM.match(line)
    return line[mark.end() :] if mark else line


def phrases(text: str, folded: str, nouns: tuple[str, ...]) -> list[Statement]:
    candidates = []
    for match in _marks(text, folded, nouns)[-MAX_STATEMENTS:]:
        content = _after(text, match.end())
        negated = _DENIED.match(content) if content[:1] in "nN" else None
        verb = match["verb"].lower()
        before = _introduction(text, match.start(), verb)
        denied = negated is not None or verb[:3] in ("isn", "can")
        if before and match["noun"].lower() == "answer":
            denied |= _is_called_wrong(before)
        if negated:
            content = content[negated.end() :].strip()
        mark = Mark.WORDS if verb[-1].isalpha() else Mark.LABEL
        is_final = match.start("noun") > match.start()  # "final answer"
        if is_final and (sentence := _SENTENCE.match(content)):
            content = content[sentence.end() :]
        is_unreal = verb == "would be" and _UNREAL.search(f"{before} {content[:CONTEXT]}")
        if is_unreal or (before and _is_hearsay(before)):
            mark, content = Mark.WORDS, ""
        reported = bool(before) and _is_somebodys(before)
        candidates.append(
            Statement(mark, (content,), match.start(), match.end(), denied, None, reported)
        )
    may_head = "answer" in (folded if "\n" in text else folded[: _MAX_BEFORE_HEADING + 6])
    if may_head:
        candidates += [
            Statement(Mark.LABEL, (_after(text, mark.end()),), mark.start(), mark.end())
            for mark in list(_HEADING.finditer(text))[-MAX_STATEMENTS:]
        ]
    return candidates


def _marks(text: str, folded: str, nouns: tuple[str, ...]) -> list[re.Match[str]]:
    """Return where one of the nouns, or any noun after "final", introduces an answer."""
    if len(folded) != len(text):  # "ß" is "ss" then; places in one are not those in the other
        folded = "".join([char.lower() if len(char.lower()) == 1 else char for char in text])
    marks: list[re.Match[str]] = []
    # in lower case, the nouns alone are found in a fifth of the whole pattern's time
    for noun in _noun(nouns).finditer(folded):
        is_behind = not marks or noun.start() >= marks[-1].end()
        if is_behind and (mark := _MARK.match(text, noun.start())):
            marks.append(mark)
    return marks


@cache
def _noun(nouns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"final[ \t]{{1,3}}(?:{_NOUNS})|{'|'.join(nouns)}")


def _introduction(text: str, end: int, verb: str) -> str:
    """Return the beginning of the sentence that contains a place.

    "" if it is a word or less, or no words before the place could change what it says.
    """
    close = text[max(0, end - _MIN_INTRODUCTION) : end]
    if len(close) < _MIN_INTRODUCTION or "." in close or "\n" in close:
        return ""
    close = text[max(0, end - _CLOSE) : end].lower()
    is_attributed = "'" in close or "’" in close or not _SAYING_WORDS.isdisjoint(close.split())
    if not (is_attributed or _ends_in_denial(close) or verb == "would be"):
        return ""
    window = text[max(0, end - CONTEXT) : end]
    return window[max(map(window.rfind, _ENDS)) + 1 :].lstrip()


def _is_called_wrong(before: str) -> bool:
    return (
        _ends_in_denial(before[-_CLOSE:].lower())
        and _CALLED_WRONG.search(before, len(before) - _TAIL) is not None
    )


def _ends_in_denial(close: str) -> bool:
    return close.rstrip(" \t*_").endswith(_WRONG_ENDS)


def _is_hearsay(before: str) -> bool:
    words = before[-_CLOSE:].lower().split()
    return (
        not _SAYING_WORDS.isdisjoint(words)
        and _HEARSAY.search(before, len(before) - _TAIL) is not None
    )


def _is_somebodys(before: str) -> bool:
    tail = before[-_CLOSE:]
    return ("'" in tail or "’" in tail) and _SOMEBODY.search(tail) is not None


def phrases_elsewhere(text: str, folded: str, *, options: bool) -> Iterator[Statement]:
    """Yield the statements in words of other languages than English."""
    if not any(map(folded.__contains__, all_stems(options, text.isascii()))):
        return
    for language in LANGUAGES:
        if not any(stem in folded for stem in stems_of(language, options)):
            continue
        for match in list(statement_of(language, options).finditer(text))[-MAX_STATEMENTS:]:
            content = _after(text, match.end())
            denied = is_denied(language, match, content)
            # "option C is right" says nothing behind its verb
            is_option = re.match(language.options, match[0], re.IGNORECASE) is not None
            is_before = _LETTER_BEFORE.search(match["between"]) is not None
            is_words = match["verb"] and not is_option and not is_before
            mark = Mark.WORDS if is_words else Mark.LABEL
            yield Statement(mark, (content,), match.start(), match.end(), denied, language)


def _after(text: str, start: int) -> str:
    """Return the text a label refers to: the rest of its line, a display formula, or the next line.

    Empty if the next line starts a list. The line of a fence is skipped.
    """
    window = text[start : start + WINDOW]
    content = window.lstrip()
    right = _DISPLAYED.get(content[:2], "")
    if right and (end := content.find(right, 2)) >= 0:
        return content[: end + 2].replace("\n", " ")
    crossed = "\n" in window[: len(window) - len(content)]
    if content[:1] in "`~" and (fence := _FENCE.match(content)):
        content, crossed = content[fence.end() :].lstrip(), False
    if closing := _END.search(content):
        content = content[: closing.start()]
    content = content.rstrip()
    return "" if crossed and _ITEM.match(content) else content


def is_taken_back(text: str, statement: Statement) -> bool:
    """Tell whether the words after a statement call it wrong."""
    return _TAKEN_BACK.match(text, statement.end) is not None
