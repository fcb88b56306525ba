"""Arithmetic with numbers that are exact where they are rational, and have 420 digits elsewhere.

An exact number is an element of sympy's `QQ_I` (rationals with an imaginary part), any other an mpc
of mpmath. `number_key` decides which of them are the same.
"""

from __future__ import annotations

from fractions import Fraction
from hashlib import blake2b
from typing import Any

import sympy
from mpmath import MPContext, libmp
from sympy.polys.domains import QQ_I

from orchestrator.kit.answers.numbers import rational_key

DIGITS = 300  # significant digits to which two numbers without exact values must agree
_GUARD_DIGITS = 120  # more digits than those with which is computed
_MAX_BITS = 1 << 17
MAX_EXPONENT_BITS = 1 << 44  # of a result in floating point
_MAX_DENOMINATOR = 10**40  # of a rational that a computed value is identified with

mp: Any = MPContext()
mp.dps = DIGITS + _GUARD_DIGITS
NoConvergence = libmp.NoConvergence


class Undecided(ArithmeticError):
    """An expression without a value that can be computed here."""


def digest(parts: list[str]) -> str:
    """Return 24 hexadecimal digits that identify a list of texts."""
    return blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=12).hexdigest()


def rounding_error() -> Any:
    """Return the size, relative to its terms, below which a computed number is zero."""
    return mp.mpf(10) ** (20 - mp.dps)


def _near() -> Any:
    return mp.mpf(10) ** -min(mp.dps - _GUARD_DIGITS, 3 * DIGITS)


def is_integer(value: Any) -> bool:
    """Tell whether an exact number is an integer."""
    return not value.y and value.x.denominator == 1


def number_key(value: Any) -> str:
    """Return the key of a number: `=n/d`, or its first digits and a digest of 300."""
    if QQ_I.of_type(value):
        real, imaginary = (
            Fraction(int(p.numerator), int(p.denominator)) for p in (value.x, value.y)
        )
        if not imaginary:
            return rational_key(real)
        return f"=complex {_part(real)} {_part(imaginary)}"
    real, imaginary = inexact(value).real, inexact(value).imag
    if not (mp.isfinite(real) and mp.isfinite(imaginary)):
        raise Undecided("no finite value")
    size = abs(value)
    parts = [part if abs(part) > _near() * size else mp.mpf(0) for part in (real, imaginary)]
    if not parts[1]:
        found = _rational(parts[0])
        return rational_key(found) if found is not None else f"={_part(parts[0])}"
    return "=complex " + " ".join(map(_part, parts))


def digits_key(value: Any) -> str:
    """Return the key of a value at a point: 300 digits, also of an exact number.

    Unlike `number_key` it does not show whether the value was computed exactly: the value of
    `2^{x^2}` may be exact where that of `e^(x^2 ln 2)` is not.
    """
    value = inexact(value)
    size = abs(value)
    if not mp.isfinite(size):
        raise Undecided("no finite value")
    parts = [p if abs(p) > _near() * size else mp.mpf(0) for p in (value.real, value.imag)]
    return " ".join(mp.nstr(part, DIGITS) for part in parts)


def _part(value: Any) -> str:
    found = value if isinstance(value, Fraction) else _rational(value)
    if found is not None:
        return rational_key(found).removeprefix("=")
    written = mp.nstr(value, DIGITS)
    return f"{mp.nstr(value, 12)}...#{digest([written])}"


def _rational(value: Any) -> Fraction | None:
    """Return the rational with a small denominator that a computed real number is, or None."""
    if not value:
        return Fraction(0)
    sign, mantissa, exponent, bits = value._mpf_
    if abs(exponent + bits) > 4096:
        return None
    exact = Fraction(int(mantissa) * (-1 if sign else 1)) * Fraction(2) ** int(exponent)
    near = exact.limit_denominator(_MAX_DENOMINATOR)
    return (
        near
        if abs(mp.mpf(near.numerator) / near.denominator - value) <= _near() * abs(value)
        else None
    )


def inexact(value: Any) -> Any:
    """Return the number as an mpc."""
    if QQ_I.of_type(value):
        return mp.mpc(*(mp.mpf(int(p.numerator)) / int(p.denominator) for p in (value.x, value.y)))
    return mp.mpc(value)


