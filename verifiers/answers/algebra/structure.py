r"""From the text of an answer to its typed value: lists, sets, intervals, equations, words.

    read(r"x<-2 \text{ or } x>2").key      # the key of the union of two intervals

The one rule: the type is decided by the outermost sign, from the loosest to the tightest: "and" and
"or", commas, relations, unions, brackets, one expression. The table in docs/answers.md tells what
is equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import sympy

from orchestrator.kit.answers.units import is_count, unit
from verifiers.answers.algebra import integers, relations, sets, words
from verifiers.answers.algebra.formulas import numerals
from verifiers.answers.algebra.formulas.names import is_function
from verifiers.answers.algebra.formulas.notation import (
    Unreadable,
    closing,
    outer,
    split,
    stripped,
    tokens,
    without_braces,
)
from verifiers.answers.algebra.formulas.parser import parse
from verifiers.answers.algebra.numbers.evaluation import scalar
from verifiers.answers.algebra.values import (
    EMPTY,
    Value,
    finite_set,
    listed,
    matrix,
    of_scalar,
    ratio,
    sequence,
)

_LOGIC = frozenset([r"\wedge", r"\vee"])
_MAX_UNIT_TOKENS = 12
_WAITING = frozenset(
    [*"=+-*/<>^_,;:", r"\cdot", r"\times", r"\le", r"\ge", r"\ne", r"\pm", r"\cup", r"\in"]
)
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[A-Za-z]+|[A-Z]{2,4}|\\(?:text|operatorname)\{[^{}]*\})"
    r"(?:_(?:\w|\{[^{}]{1,20}\}))?(?:\^\{?-1\}?)?'*"
    r"(?:\((?:[A-Za-z]|\\[a-z]+|\d+)(?:,(?:[A-Za-z]|\\[a-z]+|\d+))*\))?"
    r"|[mn]?\\(?:angle|triangle|overline|widehat|vec|overrightarrow|hat|bar)\s?\{?\w{1,4}\}?"
    r"|\|[A-Z\\][^|=]{0,30}\|"
    r"|\\frac\{d\w?\}\{d\w\}(?:\w|\(\w\))?|\\frac\{d\^\{?\d\}?\w\}\{d\w\^\{?\d\}?\}"
    r"|\([a-zA-Z](?:,[a-zA-Z])+\)"
    r"|[EPVn]\[[^\[\]=]{1,40}\]|[EP]\([^()]{1,40}\)|(?:[a-z]:)+[a-z]"
    r"|\\frac\{[A-Z]{1,3}\}\{[A-Z]{1,3}\}|[A-Z]{1,3}/[A-Z]{1,3}"
    r"|(?:[A-Z]{1,2}(?:_(?:\w|\{\w{1,5}\}))?:)+[A-Z]{1,2}(?:_(?:\w|\{\w{1,5}\}))?"
)
_SEGMENT = re.compile(r"[A-Z]{2,3}")
_SEGMENTS = re.compile(r"(?:[A-Z]{2,3}|[\d+*/^{}()-]|\\frac){1,60}")  # AF^2 + BF^2
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|smallmatrix|array)\}")
_LABEL = re.compile(r"\\text\{\(?[A-J][).]?\)?\}|\\text\{\([A-J]\)[^{}]{0,3}\}")
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?(?:\\text\{)?\s?([AaPp]\.?\s?[Mm]\.?)?\}?")
_PLAIN_DIGITS = re.compile(r"\\text\{(\w+)\}|\((?=\w+\)_)|(?<=\w)\)(?=_)")
_BASED = re.compile(r"([0-9A-F]{1,400})_(?:\{(\d{1,3})\}|(\d{1,2}))(?:\\text\{.{0,20}\})?")


def read(text: str) -> Value:
    """Return the typed value of an answer. Unreadable or Undecided where it is no mathematics."""
    return _value(_without_label(tokens(text)))


def as_text(text: str) -> str:
    """Return the key of an answer that is no mathematics: its tokens.

    Spaces, frames, and braces around one token do not count.
    """
    found = [token for token in tokens(text) if token != " "]
    for index in range(len(found) - 2):
        if found[index] == "{" and found[index + 2] == "}":
            found[index] = found[index + 2] = ""
    return "=`" + " ".join(filter(None, found)) + "`"


def _without_label(found: list[str]) -> list[str]:
    r"""Return the tokens without the letter of a choice in front: `\text{(B) } 18`, `(B) 18`."""
    if len(found) > 1 and _LABEL.fullmatch(found[0]):
        return stripped(found[1:])
    is_label = len(found) > 4 and found[0] == "(" and found[1] in "ABCDEFGHIJ" and found[2] == ")"
    return stripped(found[3:]) if is_label and found[3] == " " else found


def _value(found: list[str]) -> Value:
    if time := _clock(found):
        return time
    found = _without_unit(without_braces(found))
    if not found:
        raise Unreadable("nothing is there")
    return (
        sets.french_interval(found)
        or integers.remainder(found)
        or integers.numbered(found, _value)
        or _choices(found)
        or _list(found)
        or _relation(found)
        or sets.operation(found)
        or _bracketed(found)
        or _ratio(found)
        or _one(found)
    )


def _without_unit(found: list[str]) -> list[str]:
    r"""Return the tokens without a unit at the end: `2\pi\text{ cm}^2`, `\frac{\pi}{2} m/s`.

    Bare letters are a unit only behind a space, and one letter never: `\pi m` is a product.
    """
    if not any(token[0].isdigit() or token == r"\pi" for token in found):
        return found
    for start in range(max(1, len(found) - _MAX_UNIT_TOKENS), len(found)):
        before, tail = found[:start], found[start:]
        is_angle = tail[0] == "°" and not any(map(is_function, before))
        is_upright = tail[0].startswith(r"\text{") or is_angle
        is_apart = before[-1] == " " and tail[0].isalpha() and len(tail[0]) > 1
        if not (is_upright or is_apart) or _is_open(before):
            continue
        text = "".join(tail)
        if unit(text) is not None or (is_upright and is_count(text[6:-1])):
            return stripped(before)
    return found


def _is_open(found: Sequence[str]) -> bool:
    """Tell whether a bracket is not closed, or a sign waits for what follows."""
    last = next((token for token in reversed(found) if token != " "), ",")
    n_open = sum(token in ("(", "{", "[", r"\{") for token in found)
    n_closed = sum(token in (")", "}", "]", r"\}") for token in found)
    return last in _WAITING or last in sets.AND | sets.OR or n_open != n_closed


def _clock(found: Sequence[str]) -> Value | None:
    match = _CLOCK.fullmatch("".join(token for token in found if token != " "))
    if match is None or not (match[4] or match[3] or match[2].startswith("0")):
        return None
    hours, minutes, seconds = int(match[1]), int(match[2]), int(match[3] or 0)
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    if half := (match[4] or "")[:1].lower():
        hours = hours % 12 + (12 if half == "p" else 0)
    shown = f"{hours:02}:{minutes:02}:{seconds:02}"
    return Value("time", f"=time {shown}", shown)


def _choices(found: list[str]) -> Value | None:
    """Read what "and" and "or" join: conditions on one unknown, or a list."""
    for separators, combine in ((sets.OR, sympy.Union), (sets.AND, sympy.Intersection)):
        parts = [part for part in split(found, separators) if part]
        if len(parts) < 2 and not any(token in separators for token in outer(found)):
            continue
        if value := sets.conditions(parts, combine):
            return value
        if not _LOGIC.isdisjoint(found) and not all("=" in part for part in parts):
            raise Unreadable("a statement of logic")
        pieces = [piece for part in parts for piece in split(part, sets.COMMAS) if piece]
        if (
            separators is sets.OR
            and len({"".join(name) for name, _ in map(_named, pieces) if name}) > 1
        ):
            raise Unreadable("a choice between values of different unknowns")
        return _collected(pieces)
    return None


def _list(found: list[str]) -> Value | None:
    """Read values with commas between them: a list, which is a set, or conditions."""
    if not any(token in sets.COMMAS for token in outer(found)):
        return None
    joined = numerals.thousands(found)
    groups = [part for part in split(joined, frozenset([";"])) if part]
    if len(groups) > 1 and "," in outer(joined):  # p=5,q=2; p=7,q=2
        return listed([_value(group) for group in groups])
    parts = [part for part in split(joined, sets.COMMAS) if part]
    if len(parts) == 1:
        return _value(parts[0])
    return sets.conditions(parts, sets.all_or_any) or _collected(parts)


def _collected(parts: list[list[str]]) -> Value:
    """Return the set of values, or the tuple of several named ones."""
    named = [_named(part) for part in parts]
    names = ["".join(name) for name, _ in named if name]
    if len({name.partition("_")[0] for name in names}) == 1:  # x_1 = 4, x_2 = -7: values of x
        names = [name.partition("_")[0] for name in names]
    if len(names) == len(parts) and len(set(names)) == len(names):
        ordered = sorted(zip(names, named, strict=True), key=lambda pair: pair[0])
        return sequence([_value(list(value)) for _, (_, value) in ordered], "named values")
    if len(set(names)) > 1:
        raise Unreadable("some values have names and some have none")
    values = _elements([value for _, value in named])
    return finite_set(values) if names else listed(values)


def _elements(parts: Sequence[Sequence[str]]) -> list[Value]:
    """Return the values of the parts of a list; a part with `±` is two of them."""
    values: list[Value] = []
    for part in parts:
        signs = (1, -1) if {r"\pm", r"\mp"} & set(outer(part)) and "=" not in part else ()
        values += [of_scalar(scalar(parse(part, sign))) for sign in signs] or [_value(list(part))]
    return values


def _named(found: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the name and the value of `name = value`; no name if there is none."""
    parts = split(found, frozenset(["="]))
    if len(parts) > 1 and parts[-1] and _is_name(parts[0], parts[-1]):
        return parts[0], parts[-1]
    return (), found


