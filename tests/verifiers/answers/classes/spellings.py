"""Answers of every type of the `math` domain, each with the value that decides its class.

`ANSWERS[type]` draws a value and up to three of the ways to write it. Two values are equal exactly
when the table in docs/answers.md makes the answers one, also across types: a ratio and its number,
an open interval and the pair of its ends, a line and the expression for y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any

from expression_spellings import TREES, meaning, spelling
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

Value = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Spelled:
    value: Value
    text: str


SMALL = st.integers(-9, 9)
POSITIVE = st.integers(1, 9)
_INTEGERS = st.one_of(SMALL, st.integers(-(10**6), 10**6), st.integers(10**30, 10**30 + 9))
_RATIONALS = st.builds(Fraction, _INTEGERS, st.integers(1, 60))
_SMALL_RATIONALS = st.builds(Fraction, SMALL, POSITIVE)
_PAIRS = st.lists(_SMALL_RATIONALS, min_size=2, max_size=2)
_WORDS = ("odd", "even", "yes", "no", "Tuesday", "blue whale", "left", "parabola", "undefined")
_SQUAREFREE = (2, 3, 5, 6, 7, 10, 11)


def _answers(
    values: SearchStrategy[Any],
    meaning: Callable[[Any], Value],
    spelling: Callable[[DrawFn, Any], str],
) -> SearchStrategy[list[Spelled]]:
    """Draw several spellings of one value; `meaning` is what other answers are compared by."""

    @st.composite
    def several(draw: DrawFn) -> list[Spelled]:
        value = draw(values)
        return [Spelled(meaning(value), spelling(draw, value)) for _ in range(draw(_N_SPELLINGS))]

    return several()


_N_SPELLINGS = st.integers(1, 3)


def _is_decimal(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _decimal(value: Fraction) -> str:
    """Return all digits of a decimal that ends."""
    places = next(n for n in range(40) if (value * 10**n).denominator == 1)
    digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    return ("-" if value < 0 else "") + whole + (f".{part}" if part else "")


def _fraction(draw: DrawFn, value: Fraction) -> str:
    """Draw a spelling of a rational that may stand inside a larger answer."""
    n, d, k = value.numerator, value.denominator, draw(POSITIVE)
    sign = "-" if n < 0 else ""
    ways = [rf"{sign}\frac{{{abs(n) * k}}}{{{d * k}}}", f"{n * k}/{d * k}"]
    ways += [rf"{sign}\dfrac{{{abs(n)}}}{{{d}}}"]
    if d == 1:
        ways += [str(n), str(n), f"{n}.0"]
    if _is_decimal(value):
        ways.append(_decimal(value))
    return draw(st.sampled_from(ways))


def _number(draw: DrawFn, value: Fraction) -> str:
    text = _fraction(draw, value)
    if draw(st.booleans()):
        frames = ["${}$", r"\left({}\right)", r"\boxed{{{}}}", "x = {}", r"{}\text{{ cm}}", "{} kg"]
        return draw(st.sampled_from([*frames, r"\displaystyle {}", "{}.", "{}\\,"])).format(text)
    if _is_decimal(value):
        frames = [r"{}\%", "{}%", "{} percent"]
        return draw(st.sampled_from(frames)).format(_decimal(value * 100))
    return text


def _tiny(draw: DrawFn, value: tuple[int, int]) -> str:
    base, power = value
    ways = (rf"{base}^{{-{power}}}", rf"\frac{{1}}{{{base}^{{{power}}}}}")
    return draw(st.sampled_from((*ways, rf"\left(\frac{{1}}{{{base}}}\right)^{{{power}}}")))


def _root(draw: DrawFn, value: tuple[int, int, int]) -> str:
    p, q, r = value
    ways = (rf"{q}\sqrt{{{r}}}", rf"\sqrt{{{q * q * r}}}", rf"{q}\cdot {r}^{{1/2}}")
    root = draw(st.sampled_from((*ways, rf"{q}\sqrt{r}") if r < 10 else ways))
    return draw(st.sampled_from((f"{p}+{root}", f"{root}{p:+}")))


def _complex(draw: DrawFn, value: tuple[int, int]) -> str:
    a, b = value
    ways = (f"{a}+{b}i", rf"{a} + {b}\mathrm{{i}}", f"{b}i{a:+}", f"{a} + {b}*i")
    return draw(st.sampled_from(ways))


def _word(draw: DrawFn, word: str) -> str:
    ways = (word, word.upper(), rf"\text{{{word}}}", word.capitalize() + ".", f"**{word}**")
    return draw(st.sampled_from(ways))


def _tuple_value(entries: list[Fraction]) -> Value:
    """Return the value of a tuple: that of an open interval too, where it is one."""
    if len(entries) == 2 and entries[0] < entries[1]:
        return ("interval", *entries, False, False)
    return ("tuple", *entries)


def _tuple(draw: DrawFn, entries: list[Fraction]) -> str:
    texts = [_fraction(draw, entry) for entry in entries]
    frames = [(r"({})", ","), (r"\left({}\right)", ", "), (r"\langle {}\rangle", ",")]
    frames.append((r"\begin{{pmatrix}}{}\end{{pmatrix}}", r"\\"))
    if len(entries) == 2:
        frames += [("x={}", ", y="), ("(x,y)=({})", ","), (r"x={}", r"\text{ and }y=")]
    frame, comma = draw(st.sampled_from(frames))
    return frame.format(comma.join(texts))


def _set(draw: DrawFn, members: list[Fraction]) -> str:
    texts = [_fraction(draw, member) for member in draw(st.permutations(members))]
    ways = [r"\{" + ",".join(texts) + r"\}", ", ".join(texts), "; ".join(texts)]
    ways += [", ".join(texts[:-1]) + rf" \text{{ and }} {texts[-1]}"]
    ways += [" or ".join(f"x={text}" for text in texts), r"x\in\{" + ", ".join(texts) + r"\}"]
    return draw(st.sampled_from(ways))


def _interval(draw: DrawFn, value: tuple[list[Fraction], bool, bool]) -> str:
    ends, with_left, with_right = value
    a, b = [_fraction(draw, end) for end in ends]
    name = draw(st.sampled_from("xyt"))
    left, right = r"\le " if with_left else "<", r"\leq " if with_right else "<"
    bracketed = ("[" if with_left else "(") + f"{a},{b}" + ("]" if with_right else ")")
    more = r"\ge " if with_left else ">"
    ways = [bracketed, rf"x \in {bracketed}", f"{a}{left}{name}{right}{b}"]
    ways += [rf"{name}{more}{a} \text{{ and }} {name}{right}{b}"]
    return draw(st.sampled_from([*ways, rf"\{{{name}\mid {a}{left}{name}{right}{b}\}}"]))


def _ray(draw: DrawFn, value: tuple[Fraction, bool]) -> str:
    end, with_end = value
    text = _fraction(draw, end)
    bracketed = ("[" if with_end else "(") + text + r",\infty)"
    sign, mirrored = (r"\ge ", r"\le ") if with_end else (">", "<")
    ways = (bracketed, f"x{sign}{text}", f"{text}{mirrored}t", rf"\{{x: x{sign}{text}\}}")
    return draw(st.sampled_from(ways))


def _line(draw: DrawFn, value: tuple[int, int]) -> str:
    (m, c), k = value, draw(POSITIVE)
    ways = (f"y={m}x{c:+}", f"{m}x{c:+}", f"y-{m}x={c}", f"{k * m}x-{k}y={-k * c}")
    ways += (f"{k * m}x-{k}y{k * c:+}=0", f"f(x)={m}x{c:+}", f"y = {c}+{m}*x", f"{m}x{c:+}=y")
    return draw(st.sampled_from(ways))


def _polynomial(draw: DrawFn, roots: list[int]) -> str:
    p, q = roots
    ways = (f"(x-{p})(x-{q})", f"(x-{q})(x-{p})", f"x^2-{p + q}x+{p * q}", f"x(x-{p + q})+{p * q}")
    ways += (f"{p * q}-{p + q}x+x^{{2}}", f"x**2 - {p + q}*x + {p * q}")
    return draw(st.sampled_from(ways))


def _circle(draw: DrawFn, square: int) -> str:
    k = draw(POSITIVE)
    ways = (f"x^2+y^2={square}", f"{k}x^2+{k}y^2={k * square}", f"y^2={square}-x^2")
    return draw(st.sampled_from((*ways, f"{square}=y^{{2}}+x^{{2}}")))


def _half_plane(draw: DrawFn, value: tuple[int, int]) -> str:
    (a, c), k = value, draw(POSITIVE)
    ways = (f"{a}x+y<{c}", f"{c}>{a}x+y", f"y<{c}-{a}x", f"{k * a}x+{k}y<{k * c}")
    return draw(st.sampled_from((*ways, f"-{a}x-y>{-c}")))


def _matrix(draw: DrawFn, entries: list[Fraction]) -> str:
    a, b, c, d = [_fraction(draw, entry) for entry in entries]
    name = draw(st.sampled_from(("pmatrix", "bmatrix")))
    ways = (rf"\begin{{{name}}}{a}&{b}\\{c}&{d}\end{{{name}}}", f"[[{a},{b}],[{c},{d}]]")
    return draw(st.sampled_from(ways))


def _ratio(draw: DrawFn, parts: tuple[int, int]) -> str:
    a, b = parts
    return draw(st.sampled_from((f"{a}:{b}", f"{a} : {b}", rf"{a}\text{{ to }}{b}")))


def _ratio_of_three(draw: DrawFn, parts: list[int]) -> str:
    k = draw(st.integers(1, 9 // max(parts)))  # 5:10:10 would be a time of day
    return ":".join(str(k * part) for part in parts)


def _time(draw: DrawFn, value: tuple[int, int]) -> str:
    hour, minute = value
    halves = ("AM", "a.m.", r"\text{ AM}") if hour < 12 else ("PM", "p.m.", r"\text{ PM}")
    ways = [f"{(hour - 1) % 12 + 1}:{minute:02} {half}" for half in halves]
    return draw(st.sampled_from([*ways, f"{hour:02}:{minute:02}:00"]))


def _numeral(draw: DrawFn, value: tuple[int, int]) -> str:
    digits, base = value
    ways = (f"{digits}_{{{base}}}", rf"{digits}_{{\,{base}}}", rf"({digits})_{{{base}}}")
    return draw(st.sampled_from(ways))


def _empty_set(draw: DrawFn, _: None) -> str:
    ways = (r"\emptyset", r"\{\}", "no solution", r"\text{No solution}", r"\varnothing")
    return draw(st.sampled_from(ways))


_MEMBERS = st.lists(_SMALL_RATIONALS, min_size=2, max_size=4, unique=True)
_ENDS = st.lists(_SMALL_RATIONALS, min_size=2, max_size=2, unique=True).map(sorted)
_INTEGER_PAIRS = st.tuples(POSITIVE, SMALL)
ANSWERS: dict[str, SearchStrategy[list[Spelled]]] = {
    "number": _answers(_RATIONALS, lambda v: ("value", v), _number),
    "tiny number": _answers(
        st.tuples(st.sampled_from((2, 3, 7)), st.integers(99, 102)),
        lambda v: ("value", Fraction(1, v[0] ** v[1])),
        _tiny,
    ),
    "root": _answers(
        st.tuples(SMALL, POSITIVE, st.sampled_from(_SQUAREFREE)), lambda v: ("root", *v), _root
    ),
    "complex number": _answers(st.tuples(SMALL, POSITIVE), lambda v: ("complex", *v), _complex),
    "word": _answers(st.sampled_from(_WORDS), lambda v: ("word", v.casefold()), _word),
    "tuple": _answers(st.lists(_SMALL_RATIONALS, min_size=2, max_size=3), _tuple_value, _tuple),
    "set": _answers(_MEMBERS, lambda v: ("set", frozenset(v)), _set),
    "interval": _answers(
        st.tuples(_ENDS, st.booleans(), st.booleans()),
        lambda v: ("interval", *v[0], v[1], v[2]),
        _interval,
    ),
    "ray": _answers(st.tuples(_SMALL_RATIONALS, st.booleans()), lambda v: ("ray", *v), _ray),
    "line": _answers(_INTEGER_PAIRS, lambda v: ("line", *v), _line),
    "polynomial": _answers(
        st.lists(POSITIVE, min_size=2, max_size=2).map(sorted),
        lambda v: ("polynomial", *v),
        _polynomial,
    ),
    "expression": _answers(TREES, lambda v: meaning(v) or (), spelling),
    "circle": _answers(st.integers(1, 50), lambda v: ("circle", v), _circle),
    "half-plane": _answers(_INTEGER_PAIRS, lambda v: ("half-plane", *v), _half_plane),
    "matrix": _answers(
        st.lists(_SMALL_RATIONALS, min_size=4, max_size=4), lambda v: ("matrix", *v), _matrix
    ),
    "ratio": _answers(st.tuples(POSITIVE, POSITIVE), lambda v: ("value", Fraction(*v)), _ratio),
    "ratio of three": _answers(
        st.lists(POSITIVE, min_size=3, max_size=3),
        lambda v: ("ratio", *(part // gcd(*v) for part in v)),
        _ratio_of_three,
    ),
    "time": _answers(
        st.tuples(st.integers(0, 23), st.integers(0, 59)), lambda v: ("time", *v), _time
    ),
    "numeral": _answers(
        st.tuples(st.integers(1, 10**6), st.integers(10, 16)), lambda v: ("numeral", *v), _numeral
    ),
    "empty set": _answers(st.none(), lambda v: ("empty",), _empty_set),
}
# an expression may be constant, or a line: the right classes across types are not known
MIXED: SearchStrategy[list[Spelled]] = st.one_of(
    [answers for name, answers in ANSWERS.items() if name != "expression"]
)


def pools(answers: SearchStrategy[list[Spelled]]) -> SearchStrategy[list[Spelled]]:
    """Draw a pool of two to nine answers in random order, some of them of one value."""
    values = st.lists(answers, min_size=1, max_size=3)
    flat = values.map(lambda lists: [answer for several in lists for answer in several])
    return flat.filter(lambda pool: len(pool) > 1).flatmap(st.permutations)
