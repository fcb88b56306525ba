"""A statement: one place of a reply where an answer is given, and how it is marked."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from orchestrator.kit.answers.languages import Language

MAX_ANSWER_CHARS = 2000  # a longer "answer" is a reply that looped or never ended
MAX_STATEMENTS = 64  # the latest ones; a reply with more repeats itself
WINDOW = 1200  # characters looked at after "the answer is"
CONTEXT = 200  # characters before "the answer is" that show whose statement it is


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


class Statement(NamedTuple):
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
