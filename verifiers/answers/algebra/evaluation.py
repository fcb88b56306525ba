"""The value of a sympy expression: exact where it is rational, to 300 digits elsewhere.

    scalar(expression)      # Scalar(kind="number", key="=1/2", ...)

An expression with unknowns is evaluated at four fixed points of both signs, whose
coordinates depend on the names alone. For rational functions those values are exact, and equal
values mean equal functions except with the chance of a hash collision (the lemma of Schwartz and
Zippel, J. ACM 27, 1980). Powers are principal values, as in sympy, but the odd root of a negative
number is real.

The one rule: a value is bounded. What would need more than `_MAX_BITS` is evaluated to 300 digits
and modulo primes; where that is impossible, `Undecided` is raised, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from hashlib import blake2b
from typing import Any

import sympy
from mpmath import MPContext, libmp  # type: ignore[import-untyped]  # it has no types
from sympy.polys.domains import QQ_I

from orchestrator.kit.answers.numbers import rational_key

DIGITS = 300  # significant digits to which two numbers without exact values must agree
_WORKING_DIGITS = 420
_MAX_BITS = 1 << 17
_MAX_EXPONENT_BITS = 1 << 44  # of a result in floating point
POINTS = (0, 1, 2, 3)
_PRIMES = (2**127 - 1, 2**521 - 1)
_MAX_DENOMINATOR = 10**40  # of a rational that a computed value is identified with

mp: Any = MPContext()
mp.dps = _WORKING_DIGITS
_ZERO = mp.mpf(10) ** (20 - _WORKING_DIGITS)
_NEAR = mp.mpf(10) ** -DIGITS


class Undecided(ArithmeticError):
    """An expression without a value that this module can compute."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """`kind` is "number" or "expression"; expressions are equal exactly when their keys are."""

    kind: str
    key: str
    shown: str


def scalar(expression: sympy.Basic) -> Scalar:
    """Return the kind and key of an expression. Undecided where it has no value."""
    points = POINTS if expression.free_symbols else POINTS[:1]
    return from_keys([Evaluator(point).key(expression) for point in points], str(expression)[:200])


def from_keys(keys: list[str], shown: str) -> Scalar:
    """Return the scalar whose values at the fixed points have these keys."""
    if len(set(keys)) == 1:
        return Scalar("number", keys[0], keys[0].removeprefix("=").partition("#")[0])
    return Scalar("expression", f"=expression #{digest(keys)}", shown)


def digest(parts: list[str]) -> str:
    """Return 24 hexadecimal digits that identify a list of texts."""
    return blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=12).hexdigest()


def coordinate(name: str, point: int) -> Any:
    """Return the rational value of an unknown at one of the fixed points.

    All are positive at the first and negative at the second; at the others letters that are
    neighbours differ in sign.
    """
    bits = int.from_bytes(blake2b(f"{point} {name}".encode(), digest_size=4).digest(), "big")
    is_negative = point > 0 and (point == 1 or ord(name[:1] or "x") >> (point - 2) & 1)
    return QQ_I(sympy.QQ(bits + 2**29, 2**31 - 1) * (-1 if is_negative else 1), 0)


class Evaluator:
    """Evaluates expressions at one point."""

    def __init__(self, point: int, known: Mapping[str, Any] | None = None) -> None:
        """`known` overrides the values of some unknowns."""
        self._point = point
        self._known = known or {}
        self._rounded = False  # whether an exact number was too long

    def key(self, expression: Any) -> str:
        """Return the key of the value. Undecided if there is none."""
        key = number_key(self.value(expression))
        if not self._rounded:
            return key
        try:
            residues = [self._residue(expression, prime) for prime in _PRIMES]
        except (ValueError, ZeroDivisionError, Undecided):
            return key  # not rational: equal if 300 digits are
        if residues[0] == residues[1] and residues[0] < 2**64:  # the long numbers cancel
            return rational_key(Fraction(residues[0]))
        return f"{key} mod {digest([format(residue, 'x') for residue in residues])}"

    def value(self, expression: Any) -> Any:
        """Return the value: an element of QQ_I, or an mpc. Undecided if there is none."""
        try:
            return self._value(expression)
        except (ZeroDivisionError, ValueError, OverflowError, libmp.NoConvergence) as error:
            raise Undecided(f"no value: {error}") from error

    def _value(self, node: Any) -> Any:
        if node.is_Rational:
            return QQ_I(sympy.QQ(node.p, node.q), 0)
        if node.is_Symbol:
            known = self._known.get(node.name)
            return coordinate(node.name, self._point) if known is None else known
        if node.is_Add:
            return _sum([self._value(arg) for arg in node.args])
        if node.is_Mul:
            product = QQ_I.one
            for arg in node.args:
                product = _times(product, self._value(arg))
            return product
        if node.is_Pow:
            return self._power(self._value(node.base), self._value(node.exp))
        if node in _CONSTANTS:
            return _CONSTANTS[node]()
        if isinstance(node, sympy.UnevaluatedExpr):
            return self._value(node.args[0])
        return self._function(node)

    def _function(self, node: Any) -> Any:
        name = type(node).__name__
        arguments = [self._value(arg) for arg in getattr(node, "args", ())]
        if exact := _EXACT.get(name):
            return exact(*arguments)
        if isinstance(node, sympy.core.function.AppliedUndef):
            return coordinate(" ".join([name, *map(number_key, arguments)]), self._point)
        if name in _FUNCTIONS:
            result = _FUNCTIONS[name](*map(_inexact, arguments))
            size = max((abs(_inexact(a)) for a in arguments), default=1)
            exact_arguments = all(QQ_I.of_type(a) for a in arguments)
            return _chopped(result, 0 if exact_arguments else max(1, size))
        raise Undecided(f"{name} has no value here")

    def _power(self, base: Any, exponent: Any) -> Any:
        result = _power(base, exponent)
        exact = QQ_I.of_type(base) and QQ_I.of_type(exponent) and _is_integer(exponent)
        self._rounded |= not QQ_I.of_type(result) and (exact or not QQ_I.of_type(exponent))
        return result

    def _residue(self, node: Any, modulus: int) -> int:
        """Return a rational expression modulo a number. ValueError where it is not rational."""
        if node.is_Rational:
            return int(node.p) * pow(int(node.q), -1, modulus) % modulus
        if node.is_Add:
            return sum(self._residue(arg, modulus) for arg in node.args) % modulus
        if node.is_Mul:
            product = 1
            for arg in node.args:
                product = product * self._residue(arg, modulus) % modulus
            return product
        if node.is_Pow:
            exponent = self._value(node.exp)
            base = self._residue(node.base, modulus)
            if QQ_I.of_type(exponent) and _is_integer(exponent):
                return pow(base, int(exponent.x.numerator), modulus)
            if modulus not in _PRIMES or base == 0 or not _is_integral(node.exp):
                raise ValueError("the exponent is too long")
            return pow(base, self._residue(node.exp, modulus - 1), modulus)
        value = self._value(node)
        if not QQ_I.of_type(value) or value.y:
            raise ValueError("not rational")
        return int(value.x.numerator) * pow(int(value.x.denominator), -1, modulus) % modulus


def _is_integral(node: Any) -> bool:
    """Tell whether an expression is made of natural numbers by adding, multiplying and powers."""
    if node.is_Integer:
        return bool(node.p >= 0)
    return (node.is_Add or node.is_Mul or node.is_Pow) and all(map(_is_integral, node.args))


def _is_integer(value: Any) -> bool:
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
    real, imaginary = _inexact(value).real, _inexact(value).imag
    if not (mp.isfinite(real) and mp.isfinite(imaginary)):
        raise Undecided("no finite value")
    size = abs(value)
    parts = [part if abs(part) > _NEAR * size else mp.mpf(0) for part in (real, imaginary)]
    if not parts[1]:
        found = _rational(parts[0])
        return rational_key(found) if found is not None else f"={_part(parts[0])}"
    return "=complex " + " ".join(map(_part, parts))


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
        if abs(mp.mpf(near.numerator) / near.denominator - value) <= _NEAR * abs(value)
        else None
    )


def _inexact(value: Any) -> Any:
    if QQ_I.of_type(value):
        return mp.mpc(*(mp.mpf(int(p.numerator)) / int(p.denominator) for p in (value.x, value.y)))
    return mp.mpc(value)


def _chopped(value: Any, size: Any) -> Any:
    """Return zero for a value that is lost in the rounding errors of numbers of this size."""
    value = mp.mpc(value)
    limit = _ZERO * size
    return mp.mpc(
        value.real if abs(value.real) > limit else 0, value.imag if abs(value.imag) > limit else 0
    )


def _sum(terms: list[Any]) -> Any:
    if all(QQ_I.of_type(term) for term in terms):
        return _bounded(sum(terms, QQ_I.zero))
    terms = [_inexact(term) for term in terms]
    return _chopped(mp.fsum(terms), max(abs(term) for term in terms))


def product(a: Any, b: Any) -> Any:
    """Return a·b, exact if both are."""
    return _times(a, b)


def minus(a: Any, b: Any) -> Any:
    """Return a − b, exact if both are; zero where they agree within the rounding errors."""
    return _sum([a, -b])


def inverse(value: Any) -> Any:
    """Return 1/value. Undecided for zero."""
    try:
        return QQ_I.one / value if QQ_I.of_type(value) else 1 / value
    except ZeroDivisionError as error:
        raise Undecided("division by zero") from error


def absolute(value: Any) -> Any:
    """Return |value|, exact for a rational."""
    return _absolute(value)


def _times(a: Any, b: Any) -> Any:
    if QQ_I.of_type(a) and QQ_I.of_type(b):
        return _bounded(a * b)
    return _inexact(a) * _inexact(b)


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


def _power(base: Any, exponent: Any) -> Any:
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
            return _power(root, QQ_I(over, 0))
    negative = _inexact(base).imag == 0 and _inexact(base).real < 0
    if under % 2 and under > 1 and negative:
        size = _inexact_power(-_inexact(base), exponent)
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
    base, exponent = _inexact(base), _inexact(exponent)
    if not base:
        if exponent.real <= 0:
            raise ZeroDivisionError("zero to a power that is not positive")
        return QQ_I.zero
    if abs(exponent * mp.log(base)) > _MAX_EXPONENT_BITS:
        raise Undecided("the number is too large")
    return _chopped(mp.power(base, exponent), abs(mp.power(abs(base), exponent.real)))


def _exponential(argument: Any) -> Any:
    if QQ_I.of_type(argument) and not argument:
        return QQ_I.one
    argument = _inexact(argument)
    if abs(argument) > _MAX_EXPONENT_BITS:
        raise Undecided("the number is too large")
    result = mp.exp(argument)
    return _chopped(result, abs(result))


def _logarithm(argument: Any, base: Any = None) -> Any:
    top = mp.log(_inexact(argument))
    top = _chopped(top, 0 if QQ_I.of_type(argument) else 1)
    if base is None:
        return top
    return top / mp.log(_inexact(base))


def _factorial(argument: Any) -> Any:
    if QQ_I.of_type(argument) and _is_integer(argument):
        n = int(argument.x.numerator)
        if 0 <= n <= 10_000:
            return QQ_I(sympy.QQ(int(sympy.factorial(n)), 1), 0)
        if n > 10_000:
            raise Undecided("the factorial is too large")
    return mp.gamma(_inexact(argument) + 1)


def _double_factorial(argument: Any) -> Any:
    if QQ_I.of_type(argument) and _is_integer(argument):
        n = int(argument.x.numerator)
        if -1 <= n <= 10_000:
            return QQ_I(sympy.QQ(int(sympy.factorial2(n)), 1), 0)
    raise Undecided("the double factorial is of no small integer")


def _binomial(n: Any, k: Any) -> Any:
    if all(QQ_I.of_type(a) and _is_integer(a) for a in (n, k)):
        over, under = int(n.x.numerator), int(k.x.numerator)
        if 0 <= over <= 10_000:
            return QQ_I(sympy.QQ(int(sympy.binomial(over, under)), 1), 0)
        raise Undecided("the binomial coefficient is too large")
    return mp.binomial(_inexact(n), _inexact(k))


def _absolute(argument: Any) -> Any:
    if QQ_I.of_type(argument) and not argument.y:
        return QQ_I(abs(argument.x), 0)
    return mp.mpc(abs(_inexact(argument)))


def _floor(argument: Any) -> Any:
    if QQ_I.of_type(argument) and not argument.y:
        return QQ_I(int(argument.x.numerator) // int(argument.x.denominator), 0)
    value = _real(argument)
    near = mp.nint(value)
    return QQ_I(
        int(near if abs(near - value) <= _ZERO * max(1, abs(value)) else mp.floor(value)), 0
    )


def _ceiling(argument: Any) -> Any:
    return QQ_I(-1, 0) * _floor(_times(QQ_I(-1, 0), argument))


def _extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: choose(arguments, key=_real)


def _real(value: Any) -> Any:
    value = _inexact(value)
    if value.imag:
        raise Undecided("complex numbers have no order")
    return value.real


def _integers(function: Callable[..., Any]) -> Callable[..., Any]:
    def of(*arguments: Any) -> Any:
        if not all(QQ_I.of_type(a) and _is_integer(a) for a in arguments):
            raise Undecided("a divisor is defined for integers only")
        return QQ_I(function(*(int(a.x.numerator) for a in arguments)), 0)

    return of


_CONSTANTS: Mapping[Any, Callable[[], Any]] = {
    sympy.pi: lambda: mp.mpc(mp.pi),
    sympy.E: lambda: mp.mpc(mp.e),
    sympy.I: lambda: QQ_I(0, 1),
    sympy.EulerGamma: lambda: mp.mpc(mp.euler),
    sympy.GoldenRatio: lambda: mp.mpc(mp.phi),
    sympy.Catalan: lambda: mp.mpc(mp.catalan),
}
_EXACT: Mapping[str, Callable[..., Any]] = {
    "exp": _exponential,
    "log": _logarithm,
    "factorial": _factorial,
    "factorial2": _double_factorial,
    "binomial": _binomial,
    "Abs": _absolute,
    "floor": _floor,
    "ceiling": _ceiling,
    "Max": _extreme(max),
    "Min": _extreme(min),
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
}


@cache
def _reciprocal(name: str) -> Callable[[Any], Any]:
    return lambda x: 1 / _chopped(getattr(mp, name)(x), 1)


def _tangent(x: Any) -> Any:
    return mp.sin(x) / _chopped(mp.cos(x), max(1, abs(x)))


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(mp, name) for name in ("sin", "cos", "sinh", "cosh", "tanh", "asin", "acos")},
    **{name: getattr(mp, name) for name in ("atan", "asinh", "acosh", "atanh", "gamma", "zeta")},
    **{name: getattr(mp, name) for name in ("acot", "asec", "acsc", "erf")},
    "tan": _tangent,
    "cot": lambda x: mp.cos(x) / _chopped(mp.sin(x), max(1, abs(x))),
    "sec": _reciprocal("cos"),
    "csc": _reciprocal("sin"),
    "coth": mp.coth,
    "sech": mp.sech,
    "csch": mp.csch,
    "sign": mp.sign,
    "re": mp.re,
    "im": mp.im,
    "arg": mp.arg,
    "conjugate": mp.conj,
}
