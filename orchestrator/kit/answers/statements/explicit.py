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

from orchestrator.kit.answers.statements.boxes import boxes
from orchestrator.kit.answers.statements.phrases import is_taken_back, phrases, phrases_elsewhere
from orchestrator.kit.answers.statements.statement import (
    MAX_ANSWER_CHARS,
    MAX_STATEMENTS,
    WINDOW,
    Mark,
    Statement,
)

_HASHES = re.compile(r"^####[ \t]{1,3}(?=\S)", re.MULTILINE)
_TAG = re.compile(r"<(/?)(?:final[_-]?)?answer>", re.IGNORECASE)
_FIELD = re.compile(
    r'"(?:(?:final|correct)[_ ]?)?answer"\s{0,4}:\s{0,4}(?=["\d+[-])', re.IGNORECASE
)


def statements(text: str, nouns: tuple[str, ...] = ("answer",)) -> list[Statement]:
    """Return the explicit statements, in order, what somebody else answers first; at most 64.

    They are the last ones. Empty and unclosed boxes are included, with an empty text.
    """
    folded = text.casefold()
    candidates = phrases(text, folded, nouns)
    candidates += phrases_elsewhere(text, folded, options="option" in nouns)
    if r"\boxed" in text or r"\fbox" in text or r"\framebox" in text:
        candidates += boxes(text)
    if "####" in text:
        candidates += _hashes(text)
    if "answer>" in folded:
        candidates += _tags(text)
    if 'answer"' in folded:
        candidates += _fields(text)
    if len(candidates) > 1:
        candidates.sort(key=lambda statement: (not statement.is_reported, statement.start))
    latest = candidates[-MAX_STATEMENTS:]
    if not ("wrong" in folded or "incorrect" in folded or "not " in folded):
        return latest
    return [one._replace(denied=True) if is_taken_back(text, one) else one for one in latest]


def _hashes(text: str) -> list[Statement]:
    candidates = []
    for match in list(_HASHES.finditer(text))[-MAX_STATEMENTS:]:
        content = text[match.end() : match.end() + WINDOW].split("\n", 1)[0]
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
    for match in list(_FIELD.finditer(text))[-MAX_STATEMENTS:]:
        window = text[match.end() : match.end() + MAX_ANSWER_CHARS]
        try:
            value, length = json.JSONDecoder(strict=False).raw_decode(window)
        except ValueError:
            continue
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        content = value if isinstance(value, str) else window[:length]
        yield Statement(Mark.FIELD, (content.strip(),), match.start(), match.end() + length)
