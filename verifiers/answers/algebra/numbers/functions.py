"""The functions of mathematics on the numbers of `arithmetic`, by their names in sympy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import sympy
from sympy.polys.domains import QQ_I

from verifiers.answers.algebra.numbers.arithmetic import (
    MAX_EXPONENT_BITS,
    Undecided,
    chopped,
    inexact,
    is_integer,
    mp,
    product,
    rounding_error,
    total,
)

_MAX_EXACT_BITS = 4096  # of an argument: the sine of a longer number needs as many digits of pi
_MAX_INEXACT_BITS = 300  # beyond, the digits of its sine are those of rounding errors
_MAX_FACTORS = 200  # of a binomial coefficient that is multiplied out


def is_known(name: str) -> bool:
    """Tell whether a function has values here."""
    return name in _EXACT or name in _FUNCTIONS


def apply(name: str, arguments: Sequence[Any]) -> Any:
    """Return the value of a function. Undecided for one that is not known, or has no value."""
    if exact := _EXACT.get(name):
        return exact(*arguments)
    if name not in _FUNCTIONS:
        raise Undecided(f"{name} has no value here")
    sizes = [abs(inexact(argument)) for argument in arguments]
    for argument, size in zip(arguments, sizes, strict=True):
        limit = _MAX_EXACT_BITS if QQ_I.of_type(argument) else _MAX_INEXACT_BITS
        if size and mp.mag(size) > limit:
            raise Undecided("the argument is too large")
    result = _FUNCTIONS[name](*map(inexact, arguments))
    if all(map(QQ_I.of_type, arguments)):
        return chopped(result, 0)
    return chopped(result, max(1, *sizes))


def _exponential(argument: Any) -> Any:
    if QQ_I.of_type(argument) and not argument:
        return QQ_I.one
    argument = inexact(argument)
    if abs(argument) > MAX_EXPONENT_BITS:
        raise Undecided("the number is too large")
    result = mp.exp(argument)
    return chopped(result, abs(result))


def _logarithm(argument: Any, base: Any = None) -> Any:
    top = mp.log(inexact(argument))
    top = chopped(top, 0 if QQ_I.of_type(argument) else 1)
    if base is None:
        return top
    return top / mp.log(inexact(base))


def _factorial(argument: Any) -> Any:
    if QQ_I.of_type(argument) and is_integer(argument):
        n = int(argument.x.numerator)
        if 0 <= n <= 10_000:
            return QQ_I(sympy.QQ(int(sympy.factorial(n)), 1), 0)
        if n > 10_000:
            raise Undecided("the factorial is too large")
    return mp.gamma(inexact(argument) + 1)


def _double_factorial(argument: Any) -> Any:
    if QQ_I.of_type(argument) and is_integer(argument):
        n = int(argument.x.numerator)
        if -1 <= n <= 10_000:
            return QQ_I(sympy.QQ(int(sympy.factorial2(n)), 1), 0)
    raise Undecided("the double factorial is of no small integer")


def _binomial(n: Any, k: Any) -> Any:
    if all(QQ_I.of_type(a) and is_integer(a) for a in (n, k)):
        over, under = int(n.x.numerator), int(k.x.numerator)
        if 0 <= over <= 10_000:
            return QQ_I(sympy.QQ(int(sympy.binomial(over, under)), 1), 0)
        raise Undecided("the binomial coefficient is too large")
    if QQ_I.of_type(k) and is_integer(k) and 0 <= k.x <= _MAX_FACTORS:
        result = QQ_I.one
        for i in range(int(k.x)):
            result = product(result, product(total([n, QQ_I(-i, 0)]), QQ_I(sympy.QQ(1, i + 1), 0)))
        return result
    return mp.binomial(inexact(n), inexact(k))


def absolute(argument: Any) -> Any:
    """Return the absolute value, exact for a rational."""
    if QQ_I.of_type(argument) and not argument.y:
        return QQ_I(abs(argument.x), 0)
    return mp.mpc(abs(inexact(argument)))


def _floor(argument: Any) -> Any:
    if QQ_I.of_type(argument) and not argument.y:
        return QQ_I(int(argument.x.numerator) // int(argument.x.denominator), 0)
    value = _real(argument)
    near = mp.nint(value)
    return QQ_I(
        int(
            near if abs(near - value) <= rounding_error() * max(1, abs(value)) else mp.floor(value)
        ),
        0,
    )


def _ceiling(argument: Any) -> Any:
    return QQ_I(-1, 0) * _floor(product(QQ_I(-1, 0), argument))


def _extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: choose(arguments, key=_real)


def _real(value: Any) -> Any:
    value = inexact(value)
    if value.imag:
        raise Undecided("complex numbers have no order")
    return value.real


def _integers(function: Callable[..., Any]) -> Callable[..., Any]:
    def of(*arguments: Any) -> Any:
        if not all(QQ_I.of_type(a) and is_integer(a) for a in arguments):
            raise Undecided("a divisor is defined for integers only")
        return QQ_I(function(*(int(a.x.numerator) for a in arguments)), 0)

    return of


_EXACT: Mapping[str, Callable[..., Any]] = {
    "exp": _exponential,
    "log": _logarithm,
    "factorial": _factorial,
    "factorial2": _double_factorial,
    "binomial": _binomial,
    "Abs": absolute,
    "floor": _floor,
    "ceiling": _ceiling,
    "Max": _extreme(max),
    "Min": _extreme(min),
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
}


@cache
def _reciprocal(name: str) -> Callable[[Any], Any]:
    return lambda x: 1 / chopped(getattr(mp, name)(x), 1)


def _tangent(x: Any) -> Any:
    return mp.sin(x) / chopped(mp.cos(x), max(1, abs(x)))


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(mp, name) for name in ("sin", "cos", "sinh", "cosh", "tanh", "asin", "acos")},
    **{name: getattr(mp, name) for name in ("atan", "asinh", "acosh", "atanh", "gamma", "zeta")},
    **{name: getattr(mp, name) for name in ("acot", "asec", "acsc", "erf")},
    "tan": _tangent,
    "cot": lambda x: mp.cos(x) / chopped(mp.sin(x), max(1, abs(x))),
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
