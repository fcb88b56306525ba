r"""Sets of real numbers as they are written: intervals, unions, conditions on an unknown.

Inequalities are solved by `relations`; what is read here are their joints, brackets and braces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy

from verifiers.answers.algebra import relations
from verifiers.answers.algebra.formulas.notation import (
    Unreadable,
    closing,
    depths,
    outer,
    split,
    stripped,
    without_braces,
)
from verifiers.answers.algebra.formulas.parser import parse
from verifiers.answers.algebra.values import Value, short

AND = frozenset(["and", r"\text{and}", r"\wedge", "&"])
OR = frozenset(["or", r"\text{or}", r"\vee"])
COMMAS = frozenset([",", ";"])
NAMED = {
    r"\mathbb{R}": sympy.S.Reals, r"\mathbb{Z}": sympy.S.Integers, r"\mathbb{N}": sympy.S.Naturals,
    r"\mathbb{Q}": sympy.S.Rationals, r"\mathbb{C}": sympy.S.Complexes,
}  # fmt: skip
EMPTY = frozenset([r"\emptyset", r"\{\}", r"\text{Ø}", "Ø"])
_SIGNS = frozenset([*relations.INEQUALITIES, "="])


def conditions(parts: Sequence[list[str]], combine: Callable[..., sympy.Set]) -> Value | None:
    """Return the solutions of conditions; None if a part is no condition.

    `x > 0` and `y > 0` are not two rays of one line: each unknown keeps its name then.
    """
    sets: dict[str, list[sympy.Set]] = {}
    signs = {token for part in parts for token in outer(part)}
    if r"\in" not in signs and not signs & set(relations.INEQUALITIES):
        return None  # values, not conditions
    for part in parts:
        found = condition(part)
        if found is None:
            return None
        sets.setdefault(found[0], []).append(found[1])
    solved = {name: relations.real_set(combine(*parts)) for name, parts in sorted(sets.items())}
    if len(solved) == 1:
        return next(iter(solved.values()))
    if combine is sympy.Union:
        raise Unreadable("a choice between conditions on different unknowns")
    keys = "; ".join(f"{name}: {value.key[1:]}" for name, value in solved.items())
    shown = "; ".join(f"{name}: {value.shown}" for name, value in solved.items())
    return Value("conditions", short(f"={keys}"), shown)


def condition(part: list[str]) -> tuple[str, sympy.Set] | None:
    """Return the unknown and the solutions of an inequality, or of `x ∈` an interval."""
    if r"\in" in part:
        at = part.index(r"\in")
        return "".join(stripped(part[:at])), as_set(stripped(part[at + 1 :]))
    if len(part) > 2 and part[0].isalpha() and "=" in stripped(part[1:])[:1]:  # x = -2
        value = relations.plain(parse(stripped(part[part.index("=") + 1 :])))
        return None if value.free_symbols else (part[0], sympy.FiniteSet(value))
    if not any(token in relations.INEQUALITIES for token in outer(part)):
        return None
    solutions = inequality(part)
    if not isinstance(solutions, sympy.Set):
        return None
    names = {token for token in part if token.isalpha() and token not in ("e", "i")}
    return "".join(sorted(names)), solutions


def all_or_any(*sets: sympy.Set) -> sympy.Set:
    """Return what lies in all sets, or in any where nothing lies in all: `x < 1, x > 2`."""
    both = sympy.Intersection(*sets)
    return both if both is not sympy.S.EmptySet else sympy.Union(*sets)


def french_interval(found: Sequence[str]) -> Value | None:
    """Read `]0,3[`, whose brackets close what they open elsewhere."""
    if found[0] not in ("]", "[", "(") or found[-1] not in ("[", "]", ")"):
        return None
    if found[0] != "]" and found[-1] != "[":
        return None
    inside = split(found[1:-1], COMMAS)
    if len(inside) != 2:
        return None
    left = "[" if found[0] == "[" else "("
    return relations.interval(interval(inside, left, "]" if found[-1] == "]" else ")"))


def inequality(found: Sequence[str]) -> Value | sympy.Set:
    """Return the solutions of an inequality; a value in several unknowns."""
    signs = [t for t, d in zip(found, depths(found), strict=True) if d == 0 and t in _SIGNS]
    sides = [relations.with_unknowns(parse(part)) for part in split(found, _SIGNS)]
    if sides[0].is_Symbol and "=" in signs[:1]:  # f(x) = ... >= 3 states nothing simple
        raise Unreadable("an equation and an inequality in one")
    return relations.inequality(sides, signs)


def operation(found: list[str]) -> Value | None:
    """Read a union, an intersection or a difference of sets."""
    if not set(outer(found)) & {r"\cup", r"\cap", r"\setminus"}:
        return None
    return relations.real_set(as_set(found))


def as_set(found: list[str]) -> sympy.Set:
    """Return the sympy set of an interval, a union, a set of numbers. Unreadable otherwise."""
    found = without_braces(found)
    for separator, combine in (
        (r"\cup", sympy.Union),
        (r"\cap", sympy.Intersection),
        (r"\setminus", sympy.Complement),
    ):
        parts = split(found, frozenset([separator]))
        if len(parts) > 1:
            return combine(*(as_set(part) for part in parts))
    if len(found) == 1 and found[0] in NAMED:
        return NAMED[found[0]]
    if "".join(found) in EMPTY:
        return sympy.S.EmptySet
    if found and found[0] == r"\{" and closing(found, 0) == len(found) - 1:
        described = builder(found[1:-1])
        if described is not None:
            return described
        parts = split(found[1:-1], COMMAS)
        return sympy.FiniteSet(*(relations.plain(parse(part)) for part in parts))
    if found and found[0] in ("(", "[") and found[-1] in (")", "]"):
        return interval(split(found[1:-1], COMMAS), found[0], found[-1])
    raise Unreadable("not a set")


def interval(ends: Sequence[list[str]], left: str, right: str) -> sympy.Interval:
    """Return the interval with these ends. Unreadable if they are not in order."""
    if len(ends) != 2:
        raise Unreadable("an interval has two ends")
    start, end = (relations.plain(parse(part)) for part in ends)
    found = sympy.Interval(start, end, left_open=left == "(", right_open=right == ")")
    if not isinstance(found, sympy.Interval):
        raise Unreadable("the ends of an interval are in order")
    return found


def builder(inside: list[str]) -> sympy.Set | None:
    r"""Return the set of `\{x \mid x \ge 4\}`, None if there is no condition."""
    for separator in ("|", ":"):
        parts = split(inside, frozenset([separator]))
        if len(parts) < 2:
            continue
        if len(parts) > 2:
            raise Unreadable("two conditions")
        domain = sympy.S.Reals
        if r"\in" in parts[0]:
            domain = as_set(stripped(parts[0][parts[0].index(r"\in") + 1 :]))
        alternatives = split(parts[1], OR)
        pieces = [p for group in split(parts[1], AND) for p in split(group, COMMAS) if p]
        combine = sympy.Union if len(alternatives) > 1 else sympy.Intersection
        found = [condition(part) for part in (alternatives if len(alternatives) > 1 else pieces)]
        if None in found or len({name for name, _ in filter(None, found)}) > 1:
            raise Unreadable("a condition that is no inequality in one unknown")
        combined = combine(*(solutions for _, solutions in filter(None, found)))
        return sympy.Intersection(domain, combined)
    return None
