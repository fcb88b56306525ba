"""Equations, inequalities and sets of real numbers, each with its key.

An equation's key is the ratio of its values at the fixed points, so a constant factor and the order
of the sides do not count. An equation in several unknowns that is linear in its last coordinate
(z, y or x) has the key of the expression that this coordinate equals. Inequalities in one unknown
are solved by sympy, over the reals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
from sympy.polys.domains import QQ_I

from verifiers.answers.algebra.numbers import arithmetic, evaluation, functions
from verifiers.answers.algebra.numbers.arithmetic import (
    Undecided,
    digest,
    digits_key,
    number_key,
)
from verifiers.answers.algebra.numbers.evaluation import POINTS, Evaluator
from verifiers.answers.algebra.values import EMPTY, Value, finite_set, of_scalar, sequence

COORDINATES = ("z", "y", "x")
INEQUALITIES: Mapping[str, Callable[..., Any]] = {
    "<": sympy.StrictLessThan,
    ">": sympy.StrictGreaterThan,
    r"\le": sympy.LessThan,
    r"\ge": sympy.GreaterThan,
    r"\ne": sympy.Ne,
}
_ONE = QQ_I.one


def equation(left: Any, right: Any) -> Value:
    """Return the value of `left = right`. Undecided where its sides cannot be evaluated."""
    difference = sympy.Add(left, sympy.Mul(-1, right, evaluate=False), evaluate=False)
    difference = with_unknowns(difference)
    names = {str(symbol) for symbol in difference.free_symbols}
    if not names:
        raise Undecided("an equation without unknowns")
    dependent = sorted(name for name in names if re.fullmatch(r"\w+'*\(\w\)", name))  # f(x)
    dependent += [name for name in COORDINATES if name in names]
    if len(names) == 1 or dependent:
        solved = _solved(difference, dependent[0] if dependent else next(iter(names)))
    else:
        solved = None
    shown = f"{evaluation.written(left)} = {evaluation.written(right)}"
    if solved is not None:
        is_number = solved.kind == "number"
        return Value(
            solved.kind, solved.key, solved.shown if is_number else f"{solved.shown} in {shown}"
        )
    numerator = sympy.fraction(sympy.together(difference))[0]
    ratios = _ratios([Evaluator(point).value(numerator) for point in POINTS])
    return Value("equation", f"=equation #{digest(ratios)}", shown)


def with_unknowns(expression: sympy.Basic) -> sympy.Basic:
    """Return the expression with `f(x)` as an unknown of its own, as in `0 < f(x) < 1`."""
    functions = expression.atoms(sympy.core.function.AppliedUndef)
    return expression.xreplace({found: sympy.Symbol(str(found)) for found in functions})


def _ratios(found: Sequence[Any]) -> list[str]:
    """Return the keys of all values over the first. Undecided where that is zero."""
    inverse = arithmetic.inverse(found[0])
    return [digits_key(arithmetic.product(value, inverse)) for value in found[1:]]


def _solved(difference: Any, name: str) -> evaluation.Scalar | None:
    """Return what the unknown equals, at the fixed points; None where that is not linear.

    With a + b·name, a and b may have no common factor: `x*y = x` is not `y = 1`, and `x*y = 0` is
    not `y = 0`.
    """
    values, slopes, offsets = [], set(), set()
    for point in POINTS:
        at = [Evaluator(point, {name: _ONE * n}).value(difference) for n in (0, 1, 2, -1)]
        slope = arithmetic.minus(at[1], at[0])
        others = (arithmetic.minus(at[2], at[1]), arithmetic.minus(at[0], at[3]))
        if any(digits_key(other) != digits_key(slope) for other in others):
            return None
        slopes.add(digits_key(slope))
        offsets.add(number_key(at[0]))
        if number_key(slope) == "=0":
            return None
        values.append(arithmetic.product(-at[0], arithmetic.inverse(slope)))
    is_product = len(slopes) > 1 and (len(offsets) > 1 or offsets == {"=0"})
    if is_product and not _have_no_common_factor(difference, name):
        return None
    return evaluation.of_values(values, name)


def _have_no_common_factor(difference: Any, name: str) -> bool:
    """Tell whether a and b of a + b·name are polynomials without a common factor."""
    unknown = sympy.Symbol(name)
    expression = plain(difference)
    try:
        parts = expression.subs(unknown, 0), sympy.diff(expression, unknown)
        return parts[0] != 0 and bool(sympy.gcd(*parts).is_number)
    except sympy.PolynomialError:
        return False


def inequality(sides: Sequence[Any], signs: Sequence[str]) -> Value | sympy.Set:
    """Return the solutions of `a < b < c`: a set of reals; in several unknowns a value."""
    pairs = list(zip(sides, signs, sides[1:], strict=False))
    names = {symbol for side in sides for symbol in side.free_symbols}
    if len(names) == 1:
        solutions = [_solutions(*pair) for pair in pairs]
        return sympy.Intersection(*solutions)
    if len(pairs) > 1 or not names:
        raise Undecided("a chain of inequalities in several unknowns")
    return _several_unknowns(*pairs[0])


def _solutions(left: Any, sign: str, right: Any) -> sympy.Set:
    if sign not in INEQUALITIES:
        raise Undecided(f"{sign} in a chain")
    left, right = plain(left), plain(right)
    for unknown, bound, mirrored in ((left, right, False), (right, left, True)):
        if unknown.is_Symbol and not bound.free_symbols:
            return _ray(bound, _MIRRORED[sign] if mirrored else sign)
    relation = INEQUALITIES[sign](left, right)
    if relation in (sympy.true, sympy.false):
        return sympy.S.Reals if relation == sympy.true else sympy.S.EmptySet
    symbol = next(iter(relation.free_symbols), None)
    if symbol is None:
        raise Undecided("an inequality without unknowns")
    real = sympy.Symbol(symbol.name, real=True)
    return sympy.solveset(relation.subs(symbol, real), real, sympy.Reals)


_MIRRORED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


def _ray(bound: Any, sign: str) -> sympy.Set:
    if sign == r"\ne":
        return sympy.Union(
            sympy.Interval.open(-sympy.oo, bound), sympy.Interval.open(bound, sympy.oo)
        )
    if sign in ("<", r"\le"):
        return sympy.Interval(-sympy.oo, bound, right_open=sign == "<")
    return sympy.Interval(bound, sympy.oo, left_open=sign == ">")


def _several_unknowns(left: Any, sign: str, right: Any) -> Value:
    """Return the value of an inequality: `left - right` up to a positive factor."""
    if sign in (">", r"\ge"):
        left, right, sign = right, left, _MIRRORED[sign]
    difference = sympy.Add(left, sympy.Mul(-1, right, evaluate=False), evaluate=False)
    found = [Evaluator(point).value(difference) for point in POINTS]
    size = arithmetic.inverse(functions.absolute(found[0]))
    keys = [digits_key(arithmetic.product(value, size)) for value in found]
    shown = f"{evaluation.written(left)} {sign} {evaluation.written(right)}"
    if sign == r"\ne":
        keys = _ratios(found)
    return Value("inequality", f"=inequality {sign} #{digest(keys)}", shown)


def plain(expression: Any) -> Any:
    """Return the expression as sympy would have built it. Undecided for huge powers."""
    if not expression.args:
        return expression
    arguments = [plain(argument) for argument in expression.args]
    if expression.is_Pow and arguments[0].is_Rational and arguments[1].is_Rational:
        bits = max(abs(int(arguments[0].p)), int(arguments[0].q)).bit_length()
        if bits * abs(arguments[1]) > 100_000:
            raise Undecided("the number is too long")
    is_counted = expression.func in (sympy.factorial, sympy.binomial)
    if is_counted and arguments[0].is_Integer and arguments[0] > 10_000:
        raise Undecided("the number is too long")
    return expression.func(*arguments)


def real_set(found: sympy.Set) -> Value:
    """Return the value of a set of real numbers; an open interval has the key of its pair of ends.

    Undecided where sympy has not solved it.
    """
    if found is sympy.S.EmptySet:
        return EMPTY
    if isinstance(found, sympy.FiniteSet):
        return finite_set([of_scalar(evaluation.scalar(element)) for element in found.args])
    if found == sympy.S.Reals:
        found = sympy.Interval(-sympy.oo, sympy.oo)
    if isinstance(found, sympy.Interval):
        return interval(found)
    if isinstance(found, sympy.Union):
        parts = [real_set(part) for part in found.args]
        keys = sorted(part.key.removeprefix("=") for part in parts)
        return Value("union", "=" + r" \cup ".join(keys), " ∪ ".join(p.shown for p in parts))
    if isinstance(found, sympy.Complement) and isinstance(found.args[1], sympy.FiniteSet):
        inside, removed = found.args
        taken = [sympy.FiniteSet(point).complement(sympy.Reals) for point in removed.args]
        simple = sympy.Intersection(inside, *taken)
        if not isinstance(simple, sympy.Complement | sympy.Intersection):
            return real_set(simple)
        whole, without = real_set(inside).key[1:], real_set(removed).key[1:]
        return Value("set", f"={whole} without {without}", str(found)[:200])
    if found in _NUMBER_SETS:
        return Value("set", f"={_NUMBER_SETS[found]}", _NUMBER_SETS[found])
    raise Undecided("sympy does not solve it")


_NUMBER_SETS: Mapping[sympy.Set, str] = {
    sympy.S.Integers: "the set of integers",
    sympy.S.Naturals: "the set of natural numbers",
    sympy.S.Naturals0: "the set of natural numbers and zero",
    sympy.S.Rationals: "the set of rational numbers",
    sympy.S.Complexes: "the set of complex numbers",
}


def interval(found: sympy.Interval) -> Value:
    """Return the value of an interval, with the key of a pair if it is open."""
    ends = [_end(found.start), _end(found.end)]
    if found.left_open and found.right_open:
        return sequence(ends, "interval")
    left, right = "(" if found.left_open else "[", ")" if found.right_open else "]"
    keys = ",".join(end.key.removeprefix("=") for end in ends)
    shown = ", ".join(end.shown for end in ends)
    return Value("interval", f"={left}{keys}{right}", f"{left}{shown}{right}")


def _end(end: Any) -> Value:
    if end in (sympy.oo, -sympy.oo):
        return infinity(end == sympy.oo)
    return of_scalar(evaluation.scalar(end))


def infinity(is_positive: bool) -> Value:
    """Return the value of infinity."""
    text = r"\infty" if is_positive else r"-\infty"
    return Value("infinity", "=" + text, text)
