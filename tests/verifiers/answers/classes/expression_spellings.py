"""Random expressions in two variables, each with its values at three points and several spellings.

An expression is a nested tuple: a number, a name, or an operation with its operands. The values
are computed here by mpmath, with principal values, so that nothing of the domain decides which
expressions are equal. Only tame ones are drawn, whose parts are neither huge nor tiny.
"""

from __future__ import annotations

import functools
from typing import Any

import mpmath
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

_POINTS = ((-1.3125, -0.6875), (0.8125, -2.0625), (1.4375, 0.5625))  # binary: exact in both
_FUNCTIONS = ("sqrt", "sin", "cos", "ln", "exp")
_BINDING = {"+": 1, "-": 1, "negative": 1, "*": 2, "/": 2, "^": 3}
_LEAVES = st.one_of(st.integers(1, 9), st.sampled_from("xy"))


def _operations(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.tuples(st.sampled_from("+-*/"), parts, parts),
        st.tuples(st.just("^"), parts, st.integers(2, 4)),
        st.tuples(st.just("negative"), parts),
        st.tuples(st.sampled_from(_FUNCTIONS), parts),
    )


def _value(tree: Any, point: tuple[float, float]) -> Any:
    """Return the value at a point; ValueError where a part is huge, tiny or undefined."""
    if isinstance(tree, int):
        return mpmath.mpf(tree)
    if isinstance(tree, str):
        return mpmath.mpf(point["xy".index(tree)])
    name, *operands = tree
    if name == "^":
        value = _value(operands[0], point) ** operands[1]
    else:
        values = [_value(operand, point) for operand in operands]
        if name == "/" and values[1] == 0:
            raise ValueError("a division by zero")
        operations = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "*": lambda a, b: a * b,
            "/": lambda a, b: a / b,
            "negative": lambda a: -a,
        }
        value = (operations.get(name) or getattr(mpmath, name))(*values)
    if not 1e-4 < abs(value) < 1e4:
        raise ValueError("a huge or tiny part")
    return value


@functools.cache
def meaning(tree: Any) -> tuple[object, ...] | None:
    """Return what two equal expressions have in common; None for an expression that is not tame."""
    with mpmath.workdps(50):
        try:
            values = [_value(tree, point) for point in _POINTS]
        except ValueError:
            return None
        parts = [part for value in values for part in (mpmath.re(value), mpmath.im(value))]
        return ("expression", *(int(mpmath.nint(part * 10**20)) for part in parts))


def _in_brackets(draw: DrawFn, text: str, is_latex: bool) -> str:
    return draw(
        st.sampled_from((f"({text})", rf"\left({text}\right)") if is_latex else (f"({text})",))
    )


def _part(draw: DrawFn, tree: Any, binding: int, is_latex: bool) -> str:
    """Return an operand, in brackets unless it binds more tightly than the operation."""
    text = _text(draw, tree, is_latex)
    is_loose = isinstance(tree, tuple) and _BINDING.get(tree[0], 9) < binding
    return _in_brackets(draw, text, is_latex) if is_loose else text


def _text(draw: DrawFn, tree: Any, is_latex: bool) -> str:
    if not isinstance(tree, tuple):
        return str(tree)
    name, first = tree[0], tree[1]
    if name == "^":
        power = ("^{{{}}}", "^{}") if is_latex else ("^{}", "**{}")
        is_bare = not isinstance(first, tuple)
        base = str(first) if is_bare else _in_brackets(draw, _text(draw, first, is_latex), is_latex)
        return base + draw(st.sampled_from(power)).format(tree[2])
    if name == "negative":
        return "-" + _part(draw, first, 2, is_latex)
    if name in _FUNCTIONS:
        inside = _text(draw, first, is_latex)
        if not is_latex:
            return f"{name}({inside})"
        if name == "exp" and draw(st.booleans()):
            return f"e^{{{inside}}}"
        return rf"\sqrt{{{inside}}}" if name == "sqrt" else rf"\{name}\left({inside}\right)"
    if name == "/" and is_latex:
        over, under = (_text(draw, operand, is_latex) for operand in tree[1:])
        return rf"\{draw(st.sampled_from(('frac', 'dfrac')))}{{{over}}}{{{under}}}"
    binding = _BINDING[name]
    left, right = _part(draw, first, binding, is_latex), _part(draw, tree[2], binding + 1, is_latex)
    if name == "*" and is_latex:
        signs = [r"\cdot ", r" \times "]
        # a product without a sign, where that is the usual way to write it
        if right.startswith((r"(", r"\left(", r"\sqrt", "x", "y")) and left[-1:] in "0123456789)":
            signs.append("")
        return left + draw(st.sampled_from(signs)) + right
    return f"{left}{name}{right}" if draw(st.booleans()) else f"{left} {name} {right}"


def spelling(draw: DrawFn, tree: Any) -> str:
    """Draw a way to write an expression, in LaTeX or in plain characters."""
    return _text(draw, tree, draw(st.booleans()))


TREES = st.recursive(_LEAVES, _operations, max_leaves=6).filter(
    lambda tree: meaning(tree) is not None
)
