r"""Answers that hold a whole number: solutions numbered by one, and what is left in a division.

    x=\frac{\pi}{4}+k\pi, k\in\mathbb{Z}      the name of the number does not count
    n \equiv 12 \pmod 7                       is 5 (mod 7); 12 \bmod 7 is the number 5

The one rule: only what says so is read so. Not covered: two ways of numbering the same solutions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import sympy

from verifiers.answers.algebra import relations
from verifiers.answers.algebra.numbers.evaluation import scalar
from verifiers.answers.algebra.values import Value, finite_set, of_scalar, short

_NAME = "k"  # that every number gets
_NUMBERS = {
    form: name for name in "ZN" for form in (name, rf"\mathbb{{{name}}}", rf"\text{{{name}}}")
}
_WHERE = re.compile(r"\\text\{(?:for|with|where)(?: (?:all|any|each|every|some|an?))?\}")
_FOR = re.compile(r"\\text\{for (?:(?:all|any|each|every|some|an?) )?integers?\}")
_IS = re.compile(r"\\text\{(?:is )?(?:an |any )?integers?\}")
_BETWEEN = (",", ";", " ", ".")
_MOD = r"\\[pb]?mod|mod|\\text\{mod\}"
_REMAINDER = re.compile(
    rf"(?P<is>[A-Za-z]\\equiv)?(?P<of>-?\d{{1,400}}(?:,-?\d{{1,400}})*)"
    rf"(?:\\pmod|\((?:{_MOD})|(?(is)(?:{_MOD})|(?!)))\{{?(?P<by>\d{{1,400}})\}}?\)?"
)
_DIVISION = re.compile(r"(-?\d{1,400})\\bmod\{?(\d{1,400})\}?")


def numbered(found: list[str], read: Callable[[list[str]], Value]) -> Value | None:
    """Read values that depend on an integer, which is declared behind them; None for any other."""
    declared = _declaration(found)
    if declared is None:
        return None
    start, name, numbers = declared
    body = found[:start]
    while body and (body[-1] in _BETWEEN or _WHERE.fullmatch(body[-1])):
        body = body[:-1]
    # x > 0, x in Z, or k = 3, k in Z: of the unknown itself
    is_condition = not relations.INEQUALITIES.keys().isdisjoint(body)
    is_given = [token for token in body if token != " "][:2] == [name, "="]
    if name not in body or is_condition or is_given or (name != _NAME and _NAME in body):
        return None
    value = read([_NAME if token == name else token for token in body])
    shown = f"{value.shown} for {_NAME} in {numbers}"
    return Value(
        "family", short(f"=for {_NAME} in {numbers}: {value.key.removeprefix('=')}"), shown
    )


def _declaration(found: Sequence[str]) -> tuple[int, str, str] | None:
    """Return where a declaration at the end begins, the name, and the set that it is from."""
    places = [index for index, token in enumerate(found) if token != " "]
    texts = [found[index] for index in places]
    if texts[-1:] == [")"] and texts[-5:-4] == ["("]:
        start, texts = places[-5], texts[-4:-1]
    elif len(texts) > 3:
        start, texts = places[-3], texts[-3:]
    else:
        return None
    first, middle, last = texts
    if middle == r"\in" and _is_letter(first) and last in _NUMBERS:
        return start, first, _NUMBERS[last]
    if _FOR.fullmatch(middle) and _is_letter(last):
        return places[-2], last, "Z"
    if _is_letter(middle) and _IS.fullmatch(last):
        return places[-2], middle, "Z"
    return None


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isalpha()


def remainder(found: Sequence[str]) -> Value | None:
    """Read a residue class, several of one modulus, or a remainder; None for anything else."""
    text = "".join(token for token in found if token != " ")
    if match := _DIVISION.fullmatch(text):
        divisor = int(match[2])
        return of_scalar(scalar(sympy.Integer(int(match[1]) % divisor))) if divisor else None
    match = _REMAINDER.fullmatch(text)
    if match is None or int(match["by"]) < 2:
        return None
    modulus = int(match["by"])
    residues = [int(part) % modulus for part in match["of"].split(",")]
    names = [f"{residue} (mod {modulus})" for residue in residues]
    return finite_set([Value("residue class", short(f"={name}"), name) for name in names])