def _is_name(name: Sequence[str], value: Sequence[str]) -> bool:
    """Tell whether the left side only names the right one.

    `x = 2y + 3` is a line: a coordinate names nothing that depends on a later one.
    """
    text = "".join(token for token in name if token != " ")
    if (
        _SEGMENT.search(text)
        and _SEGMENTS.fullmatch(text)
        and not any(map(_SEGMENT.fullmatch, value))
    ):
        return True
    if not _NAME.fullmatch(text) or text in (r"\pi", "e", "i") or is_function(name[0]):
        return False
    letters = {letter for token in value if token.isalpha() for letter in token}
    if text in relations.COORDINATES:
        later = relations.COORDINATES[: relations.COORDINATES.index(text)]
        return not letters & {text, *later}
    return not (len(text) == 1 and text in letters)


def _relation(found: list[str]) -> Value | None:
    signs = outer(found)
    if r"\in" in signs:
        return _value(stripped(found[found.index(r"\in") + 1 :]))
    if r"\approx" in signs:
        left, *_, right = split(found, frozenset([r"\approx"]))
        return _value(right if not left or _is_name(left, right) else left)
    if any(token in relations.INEQUALITIES for token in signs):
        solutions = sets.inequality(found)
        return solutions if isinstance(solutions, Value) else relations.real_set(solutions)
    if "=" not in signs:
        return None
    name, value = _named(found)
    if name:
        if name[0] == "(" and r"\pm" not in value:
            return _tuple_of(name, value)
        return _value(list(value))
    sides = split(found, frozenset(["="]))
    if not sides[0] or all(_BASED.fullmatch("".join(side)) for side in sides):
        return _value(sides[-1])
    left, right = parse(sides[0]), parse(sides[-1])
    if len(sides) > 2 and not right.free_symbols:  # m + n = 3 + 4 = 7
        last, before = of_scalar(scalar(right)), parse(sides[-2])
        if not before.free_symbols and scalar(before).key == last.key:
            return last
    if not left.free_symbols:  # 2 + 3 = 5 says 5, 6 = x says 6
        if right.is_Symbol:
            return _value(sides[0])
        if not right.free_symbols:
            return of_scalar(scalar(right))
    return relations.equation(left, right)