def chopped(value: Any, size: Any) -> Any:
    """Return zero for a value that is lost in the rounding errors of numbers of this size."""
    value = mp.mpc(value)
    limit = rounding_error() * size
    return mp.mpc(
        value.real if abs(value.real) > limit else 0, value.imag if abs(value.imag) > limit else 0
    )


def total(terms: list[Any]) -> Any:
    """Return the sum, exact if all terms are; zero where it is lost in the rounding errors."""
    if all(QQ_I.of_type(term) for term in terms):
        return _bounded(sum(terms, QQ_I.zero))
    terms = [inexact(term) for term in terms]
    return chopped(mp.fsum(terms), max(abs(term) for term in terms))


def minus(a: Any, b: Any) -> Any:
    """Return a − b, exact if both are; zero where they agree within the rounding errors."""
    return total([a, -b])


def inverse(value: Any) -> Any:
    """Return 1/value. Undecided for zero."""
    try:
        return QQ_I.one / value if QQ_I.of_type(value) else 1 / value
    except ZeroDivisionError as error:
        raise Undecided("division by zero") from error


def product(a: Any, b: Any) -> Any:
    """Return a·b, exact if both are."""
    if QQ_I.of_type(a) and QQ_I.of_type(b):
        return _bounded(a * b)
    return inexact(a) * inexact(b)


def _bounded(value: Any) -> Any:
    if _bits(value) > 64 * _MAX_BITS:
        raise Undecided("the number is too long")
    return value


def _bits(value: Any) -> int:
    return max(
        int(part).bit_length()
        for number in (value.x, value.y)
        for part in (number.numerator, number.denominator)
    )


def power(base: Any, exponent: Any) -> Any:
    """Return the principal power; a real root where the exponent has an odd denominator."""
    exact_exponent = QQ_I.of_type(exponent) and not exponent.y
    if not exact_exponent:
        return _inexact_power(base, exponent)
    over, under = int(exponent.x.numerator), int(exponent.x.denominator)
    if QQ_I.of_type(base):
        if not base:
            if over <= 0:
                raise ZeroDivisionError("zero to a power that is not positive")
            return QQ_I.zero
        if under == 1 and _fits(base, over):
            return base**over if over >= 0 else QQ_I.one / base**-over
        if under > 1 and not base.y and (root := _root(base.x, under)) is not None:
            return power(root, QQ_I(over, 0))
    negative = inexact(base).imag == 0 and inexact(base).real < 0
    if under % 2 and under > 1 and negative:
        size = _inexact_power(-inexact(base), exponent)
        return -size if over % 2 else size
    return _inexact_power(base, exponent)


def _fits(base: Any, exponent: int) -> bool:
    return abs(exponent) * _bits(base) <= _MAX_BITS or base in (QQ_I.one, -QQ_I.one)


def _root(value: Any, degree: int) -> Any:
    """Return the exact root of a rational, or None; odd roots of negative numbers are real."""
    over, under = int(value.numerator), int(value.denominator)
    if over < 0 and degree % 2 == 0:
        return None if (root := _root(-value, degree)) is None or degree != 2 else root * QQ_I(0, 1)
    if degree > max(abs(over).bit_length(), under.bit_length()) + 1:
        return QQ_I(over, 0) if (over, under) in ((1, 1), (-1, 1)) else None
    roots = [sympy.integer_nthroot(abs(part), degree) for part in (over, under)]
    if not all(exact for _, exact in roots):
        return None
    return QQ_I(sympy.QQ(roots[0][0], roots[1][0]) * (-1 if over < 0 else 1), 0)


def _inexact_power(base: Any, exponent: Any) -> Any:
    base, exponent = inexact(base), inexact(exponent)
    if not base:
        if exponent.real <= 0:
            raise ZeroDivisionError("zero to a power that is not positive")
        return QQ_I.zero
    if abs(exponent * mp.log(base)) > MAX_EXPONENT_BITS:
        raise Undecided("the number is too large")
    return chopped(mp.power(base, exponent), abs(mp.power(abs(base), exponent.real)))


def is_rational_key(key: str) -> bool:
    """Tell whether a key is that of a rational number."""
    return key[1:].lstrip("-").replace("/", "", 1).isdecimal()
