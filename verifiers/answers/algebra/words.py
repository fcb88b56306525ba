"""Words as answers: which letters are prose, and what sets words name. Linear time, no algebra."""

from __future__ import annotations

import re

_NAMES = re.compile(
    r"(?:(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|sqrt)(?:[xyztn]|theta|alpha|pi)?|frac"
    r"|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|pi|rho|sigma|phi|omega"
    r"|gcd|lcm|max|min|det",
)
_EMPTY = r"=\emptyset"
_ALL_REALS = r"=(-\infty,\infty)"
_SETS = {
    **dict.fromkeys(
        (
            *(r"\emptyset", r"\{\}", "ø", "∅", "empty set", "the empty set", "no solution"),
            *("no solutions", "no real solution", "no real solutions", "there is no solution"),
            *("there are no solutions", r"\text{no solution}", r"\text{no real solution}"),
        ),
        _EMPTY,
    ),
    **dict.fromkeys(
        (
            *(r"\mathbb{r}", r"(-\infty,\infty)", r"(-\infty, \infty)", "all real numbers"),
            *(
                "all reals",
                "the real numbers",
                "real numbers",
                "any real number",
                "all real values",
            ),
            *("the set of all real numbers", "set of all real numbers", "ℝ"),
        ),
        _ALL_REALS,
    ),
    **dict.fromkeys(
        ("all integers", "the integers", "integers", "the set of all integers"),
        "=the set of integers",
    ),
}
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_JOINTS = frozenset(["and", "or"])


def key(text: str) -> str | None:
    """Return `=words` in lower case, or the key of the set that they name; None for a formula."""
    if named := _SETS.get(text.casefold()):
        return named
    upright = r"\text" in text
    bare = _TEXT.sub(r" \1 ", text).strip(" .") if upright else text
    found = bare.replace("-", " ").replace("'", " ").replace("’", " ").split()
    if not found or not all(word.isalpha() for word in found) or _JOINTS.intersection(found):
        return None
    is_prose = any(len(word) > 1 and (upright or not _is_formula(word)) for word in found)
    return "=" + " ".join(bare.casefold().split()) if is_prose else None


def _is_formula(word: str) -> bool:
    """Tell whether a run of letters is a name of mathematics or a product of variables.

    A product has no vowels, as in `xy` and `mgh`, or is a beginning of the alphabet.
    """
    if word.casefold() in ("inf", "infinity"):
        return True
    if _NAMES.fullmatch(word):
        return True
    return (
        word.isascii()
        and len(word) <= 3
        and word.islower()
        and (not set(word) & set("aeiou") or word in ("ab", "abc", "ac", "ax", "ay", "az"))
    )
