r"""One spelling for LaTeX and plain text: the tokens of a formula without its decoration.

    tokens(r"\color{red}{\dfrac12}\,")     # ["{", "\\frac", "1", "2", ...]

The one rule: what only changes how a formula looks is removed, and nothing else. Linear time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from orchestrator.kit.answers.numbers import tidy

MAX_DEPTH = 60  # nested brackets; a deeper text is not an answer that anyone writes

_TOKEN = re.compile(
    r"\\text\s*\{[^{}]*\}|\\(?:begin|end)\s*\{\w+\*?\}|\\mathbb\s*(?:\{\s*[A-Z]\s*\}|[A-Z])"
    r"|\\[A-Za-z]+\*?|\\.|\d+(?:\.\d*)?(?:[eE][+-]?\d{1,6}(?![\d.]))?|\.\d+|[A-Za-z]+|[^\W\d_a-zA-Z]+"
    r"|\s+|<=|>=|!=|\*\*|.",
    re.DOTALL,
)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁱⁿ]+|[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₙₖₘₚₛₜᵢⱼ]+")
_PRIMES = re.compile(r"\^\s*(?:\{\s*(?:\\prime\s*){1,4}\}|\\prime(?![A-Za-z]))")
# {}_5C_2, {}^5C_2, 5C2
_CHOOSE = re.compile(
    r"(?:(?:\{\s*\})?\s*[_^]\s*\{?\s*(?=\d)|(?<![\w.}])(?=\d+C\d))(\d{1,4})\s*\}?\s*C\s*_?\s*"
    r"\{?\s*(\d{1,4})(?!\d)\s*\}?"
)
_NOT_SHOWN = frozenset(
    [
        r"\displaystyle",
        r"\textstyle",
        r"\scriptstyle",
        r"\scriptscriptstyle",
        r"\limits",
        r"\nolimits",
        r"\tiny",
        r"\scriptsize",
        r"\footnotesize",
        r"\small",
        r"\normalsize",
        r"\large",
        r"\Large",
        r"\LARGE",
        r"\huge",
        r"\Huge",
        r"\bf",
        r"\it",
        r"\rm",
        r"\sf",
        r"\tt",
        r"\bfseries",
        r"\itshape",
        r"\boldmath",
        r"\strut",
        r"\mathstrut",
        r"\hfill",
        r"\hfil",
        r"\noindent",
        r"\allowbreak",
        r"\nonumber",
        r"\notag",
        r"\centering",
        r"\break",
        r"\par",
        r"\smallskip",
        r"\medskip",
        r"\bigskip",
        r"\left",
        r"\right",
        r"\middle",
    ]
)
# commands whose first arguments are not shown, with the number of those
_SILENT = {
    **dict.fromkeys(
        [
            r"\color",
            r"\phantom",
            r"\hphantom",
            r"\vphantom",
            r"\label",
            r"\tag",
            r"\hspace",
            r"\vspace",
            r"\mspace",
        ],
        1,
    ),
    **dict.fromkeys([r"\textcolor", r"\colorbox", r"\underset", r"\overset", r"\stackrel"], 1),
    r"\fcolorbox": 2,
}
_FRAMES = frozenset(
    [
        r"\text",  # around a formula: \mathbf{\frac{1}{2}}
        r"\boxed",
        r"\fbox",
        r"\framebox",
        r"\boldsymbol",
        r"\bm",
        r"\pmb",
        r"\underline",
        r"\emph",
        r"\ensuremath",
        r"\mathop",
        r"\mathord",
        r"\mathbin",
        r"\mathsf",
        r"\mathtt",
        r"\mathnormal",
        r"\cancel",
        r"\underbrace",
        r"\overbrace",
        r"\mathchoice",
    ]
)
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\langle": r"\rangle"}
_CLOSING |= {r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_OPENING = frozenset(_CLOSING)
_CLOSERS = frozenset(_CLOSING.values())
_SPELLINGS = {
    r"\leqslant": r"\le", "<=": r"\le", r"\geqslant": r"\ge", ">=": r"\ge", "!=": r"\ne",
    r"\neq": r"\ne", r"\lt": "<", r"\gt": ">", r"\eq": "=", "**": "^", r"\ast": "*",
    r"\div": "/", r"\colon": ":", r"\lvert": "|", r"\rvert": "|",
    r"\vert": "|", r"\mid": "|", r"\tbinom": r"\binom", r"\dbinom": r"\binom", r"\varphi": r"\phi",
    r"\varepsilon": r"\epsilon", r"\vartheta": r"\theta", r"\lgroup": "(", r"\rgroup": ")",
    r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(", r"\rparen": ")", r"\bigcup": r"\cup",
    r"\smallsetminus": r"\setminus", r"\backslash": r"\setminus", r"\land": r"\wedge",
    r"\lor": r"\vee", r"\to": r"\rightarrow", r"\implies": r"\Rightarrow", r"\R": r"\mathbb{R}",
    r"\N": r"\mathbb{N}", r"\Z": r"\mathbb{Z}", r"\Q": r"\mathbb{Q}", r"\C": r"\mathbb{C}",
    r"\reals": r"\mathbb{R}", r"\Reals": r"\mathbb{R}", r"\tg": r"\tan", r"\ctg": r"\cot",
    r"\cosec": r"\csc", r"\arctg": r"\arctan", r"\lg": r"\log", r"\textdegree": "°",
    r"\textperiodcentered": "*", r"\centerdot": "*", "∗": "*", "∙": "*", "•": "*",
    "≈": r"\approx", r"\thickapprox": r"\approx", r"\simeq": r"\approx", "→": r"\rightarrow",
    "∈": r"\in", "∉": r"\notin", "∩": r"\cap", "∅": r"\emptyset", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "±": r"\pm",
    "∓": r"\mp", "∧": r"\wedge", "∨": r"\vee", "∣": "|", "∖": r"\setminus", "⟨": r"\langle",
    "⟩": r"\rangle", "〈": r"\langle", "〉": r"\rangle", "⌊": r"\lfloor", "⌋": r"\rfloor",
    "⌈": r"\lceil", "⌉": r"\rceil", "√": r"\sqrt", "∛": r"\cbrt", "∑": r"\sum", "∫": r"\int",
    "inf": r"\infty", "Inf": r"\infty", "infinity": r"\infty", "Infinity": r"\infty",
    "oo": r"\infty", "′": "'", "’": "'", "″": "''", "∠": r"\angle", "△": r"\triangle",
    "≡": r"\equiv",
}  # fmt: skip


_NEGATED = {r"\in": r"\notin", "=": r"\ne"}


class Unreadable(ValueError):
    """A text that is no formula; the message tells what cannot be read."""


def tokens(text: str) -> list[str]:
    r"""Return the tokens of a formula: commands, numbers, letters, `\text{…}`, signs, spaces.

    A run of spaces is one token. Unreadable for brackets nested more than 60 deep.
    """
    uniform = _PRIMES.sub(lambda match: "'" * match[0].count("prime"), tidy(compatible(text)))
    uniform = _CHOOSE.sub(r"\\binom{\1}{\2}", uniform)
    found = _joined(_shown([_spelling(match[0]) for match in _TOKEN.finditer(uniform)]))
    depth = 0
    for token in found:
        depth += (token in _OPENING or token.startswith(r"\begin")) - (
            token in _CLOSERS or token.startswith(r"\end")
        )
        if depth > MAX_DEPTH:
            raise Unreadable("brackets are nested too deeply")
    return stripped(found)


def _joined(found: list[str]) -> list[str]:
    """Return the tokens with `{:}` as `:`, and `U` between two intervals as a union."""
    for index in range(1, len(found) - 1):
        before, token, after = found[index - 1 : index + 2]
        if before == "{" and after == "}" and not (token[0].isalnum() or token[0] == "\\"):
            found[index - 1] = found[index + 1] = " "
        elif before == r"\not" and token in _NEGATED:
            found[index - 1], found[index] = " ", _NEGATED[token]
        elif token == "U":
            is_left = stripped(found[:index])[-1:] in ([")"], ["]"], [r"\}"])
            is_right = stripped(found[index + 1 :])[:1] in (["("], ["["], [r"\{"])
            found[index] = r"\cup" if is_left and is_right else token
    return found


def stripped(found: Sequence[str]) -> list[str]:
    """Return the tokens without spaces and full stops at the ends."""
    start, end = 0, len(found)
    while start < end and found[start] == " ":
        start += 1
    while end > start and found[end - 1] in (" ", ".", ",", ";"):
        end -= 1
    return list(found[start:end])


def without_braces(found: Sequence[str]) -> list[str]:
    """Return the tokens without dollar signs, and without braces around all of them."""
    found = stripped([token for token in found if token not in ("$", r"\$", "{,}")])
    while found and found[0] == "{" and closing(found, 0) == len(found) - 1:
        found = stripped(found[1:-1])
    return found


def closing(found: Sequence[str], start: int) -> int:
    """Return the index of the bracket that closes the one at `start`; Unreadable if none does.

    Any bracket may close a round or square one, because half-open intervals mix them.
    """
    depth = 0
    braces = found[start] in ("{", r"\{")
    for index in range(start, len(found)):
        token = found[index]
        if braces:
            depth += (token in ("{", r"\{")) - (token in ("}", r"\}"))
        else:
            depth += (token in _OPENING) - (token in _CLOSERS)
        if depth == 0:
            return index
    raise Unreadable(f"{found[start]} is not closed")


def depths(found: Sequence[str]) -> list[int]:
    """Return the depth of each token: 0 outside of all brackets; brackets count as inside."""
    result: list[int] = []
    depth = 0
    for token in found:
        opens = token in _OPENING or token.startswith(r"\begin")
        closes = token in _CLOSERS or token.startswith(r"\end")
        depth += opens
        result.append(depth)
        depth = max(0, depth - closes)
    return result


def outer(found: Sequence[str]) -> list[str]:
    """Return the tokens outside of all brackets."""
    return [token for token, depth in zip(found, depths(found), strict=True) if depth == 0]


def split(found: Sequence[str], separators: frozenset[str]) -> list[list[str]]:
    """Return the parts between separators that stand outside of all brackets."""
    parts: list[list[str]] = [[]]
    for token, depth in zip(found, depths(found), strict=True):
        if depth == 0 and token in separators:
            parts.append([])
        else:
            parts[-1].append(token)
    return [stripped(part) for part in parts]


def compatible(text: str) -> str:
    """Return the text with full-width signs, Greek letters and mathematical letters as usual ones.

    Signs that Unicode calls compatible lose only their font; raised and lowered ones become powers
    and indices.
    """
    if text.isascii():
        return text
    return "".join(_usual(sign) for sign in _RAISED.sub(_raised, text))


def _raised(match: re.Match[str]) -> str:
    usual = unicodedata.normalize("NFKC", match[0]).replace("−", "-")
    is_power = "super" in unicodedata.decomposition(match[0][0])
    return ("^" if is_power else "_") + "{" + usual + "}"


def _usual(sign: str) -> str:
    if sign.isascii():
        return sign
    if "\u0370" <= sign <= "\u03ff":
        return _greek(sign)
    if unicodedata.decomposition(sign).startswith(("<wide>", "<font>", "<narrow>")):
        usual = unicodedata.normalize("NFKC", sign)
        return sign if sign in _SPELLINGS else usual if usual.isascii() else _usual(usual)
    if unicodedata.decimal(sign, None) is not None:
        return str(unicodedata.decimal(sign))
    return "" if unicodedata.category(sign) == "Cf" else sign  # marks of direction, zero width


def _greek(letter: str) -> str:
    words = unicodedata.name(letter, "").split()
    if words[:1] != ["GREEK"] or "LETTER" not in words:
        return letter
    name = words[words.index("LETTER") + 1].lower().replace("lamda", "lambda")
    return "\\" + (name.capitalize() if "CAPITAL" in words else name) + " "


def _spelling(token: str) -> str:
    if token.isspace():
        return " "
    if token.startswith(r"\mathbb"):
        return r"\mathbb{" + token.rstrip("} ")[-1] + "}"
    head, brace, content = token.partition("{")
    if not brace or len(token) <= 2:  # \{
        return _SPELLINGS.get(token, token)
    return head.strip() + "{" + content[:-1].strip() + "}"


def _shown(raw: list[str]) -> list[str]:
    """Return the tokens without colours, sizes, frames and labels."""
    out: list[str] = []
    index = 0
    while index < len(raw):
        token = raw[index]
        if token in _NOT_SHOWN or token in _FRAMES:
            index += 1
        elif token in _SILENT:
            index += 1
            for _ in range(_SILENT[token]):
                index = _after_argument(raw, index)
        elif token == " " and out and out[-1] == " ":
            index += 1
        else:
            out.append(token)
            index += 1
    return out


def _after_argument(raw: Sequence[str], index: int) -> int:
    while index < len(raw) and raw[index] == " ":
        index += 1
    if index < len(raw) and raw[index] == "{":
        return closing(raw, index) + 1
    return index
