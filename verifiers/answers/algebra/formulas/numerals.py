r"""Decimals whose digits repeat: `0.1\overline{6}`, `0.(3)`, `0.333...`, joined into one token.

The joined token is written `0.1r6`: the digits behind `r` repeat without end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import sympy

from verifiers.answers.algebra.formulas.notation import Unreadable

_DECIMAL = re.compile(r"\d*\.\d*")
_LINES = frozenset([r"\overline", r"\bar", r"\dot"])
_DOTS = frozenset([r"\ldots", r"\dots", r"\cdots"])
_REPEATED = re.compile(r"(\d)\1{2,}$|(\d{2,6})\2$")


def join(tokens: Sequence[str]) -> list[str]:
    """Return the tokens with each repeating decimal as one. Unreadable where it is not clear."""
    out: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if not _DECIMAL.fullmatch(token) or token == "." or at == len(tokens):
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


def _block(tokens: Sequence[str], at: int) -> tuple[str, int]:
    """Return the digits under a line or in brackets, and where they end; no digits if none."""
    bracketed = tokens[at : at + 1] in (["{"], ["("])
    digits = tokens[at + bracketed : at + bracketed + 1]
    if not digits or not digits[0].isdecimal():
        return "", at
    if bracketed and tokens[at + 2 : at + 3] not in (["}"], [")"]):
        return "", at
    return digits[0], at + (3 if bracketed else 1)


def value(token: str) -> Any:
    """Return the exact value of a number token; a power of ten stays a power."""
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