def _tuple_of(name: Sequence[str], value: Sequence[str]) -> Value:
    """Return the value of `(x,y)=(2,1)`: the tuple, in alphabetical order of the names."""
    names = ["".join(part) for part in split(name[1:-1], sets.COMMAS)]
    found = stripped(value)
    if not found or found[0] != "(" or closing(found, 0) != len(found) - 1:
        return _value(list(value))
    entries = split(found[1:-1], sets.COMMAS)
    if len(entries) != len(names) or len(set(names)) < len(names):
        return _value(list(value))
    ordered = sorted(zip(names, entries, strict=True), key=lambda pair: pair[0])
    return sequence([_value(entry) for _, entry in ordered])


def _bracketed(found: list[str]) -> Value | None:
    """Read a tuple, an interval, a set, a matrix; None if no bracket is around all of it."""
    if "".join(found) in sets.EMPTY:
        return EMPTY
    if len(found) == 1 and found[0] in sets.NAMED:
        return relations.real_set(sets.NAMED[found[0]])
    if any(map(_MATRIX.match, found)):
        return _matrix(found)
    if found[0] not in ("(", "[", r"\{", r"\langle") or closing(found, 0) != len(found) - 1:
        return None
    inside, ends = stripped(found[1:-1]), found[0] + found[-1]
    if found[0] == r"\{":
        condition = sets.builder(inside)
        if condition is not None:
            return relations.real_set(condition)
        parts = [
            part for part in split(numerals.thousands(inside, bracketed=True), sets.COMMAS) if part
        ]
        return finite_set(_elements(parts))
    parts = split(numerals.thousands(inside, bracketed=True), sets.COMMAS)
    if len(parts) == 1:
        return _value(inside) if ends in ("()", "[]", r"\langle\rangle") else None
    if ends == "[]" and all(part[:1] == ["["] for part in parts):
        return matrix([[_value(e) for e in split(part[1:-1], sets.COMMAS)] for part in parts])
    if len(parts) == 2 and ends in ("[]", "(]", "[)"):
        return relations.interval(sets.interval(parts, found[0], found[-1]))
    if ends not in ("()", "[]", r"\langle\rangle"):
        return None
    return sequence([_entry(part) for part in parts])


