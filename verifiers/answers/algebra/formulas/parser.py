r"""From the tokens of one formula without relations and lists to a sympy expression.

    parse(tokens(r"2\sin x\cos x"))

Written for what models write: LaTeX with missing braces (`\frac12`, `\sqrt2`), plain text
(`2cosx`, `x**2`, `sqrt(2)`) and both mixed. `latex2sympy2-extended` reads what is left: integrals,
sums, products, limits, derivatives. (It reads `4(3)` as 7, keeps 16 digits of a decimal, ignores
the sign for degrees, and takes exponential time on nested parentheses.)

The one rule: what is not understood is `Unreadable`, never skipped. Expressions are not evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sympy

from verifiers.answers.algebra.formulas import names, numerals
from verifiers.answers.algebra.formulas.notation import Unreadable, closing, split, stripped

_CALCULUS = re.compile(
    r"\\(?:i*int|oint|sum|prod|lim)(?![A-Za-z])|\\frac\{d\}\{d[a-z]\}|\\begin\{[pbBv]matrix"
)
_VECTORS = frozenset([r"\vec", r"\overrightarrow", r"\hat", r"\nabla"])
_DERIVATIVE = re.compile(r"\{d([A-Za-z])\}\{d([A-Za-z])\}")
_STOPS = frozenset([
    "+", "-", r"\pm", r"\mp", "/", "*", r"\cdot", r"\times", ",", ")", "]", "}", "|", r"\|", r"\}",
    "!", "%", "^", "'", "°", ":", r"\rfloor", r"\rceil", r"\rangle",
])  # fmt: skip


def parse(tokens: Sequence[str], sign: int = 1) -> Any:
    r"""Return the expression; `sign` is that of `\pm`. Unreadable for anything else."""
    source = "".join(tokens)
    if _CALCULUS.search(source):
        return _calculus(source)
    joined = numerals.join([token for token in tokens if token not in (" ", "$")])
    if r"\times" in joined and not _VECTORS.isdisjoint(joined):
        raise Unreadable("a cross product")
    parts = split(joined, frozenset([r"\choose", r"\over"]))
    if len(parts) == 2:
        above, below = (_whole(names.cut(part), sign) for part in parts)
        if r"\choose" in tokens:
            return sympy.binomial(above, below, evaluate=False)
        return sympy.Mul(above, sympy.Pow(below, -1, evaluate=False), evaluate=False)
    return _whole(names.cut(joined), sign)


def _whole(tokens: list[str], sign: int) -> Any:
    """Return the expression that is all of the tokens."""
    reader = _Reader(tokens, sign)
    expression = reader.sum()
    if reader.peek() is not None:
        raise Unreadable(f"{reader.peek()} is not expected there")
    return expression


def _calculus(source: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    settings = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
    try:
        expression = latex2sympy(
            source.replace("*", r"\cdot "), conversion_config=settings, normalization_config=None
        )
        done = expression.doit()
        return done.subs({"i": sympy.I, "e": sympy.E}) if done.free_symbols else done
    except Exception as error:  # it raises Exception itself, and sympy nearly anything
        raise Unreadable(f"latex2sympy2-extended: {error}") from error


class _Reader:
    """A recursive-descent reader of sums, products, powers and functions."""

    def __init__(self, tokens: list[str], sign: int) -> None:
        self._tokens = tokens
        self._sign = sign
        self._at = 0
        self._n_bars = 0  # open |

    def peek(self, ahead: int = 0) -> str | None:
        """Return the next token, or None at the end."""
        index = self._at + ahead
        return self._tokens[index] if index < len(self._tokens) else None

    def sum(self) -> Any:
        """Read terms up to a token that ends an expression."""
        terms = []
        while True:
            factor = 1
            while (token := self.peek()) in ("+", "-", r"\pm", r"\mp"):
                self._at += 1
                factor *= {"+": 1, "-": -1, r"\pm": self._sign, r"\mp": -self._sign}[str(token)]
            term = self._product()
            terms.append(term if factor == 1 else _negative(term))
            if self.peek() not in ("+", "-", r"\pm", r"\mp"):
                return terms[0] if len(terms) == 1 else sympy.Add(*terms, evaluate=False)

    def _product(self) -> Any:
        product = self._implicit()
        while (token := self.peek()) in ("*", r"\cdot", r"\times", "/"):
            self._at += 1
            factor = (
                self._signed_factor() if self.peek() in ("-", "+") else self._implicit(token == "/")
            )
            if token == "/":
                factor = sympy.Pow(factor, -1, evaluate=False)
            product = sympy.Mul(product, factor, evaluate=False)
            if token == "/" and self._starts_factor():  # 1/3x, where 1/3 was a fraction
                product = sympy.Mul(product, self._implicit(), evaluate=False)
        return product

    def _signed_factor(self) -> Any:
        factor = 1
        while (token := self.peek()) in ("-", "+"):
            self._at += 1
            factor = -factor if token == "-" else factor
        return self._power() if factor == 1 else _negative(self._power())

    def _implicit(self, is_divisor: bool = False) -> Any:
        """Read factors that stand side by side. A divisor that is a number is one factor."""
        first = self.peek()
        factors = [self._power()]
        if is_divisor and first is not None and first[0].isdecimal() and self._at > 2:
            before = self._tokens[self._at - 3]
            if before[0].isdecimal():
                return factors[0]
        while self._starts_factor():
            if (self.peek() or "").lstrip(".")[:1].isdecimal() and not self._may_precede_digits(
                factors[-1]
            ):
                raise Unreadable(f"{self.peek()} follows another factor")
            factors.append(self._power())
        return factors[0] if len(factors) == 1 else sympy.Mul(*factors, evaluate=False)

    def _may_precede_digits(self, factor: Any) -> bool:
        """Tell whether a number may follow without a sign: `2^6 3^5`, `4! 5!`, not `x2`."""
        return bool(factor.is_Pow) or self._tokens[self._at - 1] in ("!", ")", "}", "]")

    def _starts_factor(self) -> bool:
        token = self.peek()
        if token in ("|", r"\|"):
            return self._n_bars == 0
        return token is not None and token not in _STOPS

    def _power(self) -> Any:
        base = self._postfix(self._atom())
        if self.peek() != "^":
            return base
        self._at += 1
        if self.peek() in ("°", r"\circ"):
            self._at += 1
            return self._degrees(base)
        return self._postfix(sympy.Pow(base, self._exponent(), evaluate=False))

    def _exponent(self) -> Any:
        if self.peek() in ("-", "+"):
            sign = -1 if self.peek() == "-" else 1
            self._at += 1
            return self._exponent() if sign == 1 else _negative(self._exponent())
        if self.peek() == "{":
            return self._argument()
        return self._power()

    def _postfix(self, base: Any) -> Any:
        while (token := self.peek()) in ("!", "%", "°"):
            self._at += 1
            if token == "%":
                base = sympy.Mul(base, sympy.Rational(1, 100), evaluate=False)
            elif token == "°":
                base = self._degrees(base)
            elif self.peek() == "!":
                self._at += 1
                base = sympy.factorial2(base, evaluate=False)
            else:
                base = sympy.factorial(base, evaluate=False)
        return base

    def _degrees(self, base: Any) -> Any:
        """Return an angle in radians inside a function; elsewhere the unit is dropped."""
        if not any(token.lstrip("\\") in names.FUNCTIONS for token in self._tokens):
            return base
        return sympy.Mul(base, sympy.pi, sympy.Rational(1, 180), evaluate=False)

    def _atom(self) -> Any:
        token = self.peek()
        if token is None:
            raise Unreadable("something is missing at the end")
        self._at += 1
        if token[0].isdecimal() or (token[0] == "." and len(token) > 1):
            return numerals.value(token)
        if token in ("(", "[", "{"):
            return self._group()
        if token in ("|", r"\|"):
            self._n_bars += 1
            inside = self._until(token)
            self._n_bars -= 1
            return sympy.Abs(inside, evaluate=False)
        if token == r"\lfloor":
            return sympy.floor(self._until(r"\rfloor"), evaluate=False)
        if token == r"\lceil":
            return sympy.ceiling(self._until(r"\rceil"), evaluate=False)
        name = token.lstrip("\\")
        if len(token) == 1 and token.isalpha() and token.isascii():
            return self._letter(token)
        if token.startswith("\\") and name:
            return self._command(token, name)
        raise Unreadable(f"{token} is not expected there")

    def _group(self) -> Any:
        end = closing(self._tokens, self._at - 1)
        inside, self._at = stripped(self._tokens[self._at : end]), end + 1
        if not inside:
            raise Unreadable("an empty bracket")
        return self._of(inside)

    def _of(self, tokens: Sequence[str]) -> Any:
        return parse(tokens, self._sign)

    def _until(self, end: str) -> Any:
        expression = self.sum()
        if self.peek() != end:
            raise Unreadable(f"{end} is missing")
        self._at += 1
        return expression

    def _argument(self) -> Any:
        r"""Read the argument of a command: a group, or the one sign that TeX would take."""
        token = self.peek()
        if token is None:
            raise Unreadable("an argument is missing")
        if token == "{":
            self._at += 1
            return self._group()
        if token.isdecimal() and len(token) > 1:  # \frac12
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        return self._atom()

    def _letter(self, letter: str) -> Any:
        if letter in ("e", "i") and self.peek() not in ("_", "'"):
            return sympy.E if letter == "e" else sympy.I
        name = letter + self._subscript()
        if letter in "fghFG" and (power := self._power_of_function()):
            name += power
        if letter in "fghFG" and self.peek() == "(":
            return sympy.Function(name)(*self._list())
        if letter in "EP" and self.peek() == "[":
            raise Unreadable("an expectation")
        if letter == "C" and self.peek() == "(" and (pair := self._pair()):
            return sympy.binomial(*pair, evaluate=False)
        return sympy.Symbol(name)

    def _power_of_function(self) -> str:
        r"""Read `^{-1}` in `f^{-1}(x)`, `^{(4)}` in `f^{(4)}(x)`: part of the name, no power."""
        at = self._at
        if self.peek() == "^":
            self._at += 1
            power = self._raw()
            if self.peek() == "(":
                return "^" + power
        self._at = at
        return ""

    def _pair(self) -> list[Any] | None:
        end = closing(self._tokens, self._at)
        parts = split(self._tokens[self._at + 1 : end], frozenset([","]))
        if len(parts) != 2:
            return None
        self._at = end + 1
        return [self._of(part) for part in parts]

    def _list(self) -> list[Any]:
        opened = self.peek()
        if opened not in ("(", "{", r"\{", "["):
            raise Unreadable("arguments are missing")
        end = closing(self._tokens, self._at)
        parts = split(self._tokens[self._at + 1 : end], frozenset([","]))
        self._at = end + 1
        return [self._of(part) for part in parts]

    def _subscript(self) -> str:
        """Read the index and the primes of a name, as text."""
        name = ""
        while (token := self.peek()) in ("_", "'"):
            self._at += 1
            name += str(token)
            if token == "_":
                name += self._raw()
        return name

    def _raw(self) -> str:
        if self.peek() is None:
            raise Unreadable("an index is missing")
        if self.peek() != "{":
            self._at += 1
            return self._tokens[self._at - 1]
        end = closing(self._tokens, self._at)
        inside = "".join(self._tokens[self._at + 1 : end])
        self._at = end + 1
        return inside

    def _command(self, token: str, name: str) -> Any:
        if name == "frac" and self._tokens[self._at :][:3] == ["{", "d", "^"]:
            raise Unreadable("a second derivative")
        if name == "frac" and (match := _DERIVATIVE.match("".join(self._tokens[self._at :][:8]))):
            self._at += 8
            return sympy.Symbol(f"d{match[1]}/d{match[2]}")
        if name == "frac":
            over, under = self._argument(), self._argument()
            return sympy.Mul(over, sympy.Pow(under, -1, evaluate=False), evaluate=False)
        if name in ("sqrt", "cbrt"):
            return self._root(3 if name == "cbrt" else 2)
        if name == "binom":
            return sympy.binomial(self._argument(), self._argument(), evaluate=False)
        if name == "pi":
            return sympy.pi
        if name in ("infty", "infinity"):
            return sympy.oo
        if name in names.OF_LISTS:
            return names.OF_LISTS[name](
                *self._list(), **({} if "c" in name else {"evaluate": False})
            )
        if name == "log":
            return self._logarithm()
        if name in names.FUNCTIONS:
            return self._applied(name)
        if name == "zeta" and self.peek() == "(":
            return sympy.zeta(*self._list(), evaluate=False)
        if name.lower() in names.GREEK or name == "Pi":
            return sympy.Symbol(name + self._subscript())
        if token in names.ACCENTS:
            raw = self._raw()
            while name in ("angle", "triangle") and (self.peek() or "0").isupper():
                raw += self._raw()
            return sympy.Symbol(f"{name} {raw}" + self._subscript())
        if token.startswith((r"\text{", r"\operatorname{")):
            return self._upright(token.partition("{")[2].rstrip("}").strip())
        raise Unreadable(f"{token} is not known")

    def _upright(self, word: str) -> Any:
        if word in names.FUNCTIONS or word in names.OF_LISTS or word in ("log", "pi"):
            return self._command("\\" + word, word)
        raise Unreadable(f"{word!r} is text")

    def _root(self, degree: int) -> Any:
        order: Any = sympy.Integer(degree)
        if self.peek() == "[":
            end = closing(self._tokens, self._at)
            order = self._of(self._tokens[self._at + 1 : end])
            self._at = end + 1
        token = self.peek()
        if token is not None and token.isdecimal():  # \sqrt10 means the root of 10
            self._at += 1
            inside = numerals.value(token)
        else:
            inside = self._argument()
        if isinstance(order, sympy.Integer) and order > 0:
            return sympy.Pow(inside, sympy.Rational(1, order), evaluate=False)
        return sympy.Pow(inside, sympy.Pow(order, -1, evaluate=False), evaluate=False)

    def _logarithm(self) -> Any:
        base: Any = sympy.Integer(10)
        if self.peek() == "_":
            self._at += 1
            base = self._argument()
        power, argument = self._operand()
        return _raised(sympy.log(argument, base, evaluate=False), power)

    def _applied(self, name: str) -> Any:
        power, argument = self._operand()
        if power == -1 and name in names.INVERSES:
            return names.INVERSES[name](argument, evaluate=False)
        return _raised(names.FUNCTIONS[name](argument, evaluate=False), power)

    def _operand(self) -> tuple[Any, Any]:
        r"""Read the power of a function, as in `\sin^2 x`, and its argument.

        Without brackets the argument is what stands side by side up to the next function.
        """
        power = None
        if self.peek() == "^":
            self._at += 1
            power = self._exponent()
        if self.peek() in ("(", "[", "{", "|"):
            return power, self._atom()
        factors = [self._signed_factor() if self.peek() in ("-", "+") else self._power()]
        while self._starts_factor() and not names.is_function(self.peek() or ""):
            factors.append(self._power())
        return power, factors[0] if len(factors) == 1 else sympy.Mul(*factors, evaluate=False)


def _negative(term: Any) -> Any:
    return -term if term.is_Rational else sympy.Mul(-1, term, evaluate=False)


def _raised(function: Any, power: Any) -> Any:
    return function if power is None else sympy.Pow(function, power, evaluate=False)
