"""The value of a sympy expression: exact where it is rational, to 300 digits elsewhere.

    scalar(expression)      # Scalar(kind="number", key="=1/2", ...)

An expression with unknowns is evaluated at five fixed points, whose coordinates depend on the
names alone; the values must agree to 300 digits. For rational functions with coefficients of
moderate size that means equal functions, except with the chance of a hash collision (the lemma of
Schwartz and Zippel, J. ACM 27, 1980). Powers are principal values, as in sympy, but the odd root of
a negative number is real.

The one rule: a value is bounded. What would need more than `_MAX_BITS` is evaluated to 300 digits
and modulo primes; where that is impossible, `Undecided` is raised, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from typing import Any

import sympy
from sympy.polys.domains import QQ_I

from orchestrator.kit.answers.numbers import rational_key
from verifiers.answers.algebra.numbers import arithmetic, functions
from verifiers.answers.algebra.numbers.arithmetic import (
    Undecided,
    digest,
    digits_key,
    is_integer,
    mp,
    number_key,
)

POINTS = (0, 1, 2, 3, 4)
_MAX_SHOWN = 200
_NATURAL = 2  # the point of natural numbers
_MAX_POLES = 2  # points at which an expression may have no value
_SIZES = (sympy.QQ(1, 4), 1, 1, 21, 5)
_PRIMES = (2**127 - 1, 2**521 - 1)
_CHECKING_DIGITS = 700  # with which a computed value is a rational, if it seems to be one


@dataclass(frozen=True, slots=True)
class Scalar:
    """`kind` is "number" or "expression"; expressions are equal exactly when their keys are."""

    kind: str
    key: str
    shown: str


def scalar(expression: sympy.Basic) -> Scalar:
    """Return the kind and key of an expression. Undecided where it has no value."""
    shown = written(expression)
    if not expression.free_symbols:
        key = Evaluator(POINTS[0]).key(expression)
        return Scalar("number", key, key.removeprefix("=").partition("#")[0])
    return of_values([_value_at(expression, point) for point in POINTS], shown)


def _value_at(expression: Any, point: int) -> Any:
    try:
        return Evaluator(point).value(expression)
    except Undecided:
        return None


def of_values(values: Sequence[Any], shown: str) -> Scalar:
    """Return the scalar with these values at the fixed points; None where it has none.

    Undecided without a value at three points. A function that is the same everywhere is a number.
    """
    if values.count(None) > _MAX_POLES:
        raise Undecided("it has no value at several points")
    keys = ["none" if value is None else digits_key(value) for value in values]
    if len(set(keys)) == 1:
        key = number_key(values[0])
        return Scalar("number", key, key.removeprefix("=").partition("#")[0])
    return Scalar("expression", f"=expression #{digest(keys)}", shown)


def written(expression: Any) -> str:
    """Return the expression as text for people, with its terms in the order in which they stand."""
    try:
        return str(sympy.sstr(expression, order="none"))[:_MAX_SHOWN]
    except (OverflowError, ValueError, RecursionError):  # very long numbers
        return "..."


def coordinate(name: str, point: int) -> Any:
    """Return the rational value of an unknown at one of the fixed points.

    All are positive at the first and negative at the second, all are natural numbers at the third.
    At the others letters that are neighbours differ in sign.
    """
    bits = int.from_bytes(blake2b(f"{point} {name}".encode(), digest_size=4).digest(), "big")
    if point == _NATURAL:
        return QQ_I(11 + bits % 100, 0)
    # an even denominator: a power of a negative number with this exponent is not real
    size = sympy.QQ(2 * bits + 2**30 + 1, 2**32) * _SIZES[point]
    is_odd = ord(name[:1] or "x") >> max(0, point - _NATURAL - 1) & 1
    is_negative = point == 1 or (point > _NATURAL and is_odd)
    return QQ_I(-size if is_negative else size, 0)


_CONSTANTS: Mapping[Any, Callable[[], Any]] = {
    sympy.pi: lambda: mp.mpc(mp.pi),
    sympy.E: lambda: mp.mpc(mp.e),
    sympy.I: lambda: QQ_I(0, 1),
    sympy.EulerGamma: lambda: mp.mpc(mp.euler),
    sympy.GoldenRatio: lambda: mp.mpc(mp.phi),
    sympy.Catalan: lambda: mp.mpc(mp.catalan),
}


class Evaluator:
    """Evaluates expressions at one point."""

    def __init__(self, point: int, known: Mapping[str, Any] | None = None) -> None:
        """`known` overrides the values of some unknowns."""
        self._point = point
        self._known = known or {}
        self._rounded = False  # whether an exact number was too long
        self._has_gamma = False  # whose values to many digits take seconds

    def key(self, expression: Any) -> str:
        """Return the key of the value. Undecided if there is none."""
        try:
            return self._key(expression)
        except OverflowError as error:  # more digits than Python converts
            raise Undecided(str(error)) from error

    def _key(self, expression: Any) -> str:
        value = self.value(expression)
        key = number_key(value)
        is_exact = QQ_I.of_type(value) or self._has_gamma
        if not is_exact and arithmetic.is_rational_key(key):
            with mp.workdps(_CHECKING_DIGITS):  # 1 + e^{-1000} is not 1
                if number_key(self.value(expression)) != key:
                    key = f"={key[1:]} nearly"
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
        except (ZeroDivisionError, ValueError, OverflowError, arithmetic.NoConvergence) as error:
            raise Undecided(f"no value: {error}") from error

    def _value(self, node: Any) -> Any:
        if node.is_Rational:
            return QQ_I(sympy.QQ(node.p, node.q), 0)
        if node.is_Symbol:
            known = self._known.get(node.name)
            return coordinate(node.name, self._point) if known is None else known
        if node.is_Add:
            return arithmetic.total([self._value(arg) for arg in node.args])
        if node.is_Mul:
            result = QQ_I.one
            for arg in node.args:
                result = arithmetic.product(result, self._value(arg))
            return result
        if node.is_Pow:
            return self._power(self._value(node.base), self._value(node.exp))
        if node in _CONSTANTS:
            return _CONSTANTS[node]()
        if isinstance(node, sympy.UnevaluatedExpr):
            return self._value(node.args[0])
        return self._function(node)

    def _function(self, node: Any) -> Any:
        name = type(node).__name__
        arguments = [self._value(argument) for argument in getattr(node, "args", ())]
        if isinstance(node, sympy.core.function.AppliedUndef) and not functions.is_known(name):
            return coordinate(" ".join([name, *map(number_key, arguments)]), self._point)
        self._has_gamma |= name in ("factorial", "factorial2", "binomial", "gamma", "zeta")
        return functions.apply(name, arguments)

    def _power(self, base: Any, exponent: Any) -> Any:
        result = arithmetic.power(base, exponent)
        exact = QQ_I.of_type(base) and QQ_I.of_type(exponent) and is_integer(exponent)
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
            if QQ_I.of_type(exponent) and is_integer(exponent):
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