def _entry(part: list[str]) -> Value:
    if "".join(part) in (r"\infty", r"+\infty", r"-\infty"):
        return relations.infinity(part[0] != "-")
    return _value(part)


def _matrix(found: list[str]) -> Value:
    """Read a matrix, or what sympy makes of several: sums, products, multiples."""
    while found[0] in ("(", "[") and closing(found, 0) == len(found) - 1:
        found = stripped(found[1:-1])
    is_one = _MATRIX.match(found[0]) and sum(token.startswith(r"\begin") for token in found) == 1
    if not is_one or not found[-1].startswith(r"\end"):
        return _sympy_matrix(parse(found))
    inside = [token for token in found[1:-1] if token != r"\hline"]
    if found[0] == r"\begin{array}" and inside[:1] == ["{"]:
        inside = inside[closing(inside, 0) + 1 :]
    rows = [row for row in split(inside, frozenset([r"\\"])) if row]
    entries = [split(row, frozenset(["&"])) for row in rows]
    if not entries or len({len(row) for row in entries}) != 1:
        raise Unreadable("the rows differ in length")
    if found[0] in (r"\begin{vmatrix}", r"\begin{Vmatrix}"):
        cells = [[relations.plain(parse(cell)) for cell in row] for row in entries]
        return of_scalar(scalar(sympy.Matrix(cells).det()))
    return matrix([[_value(cell) for cell in row] for row in entries])


def _sympy_matrix(found: sympy.MatrixBase | sympy.Basic) -> Value:
    if not isinstance(found, sympy.MatrixBase):
        return of_scalar(scalar(found))
    rows = [[of_scalar(scalar(cell)) for cell in row] for row in found.tolist()]
    return matrix(rows)


def _ratio(found: list[str]) -> Value | None:
    parts = split(found, frozenset([":", "to", r"\text{to}"]))
    if len(parts) < 2 or not all(parts):
        return None
    numbers = [parse(part) for part in parts]
    if len(numbers) == 2:
        return of_scalar(scalar(numbers[0] / numbers[1]))
    return ratio([of_scalar(scalar(number / numbers[0])) for number in numbers])


def _one(found: list[str]) -> Value:
    """Read one expression or words; `±` makes it a set of two."""
    text = "".join(found)
    if key := words.key(text):
        return Value("words", key, key[1:])
    if based := _BASED.fullmatch(_PLAIN_DIGITS.sub(lambda match: match[1] or "", text)):
        return Value("numeral", f"={based[1]}_{based[2] or based[3]}", text)
    if r"\pm" in found or r"\mp" in found:
        return finite_set([of_scalar(scalar(parse(found, sign))) for sign in (1, -1)])
    if text in (r"\infty", r"+\infty", r"-\infty"):
        return relations.infinity(found[0] != "-")
    return of_scalar(scalar(parse(found)))
