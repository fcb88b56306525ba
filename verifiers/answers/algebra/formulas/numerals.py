r"""Numbers of several tokens, joined into one: repeating decimals and mixed numbers.

`0.1\overline{6}`, `0.(3)` and `0.333...` are written `0.1r6`, `0.r3` and `0.333r3`: the digits
behind `r` repeat without end. `2\frac{1}{3}` and `2 1/3` are written `2m1/3`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import sympy

from verifiers.answers.algebra.formulas.notation import Unreadable, depths

_DECIMAL = re.compile(r"\d*\.\d*")
_LINES = frozenset([r"\overline", r"\bar", r"\dot"])
_DOTS = frozenset([r"\ldots", r"\dots", r"\cdots"])
_REPEATED = re.compile(r"(\d)\1{2,}$|(\d{2,6})\2$")


def join(tokens: Sequence[str]) -> list[str]:
    """Return the tokens with each such number as one. Unreadable where it is not clear."""
    out: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token.isdecimal() and out[-1:] not in (["^"], ["_"], ["/"]):
            fraction, n_tokens = _proper_fraction(tokens[at : at + 7])
            out.append(f"{token}m{fraction}" if fraction else token)
            at += n_tokens
        elif not _DECIMAL.fullmatch(token) or token == "." or at == len(tokens):
            out.append(token)
        elif tokens[at] in _LINES:
            block, at = _block(tokens, at + 1)
            out.append(f"{token}r{block}")
        elif tokens[at] == "(" and _block(tokens, at)[0]:
            if not token.endswith("."):
                raise Unreadable("a factor, or digits that repeat")  # 0.1(6)
            block, at = _block(tokens, at)
            out.append(f"{token}r{block}")
        elif tokens[at] in _DOTS:
            found = _REPEATED.search(token)
            if found is None:
                raise Unreadable("digits are left out")
            out.append(f"{token}r{found[1] or found[2]}")
            at += 1
        else:
            out.append(token)
    return out


def thousands(found: Sequence[str], *, bracketed: bool = False) -> list[str]:
    """Return the tokens with the commas inside of numbers removed: `45,210`, not `45, 210`.

    Within brackets a comma separates, unless spaces behind others show what this one does.
    """
    spaced = any(
        a == "," and b == " "
        for (a, b), d in zip(pairwise(found), depths(found), strict=False)
        if d == 0
    )
    alone = not bracketed and re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", "".join(found))
    if not (spaced or alone):
        return list(found)
    out: list[str] = []
    for index, token in enumerate(found):
        is_group = (
            len(out) > 1
            and out[-1] == ","
            and re.fullmatch(r"\d{3}(?:\.\d+)?", token)
            and re.fullmatch(r"\d+", out[-2])
            and found[index - 1] == ","
            and (len(out[-2]) <= 3 or out[-2][-4:] != token)
        )
        if is_group:
            out.pop()
            out[-1] += token
        else:
            out.append(token)
    return out


def _block(tokens: Sequence[str], at: int) -> tuple[str, int]:
    """Return the digits under a line or in brackets, and where they end; no digits if none."""
    bracketed = tokens[at : at + 1] in (["{"], ["("])
    digits = tokens[at + bracketed : at + bracketed + 1]
    if not digits or not digits[0].isdecimal():
        return "", at
    if bracketed and tokens[at + 2 : at + 3] not in (["}"], [")"]):
        return "", at
    return digits[0], at + (3 if bracketed else 1)


def _proper_fraction(tokens: Sequence[str]) -> tuple[str, int]:
    """Return the fraction below one at the start, and its number of tokens; "" if none is there."""
    if tokens[:1] == [r"\frac"]:
        parts = [token for token in tokens[1:] if token not in ("{", "}")]
        n_tokens = 7 if list(tokens[1::3]) == ["{", "{"] else 0
    else:
        parts, n_tokens = [*tokens[:1], *tokens[2:3]], 3 if tokens[1:2] == ["/"] else 0
    is_proper = n_tokens and len(parts) == 2 and all(map(str.isdecimal, parts))
    if is_proper and 0 < int(parts[0]) < int(parts[1]):
        return "/".join(parts), n_tokens
    return "", 0


def value(token: str) -> Any:
    """Return the exact value of a number token; a power of ten stays a power."""
    if "m" in token:
        whole, _, fraction = token.partition("m")
        mixed = int(whole) + Fraction(fraction)
        return sympy.Rational(mixed.numerator, mixed.denominator)
    decimal, _, exponent = token.lower().partition("e")
    fixed, _, block = decimal.partition("r")
    exact = Fraction(fixed)
    if block:
        n_digits = len(fixed.partition(".")[2])
        exact += Fraction(int(block), (10 ** len(block) - 1) * 10**n_digits)
    number = sympy.Rational(exact.numerator, exact.denominator)
    if not exponent:
        return number
    power = sympy.Pow(10, sympy.Integer(int(exponent)), evaluate=False)
    return sympy.Mul(number, power, evaluate=False)
