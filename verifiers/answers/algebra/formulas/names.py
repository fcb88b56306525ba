"""Names of mathematics in formulas: functions, Greek letters, and how a run of letters is cut."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import sympy

from verifiers.answers.algebra.formulas.notation import Unreadable

GREEK = frozenset([
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda",
    "mu", "nu", "xi", "omicron", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
])  # fmt: skip
_TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc")
INVERSES = {
    **{name: getattr(sympy, "a" + name) for name in _TRIGONOMETRIC},
    **{f"{name}h": getattr(sympy, f"a{name}h") for name in _TRIGONOMETRIC},
}
FUNCTIONS: Mapping[str, Any] = {
    **{name: getattr(sympy, name) for name in _TRIGONOMETRIC},
    **{f"{name}h": getattr(sympy, f"{name}h") for name in _TRIGONOMETRIC},
    **{f"arc{name}": function for name, function in INVERSES.items()},
    **{f"a{name}": function for name, function in INVERSES.items() if name not in ("sec", "csc")},
    **{f"ar{name}": function for name, function in INVERSES.items() if name.endswith("h")},
    "ln": sympy.log, "exp": sympy.exp, "sgn": sympy.sign, "Re": sympy.re, "Im": sympy.im,
    "arg": sympy.arg, "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling,
    "Gamma": sympy.gamma, "erf": sympy.erf,
}  # fmt: skip
OF_LISTS: Mapping[str, Any] = {
    "max": sympy.Max, "min": sympy.Min, "gcd": sympy.Function("gcd"), "lcm": sympy.Function("lcm"),
}  # fmt: skip
# commands that make a new name of the letters behind them
ACCENTS = frozenset([
    r"\overline", r"\bar", r"\hat", r"\widehat", r"\vec", r"\overrightarrow", r"\tilde",
    r"\overleftrightarrow", r"\widetilde", r"\dot", r"\ddot", r"\overparen", r"\wideparen",
    r"\angle", r"\triangle", r"\odot", r"\mathcal", r"\mathfrak", r"\mathscr",
])  # fmt: skip
_OTHERS = ("pi", "sqrt", "cbrt", "log", "infty", "infinity", "frac")
_WORD = re.compile(
    "|".join(sorted((*FUNCTIONS, *OF_LISTS, *GREEK, *_OTHERS), key=len, reverse=True))
)
_LETTER = re.compile(r"\\text\{([A-Za-z])\}")
_MAX_LETTERS = 3  # more letters in a row that name nothing are a word


def is_function(token: str) -> bool:
    r"""Tell whether a token is the name of a function of one argument, such as `\sin`."""
    name = token.lstrip("\\")
    return len(name) > 1 and (name in FUNCTIONS or name == "log")


def cut(tokens: Sequence[str]) -> list[str]:
    """Return the tokens with runs of letters cut into names and single letters: `2cosx`.

    Unreadable for a run with more than three letters that name nothing.
    """
    out: list[str] = []
    for original in tokens:
        upright = _LETTER.fullmatch(original)  # \mathrm{e}
        token = upright[1] if upright else original
        if not (token.isalpha() and len(token) > 1) or (out and out[-1] in ACCENTS):
            out.append(token)
            continue
        at, alone = 0, 0
        while at < len(token):
            match = _WORD.match(token, at)
            out.append("\\" + match[0] if match else token[at])
            at, alone = (match.end(), alone) if match else (at + 1, alone + 1)
        if alone > _MAX_LETTERS:
            raise Unreadable(f"{token} is a word")
    return out
