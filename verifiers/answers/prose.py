r"""Tells prose from an answer, for texts that should be an answer and nothing else.

    is_prose("Ann has 18 pens")     # True
    is_prose(r"12 \text{ hours}")   # False

The one rule: linear time. Not covered: finding an answer in prose (`orchestrator.kit.answers`).
"""

from __future__ import annotations

import re

_MOST_WORDS = 4  # of an answer in words: "no real solutions", "Tuesday and Thursday"
_MOST_WORDS_BESIDE_NUMBERS = 1  # "Day 5"; units follow their numbers and are not counted
_LATEX = re.compile(
    r"\\(?:begin|end|text\w{0,6}|mathrm|mbox|operatorname)\s?\{[^{}]*\}"
    r"|\\(?:f?colorbox|color)(?:\s?\{[^{}]*\}){1,2}|\\[A-Za-z]+"
)
_UNIT = re.compile(r"(?<=\d)\s?[^\W\d_]{2,}")
_WORD = re.compile(r"[^\W\d_]{2,}(?:['’-][^\W\d_]{1,20})?")
_CONNECTIVES = frozenset({"and", "or", "to", "if", "otherwise"})
_FUNCTIONS = re.compile(r"pi|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|sqrt|log|ln|exp|mod|gcd|lcm")


def is_prose(text: str) -> bool:
    r"""Tell whether a text has more words than an answer has.

    `\text{...}`, functions, units behind a number, "and" and "or" do not count.
    """
    text = _LATEX.sub(" ", text)
    has_number = any(character.isdigit() for character in text)
    words = _WORD.findall(_UNIT.sub(" ", text) if has_number else text)
    counted = [
        word
        for word in map(str.casefold, words)
        if word not in _CONNECTIVES and not _FUNCTIONS.fullmatch(word)
    ]
    return len(counted) > (_MOST_WORDS_BESIDE_NUMBERS if has_number else _MOST_WORDS)
