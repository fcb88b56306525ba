r"""Numbers as models write them, read exactly.

    quantity(r"x = \$1{,}000 per hour")     # Fraction(1000)

Examples of readable numbers: `1,000`, `.5`, `\frac12`, `50\%`, `3 \times 10^{4}`, `2\frac{1}{2}`,
`\$18.50 per hour`. The one rule: the value is exact or None, and bounded. Text is never evaluated,
and a number larger than `_MAX_BITS` is not read, so `10^10^10` costs nothing. Not covered: algebra
such as `2+3` and `\sqrt{4}` (`verifiers.answers.math`).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b

from orchestrator.kit.answers.languages import is_foreign_count
from orchestrator.kit.answers.units import is_count, unit

MAX_CHARS = 1000
_MAX_BITS = 4096
_MAX_EXPONENT = 400  # 10**400 has 1329 bits: within _MAX_BITS, and beyond every float

_SYMBOLS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "‐": "-",
        "‑": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "⁄": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "…": r"\ldots ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "∪": r"\cup ",
        "º": "°",
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "⅕": r"\frac{1}{5}",
        "⅖": r"\frac{2}{5}",
        "⅗": r"\frac{3}{5}",
        "⅘": r"\frac{4}{5}",
        "⅙": r"\frac{1}{6}",
        "⅚": r"\frac{5}{6}",
        "⅛": r"\frac{1}{8}",
        "⅜": r"\frac{3}{8}",
        "⅝": r"\frac{5}{8}",
        "⅞": r"\frac{7}{8}",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_COMMANDS = (
    r"[dtc]?frac|sqrt|pi|text\w*|left|right|math\w+|infty|cdot|times|boxed|circ|theta|begin|end"
    r"|cup|in|le|ge"
)
_TIDY = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (
            rf"(?<!\\)\\\\(?=(?:{_COMMANDS})(?![A-Za-z]))",
            "\\\\",
        ),  # a backslash escaped twice, as in JSON
        (
            r"(?<=\d)(?:\{,\}|\\text\{,\}|\\,|,\\!\s?|,?\{\\,\}|~)(?=\d{3}(?!\d))",
            "",
        ),  # thousands: 1{,}000, 1\,000, 1,\!000
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:left|right)(?:\.|(?![A-Za-z]))", ""),
        (r"\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
        (r"\\(?:displaystyle|textstyle|limits|!)", ""),
        (r"(?<!\\)\\(?:[,;: >]|q?quad(?![A-Za-z]))|~", " "),
        (
            r"\\(?:textbf|textit|textrm|textsf|texttt|textsc|textup|textnormal|mathrm|mathbf|mathit|mbox|operatorname|rm)\s*\{",
            r"\\text{",
        ),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d)", r"\\frac\1{\2}"),
        (r"\\sqrt\s*(\d+)", r"\\sqrt{\1}"),
        (r"√\s*(\d+)", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])", "°"),
        (r"\\(?=[%$#])", ""),
        (r"\\leq(?![A-Za-z])", r"\\le"),
        (r"\\geq(?![A-Za-z])", r"\\ge"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"(?<=[\d }])\.{3,}", r"\\ldots "),
        (r"\s+", " "),
    )
)

_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[+-]?\s*{_DECIMAL}"
_EXPONENT = r"(?:\{\s*([+-]?\s*\d{1,9})\s*\}|\(\s*([+-]?\s*\d{1,9})\s*\)|([+-]?\d{1,9}))"
_PLAIN = re.compile(_DECIMAL)
_SCIENTIFIC = re.compile(rf"({_DECIMAL})[eE]([+-]?\d{{1,9}})")
_POWER = re.compile(rf"(\d{{1,9}})\s*(?:\^|\*\*)\s*{_EXPONENT}")
_TIMES_TEN = re.compile(rf"({_DECIMAL})\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*{_EXPONENT}")
_RATIO = re.compile(rf"({_SIGNED})\s*/\s*({_SIGNED})")
_FRAC = re.compile(rf"\\frac\s*\{{\s*({_SIGNED})\s*\}}\s*\{{\s*({_SIGNED})\s*\}}")
_MIXED = re.compile(
    r"(\d{1,9})(?:\s*\\frac\s*\{\s*(\d{1,9})\s*\}\s*\{\s*(\d{1,9})\s*\}|\s+(\d{1,9})\s*/\s*(\d{1,9}))"
)

_SCALES = {
    "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12,
    "lakh": 5, "lakhs": 5, "crore": 7, "crores": 7,
}  # fmt: skip
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "fourth": 4, "fourths": 4, "fifth": 5,
    "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7, "eighth": 8, "eighths": 8,
    "ninth": 9, "ninths": 9, "tenth": 10, "tenths": 10, "twelfth": 12, "twelfths": 12,
    "hundredth": 100, "hundredths": 100, "thousandth": 1000, "thousandths": 1000,
}  # fmt: skip
_PERCENT = re.compile(
    r"(?:%|(?:percent(?:ages?|s)?|per\s+cent|pct)(?![A-Za-z])\.?)(?:\s*points?(?![A-Za-z]))?",
    re.IGNORECASE,
)
_CODES = "USD|EUR|GBP|JPY|CNY|RMB|INR|CAD|AUD|CHF|KRW|RUB|BRL|MXN|Rs\\.?"
_SIGNS = r"(?:US|CA|AU|HK|NZ|[ACR])?[$]|[€£¥₹₩₽]"
_CURRENCY = re.compile(rf"([+-]?)\s*({_SIGNS}|(?:{_CODES})(?![A-Za-z]))\s*(?=[\d.+-])")
_PRICE = re.compile(r"([+-]?\d{1,3}(?:\.\d{3})*|[+-]?\d+),(\d{2})")
# where a number may end and a unit begin
_BOUNDARY = re.compile(r"(?<=[\d.}%])\s*(?=[A-Za-z¢$€£%°\\/^]|[^\x00-\xbf])")
_MAX_BOUNDARIES = 16
_TEXT = re.compile(r"\\text\s*\{\s*([^{}]*(?:\{[^{}]*\}[^{}]*){0,8})\}")
_MONEY = frozenset(
    ["$", "¢", "€", "£", "GBP", "¥", "₹", "CAD", "AUD", "CHF", "₩", "₽", "BRL", "MXN"]
)
_AREA = re.compile(r"(?<=\d)(?=(?:[kcdm]|)m[²³])")
# letters that are units only apart from the number: 12 m; 12m may be a product of variables
_LETTER = re.compile(r"[A-Za-z](?:\s*\^.*)?", re.DOTALL)
_LETTERS = "mgshJNWVKLlACFHT"
_NAME = r"(?:[A-Za-z]|[A-Z]{2}|\\(?:theta|alpha|beta|gamma|lambda|mu|text\{[^{}]*\}))"
_ASSIGNED = re.compile(rf"{_NAME}(?:_\w|_\{{\w{{1,9}}\}})?'?(?:\([A-Za-z\d]\))?\s*=(?!=)|=")
_PAIRS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("`", "`"),
    ("{", "}"),
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


def tidy(text: str) -> str:
    r"""Return the same LaTeX in a uniform spelling.

    For example `\frac{1}{2}` for `\dfrac12`, no `\left`, commands instead of Unicode signs.
    """
    text = _SUPERSCRIPT.sub(
        lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text.translate(_SYMBOLS)
    )
    for pattern, new in _TIDY:
        text = pattern.sub(new, text)
    return text.strip()


def unwrap(text: str) -> str:
    r"""Return the text without closing punctuation and without delimiters around all of it.

    The delimiters are `$…$`, `\(…\)`, `\boxed{…}`, `**…**` and `{…}`.
    """
    before = None
    while text != before:
        before = text
        text = text.strip().rstrip(".,;:").strip()
        for left, right in _PAIRS:
            inner = text[len(left) : -len(right)]
            if (
                len(text) > len(left) + len(right)
                and text.startswith(left)
                and text.endswith(right)
                and _whole(inner)
            ):
                text = inner
        box = _BOX.match(text)
        if box and text.endswith("}") and _whole(text[box.end() : -1]):
            text = text[box.end() : -1]
    return text


def without_name(text: str) -> str:
    """Return the right side of `x = …`; the text itself if the left side is not a single name."""
    match = _ASSIGNED.match(text)
    while match and match.end() < len(text):
        text = text[match.end() :].strip()
        match = _ASSIGNED.match(text)
    return text


def rational_key(value: Fraction) -> str:
    """Return `=n/d` or `=n`: the canonical form of a rational. A digest where it is very long."""
    if max(abs(value.numerator).bit_length(), value.denominator.bit_length()) <= _MAX_BITS:
        return f"={value}"
    written = f"{value.numerator:x}/{value.denominator:x}"
    return (
        f"={'-' if value < 0 else ''}n/d #{blake2b(written.encode(), digest_size=12).hexdigest()}"
    )


def rational(text: str) -> Fraction | None:
    """Return the exact value of one written number.

    None if the text is not a number, not finite, or too large. `text` must be the output of `tidy`.
    Percentages are divided by 100: `50%` is 1/2, not 50.
    """
    text = text.strip()
    if not text or len(text) > MAX_CHARS:
        return None
    if text[0] in "+-":
        value = _unsigned(text[1:].strip())
        return -value if value is not None and text[0] == "-" else value
    return _unsigned(text)


def quantity(text: str) -> Fraction | None:
    r"""Return the exact value of one number with a name, currency or unit: `x = \$5` is 5.

    Units are dropped, never converted: `5 cm` and `5 m` are both 5. None for any text that is not a
    single number, such as `32, 349`, `2theta` and `5 dozen`.
    """
    found = measurement(text)
    return None if found is None else found[0]


@lru_cache(maxsize=8192)  # a problem's attempts repeat the same few answers
def measurement(text: str) -> tuple[Fraction, str] | None:
    """Return the value of `quantity` and the normal form of its unit.

    The unit is "" where there is none, and for things that are counted ("5 apples").
    """
    if len(text) > MAX_CHARS:
        return None
    text = unwrap(without_name(unwrap(tidy(_AREA.sub(" ", text)))))
    money = ""
    if code := _CURRENCY.match(text):
        money = unit(code[2]) or "$"
        text = code[1] + text[code.end() :]
    if (value := rational(text)) is not None:
        return value, money
    for boundary in list(_BOUNDARY.finditer(text))[:_MAX_BOUNDARIES]:
        head, tail = text[: boundary.start()], text[boundary.end() :]
        value = rational(head)
        price = _PRICE.fullmatch(head)
        if value is None and price and (money or unit(tail) in _MONEY):
            value = rational(price[1].replace(".", "") + "." + price[2])
        if value is not None and (rest := _tail(tail, attached=not boundary[0])):
            return value * rest[0], money or rest[1]
    if money and (price := _PRICE.fullmatch(text)):
        value = rational(price[1].replace(".", "") + "." + price[2])
        return None if value is None else (value, money)
    return None


def _tail(tail: str, *, attached: bool) -> tuple[Fraction, str] | None:
    """Return the factor and the unit in the text after a number; None if it says anything else."""
    bare = _TEXT.sub(r" \1 ", tail).strip()
    attached = attached and bare == tail
    factor = Fraction(1)
    if percent := _PERCENT.match(bare):
        factor, bare = factor / 100, bare[percent.end() :].strip()
    while (word := re.match(r"[a-z]+", bare, re.IGNORECASE)) and word[0].lower() in _SCALES:
        factor, bare = factor * 10 ** _SCALES[word[0].lower()], bare[word.end() :].strip()
    if word and word[0].lower() in _PARTS and word.end() == len(bare):
        return (factor / _PARTS[word[0].lower()], "")
    bare = bare.strip("() ")
    if not bare:
        return factor, ""
    if attached and re.fullmatch(r"[A-Za-z]\d", bare):  # 5C2
        return None
    if _LETTER.fullmatch(bare) and (attached or bare[0] not in _LETTERS):
        return None
    name = unit(tail if factor == 1 else bare) or unit(bare)
    if name is not None:
        return factor, name
    is_counted = is_foreign_count(bare) or (not attached and is_count(bare))
    return (factor, "") if is_counted else None


def _unsigned(text: str) -> Fraction | None:
    if text.endswith("%"):
        value = _unsigned(text[:-1].strip())
        return None if value is None else value / 100
    if _PLAIN.fullmatch(text):
        return _decimal(text)
    if match := _SCIENTIFIC.fullmatch(text):
        return _times_power(_decimal(match[1]), 10, int(match[2]))
    if match := _TIMES_TEN.fullmatch(text):
        return _times_power(_decimal(match[1]), 10, _exponent(match.groups()[1:]))
    if match := _POWER.fullmatch(text):
        return _times_power(Fraction(1), int(match[1]), _exponent(match.groups()[1:]))
    if match := _RATIO.fullmatch(text) or _FRAC.fullmatch(text):
        top, bottom = _decimal(match[1]), _decimal(match[2])
        return top / bottom if bottom else None
    if match := _MIXED.fullmatch(text):
        whole, over, under = (int(group) for group in match.groups() if group is not None)
        return whole + Fraction(over, under) if over < under else None
    return None


def _decimal(text: str) -> Fraction:
    text = text.replace(",", "").replace(" ", "")
    sign = -1 if text.startswith("-") else 1
    whole, _, part = text.lstrip("+-").partition(".")
    return Fraction(sign * int((whole + part) or "0"), 10 ** len(part))


def _exponent(groups: tuple[str | None, ...]) -> int:
    return int(next(group for group in groups if group is not None).replace(" ", ""))


def _times_power(value: Fraction, base: int, exponent: int) -> Fraction | None:
    if (
        abs(exponent) > _MAX_EXPONENT
        or abs(exponent) * base.bit_length() > _MAX_BITS
        or (base == 0 and exponent <= 0)
    ):
        return None
    return value * Fraction(base) ** exponent


def _whole(inner: str) -> bool:
    r"""Tell whether the delimiters around `inner` belong together.

    Those at the ends of `$a$ and $b$` or `{a}{b}` do not.
    """
    if "$" in inner or "**" in inner or "`" in inner or r"\)" in inner or r"\]" in inner:
        return False
    depth = 0
    for match in re.finditer(r"\\.|[{}]", inner):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth < 0:
            return False
    return depth == 0
