r"""Units of measure as models write them: `m/s`, `kg·m/s²`, `sq ft`, `miles per hour`, `°C`.

    unit("meters per second")           # "m/s"
    unit("theta")                       # None

The one rule: a text is a unit only if every word of it is one. Symbols are read with their case
(`Pa` is a pascal, `pa` is nothing), names and longer abbreviations in any case. Things that people
count ("apples") are not units: see `is_count`. Values are never converted. Not covered: numbers
(`kit.answers.numbers`).
"""

from __future__ import annotations

import re
from functools import lru_cache

_MAX_CHARS = 80
# symbol, the metric prefixes of the symbol ("-" for none), names (these take every prefix's name)
_METRIC = """
m khdcmµnpf meter metre | g kmµn gram gramme | s mµnp second | L kcdmµh liter litre | l kcdmµh liter
J kMGmµ joule | N kMmµ newton | W kMGTmµ watt | V kMmµ volt | A kmµn ampere amp | Pa hkMG pascal
Hz kMGT hertz | eV kMGTm electronvolt | C mµn coulomb | F mµnp farad | Ω kMGm ohm | H mµ henry
T mµ tesla | Wb m weber | mol kmµn mole | B kMGTP byte | bit kMG bit | bps kMGT - | cal k calorie
Wh kMGT watt-hour | Bq kMG becquerel | Sv mµ sievert | Gy m gray | bar m bar | lm - lumen | lx - lux
K - kelvin | cd - candela | dB - decibel
"""
_PREFIX_NAMES = {
    "pico": "p", "nano": "n", "micro": "µ", "milli": "m", "centi": "c", "deci": "d", "hecto": "h",
    "kilo": "k", "mega": "M", "giga": "G", "tera": "T",
}  # fmt: skip
# normal form, then names and abbreviations in any case; a name may have a plural in "s"
_OTHERS = """
in inch inches | ft foot feet | yd yard | mi mile | nmi | ly light-year lightyear | au | Å angstrom
ha hectare | acre | tonne | ton | lb pound lbs | oz ounce | stone | min minute mins | h hour hr hrs
day | week wk wks | month | year yr yrs | decade | s sec secs | century centuries | gal gallon
qt quart | pint | cup | tbsp tablespoon | tsp teaspoon | cc | hp horsepower | psi | atm atmosphere
mmHg | Torr | rpm | mi/h mph | km/h kph kmh kmph | fps | kn knot | rad radian | deg degree ° degs
°C celsius | °F fahrenheit | °K | BTU | erg | dyn dyne | lbf | kgf | am a.m. | pm p.m. | o'clock
$ USD dollar US$ ₵ | ¢ cent | € EUR euro | £ GBP | penny pennies pence | ¥ JPY yen CNY RMB yuan
₹ INR rupee Rs | CAD | AUD | CHF franc | ₩ KRW won | ₽ RUB ruble rouble | BRL reais | MXN peso
unit | pts points | pcs piece
"""
_POWERS = {"square": "^2", "sq": "^2", "sq.": "^2", "cubic": "^3", "cu": "^3", "cu.": "^3"}
_AFTER = {"squared": "^2", "cubed": "^3"}
_PART = re.compile(r"([^\s/·^\d]+?)(?:\^?\{?([+-]?\d)\}?)?")
_LATEX = (
    (re.compile(r"\s*(?:\\cdot(?![A-Za-z])|\\times(?![A-Za-z])|[⋅∙*·])\s*"), "·"),
    (
        re.compile(
            r"\\(?:text|mathrm|mathit|mathbf|textrm|operatorname|rm)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*){0,8})\}"
        ),
        r"\1",
    ),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\\mu\s?|μ"), "µ"),
    (re.compile(r"\\Omega\s?|Ω"), "Ω"),
    (re.compile(r"\^\s*\{?\\circ\}?\s?|º"), "°"),
    (re.compile(r"\\[,;: !]|~|\\\s"), " "),
    (re.compile(r"[{}]?\^\s*\{\s*([+-]?\d)\s*\}"), r"^\1"),
    (re.compile(r"°\s*(?:C\b|(?i:celsius)\b)|\b(?i:degrees?\s+(?:celsius|c))\b"), "°C"),
    (re.compile(r"°\s*(?:F\b|(?i:fahrenheit)\b)|\b(?i:degrees?\s+(?:fahrenheit|f))\b"), "°F"),
    (re.compile(r"/\s*\(([^()/]*)\)"), r"/\1"),  # J/(kg·K)
    (re.compile(r"\s*/\s*|\s*\bper\s+", re.IGNORECASE), "/"),
    (re.compile(r"\b(?i:fl(?:uid)?\.?\s?(?:oz|ounces?))\b"), "oz"),
)
_SUPERSCRIPTS = str.maketrans({"²": "^2", "³": "^3", "⁻": "-", "¹": "1"})
# words that change the number before them, or belong to it; never dropped as a unit
_CHANGE_WORDS = """
times plus minus over more less fewer greater modulo percent percentage mille half halves third
thirds fourth fourths quarter quarters fifth fifths sixth sixths seventh sevenths eighth eighths
ninth ninths tenth tenths twelfth twelfths hundredth hundredths thousandth thousandths hundred
hundreds thousand thousands million millions billion billions trillion trillions dozen dozens
score fold ones tens lakh crore infinity base through squared cubed factorial choose above below
between either point remainder approximately about divided multiplied raised into from that than
with where when which
"""
_CHANGES = frozenset(_CHANGE_WORDS.split())
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|theta|iota|kappa|lambda|sigma|upsilon|omega|omicron|varphi"
)
_MATH_NAME = re.compile(
    rf"(?:{_GREEK})[a-z]?|(?:arc)?(?:sin|cos|tan|cot|sec|csc|sqrt|log|ln|exp)h?(?:[a-z]|{_GREEK}|pi)?",
    re.IGNORECASE,
)
_NOT_MATH = frozenset(["cost", "costs", "tank", "logs", "coth", "tans"])
_WORD = re.compile(
    r"[A-Za-z]{4,30}|men|way|day|egg|cup|bag|box|car|cat|dog|boy|pen|pie|jar|row|bus"
)
_SHORT_WORD = re.compile(r"(?!and|not|max|min|mod|gcd|lcm|det|cos|sin|tan|sec|log|exp)[a-z]{3}")
_JOINTS = frozenset(["of", "per", "the", "a", "an", "in"])


def _tables() -> tuple[dict[str, str], dict[str, str]]:
    symbols: dict[str, str] = {}
    names: dict[str, str] = {}
    for entry in re.split(r"[|\n]", _METRIC.strip()):
        symbol, prefixes, *spelled = entry.split()
        normal = "L" if symbol == "l" else symbol
        symbols[symbol] = normal
        for prefix in prefixes.strip("-"):
            symbols[prefix + symbol] = prefix + normal
            if prefix == "µ":
                symbols["u" + symbol] = prefix + normal
        for name in spelled if spelled != ["-"] else []:
            names[name] = normal
            names |= {long + name: short + normal for long, short in _PREFIX_NAMES.items()}
    for entry in re.split(r"[|\n]", _OTHERS.strip()):
        normal, *spelled = entry.split()
        symbols[normal] = normal
        names |= {name.casefold(): normal for name in (normal, *spelled)}
    names |= {name + "s": normal for name, normal in names.items() if len(name) > 2}
    return symbols, names


_SYMBOLS, _NAMES = _tables()
# abbreviations that are also written in another case; the first of several with these letters wins
_ANY_CASE = {
    symbol.casefold(): normal
    for symbol, normal in reversed(_SYMBOLS.items())
    if len(symbol) > 2 or symbol in ("kg", "cm", "mm", "km", "mL", "ml", "ft", "lb", "oz", "yd")
}


@lru_cache(maxsize=4096)
def unit(text: str) -> str | None:
    """Return the normal form of a unit: `m/s` for "meters per second"; None if it is not one."""
    text = text.strip().translate(_SUPERSCRIPTS)
    if not text or len(text) > _MAX_CHARS:
        return None
    for pattern, new in _LATEX:
        text = pattern.sub(new, text)
    quotient = [_product(part) for part in text.strip().strip(".").split("/")]
    if quotient[0] is None and text.startswith("/") and len(quotient) > 1:
        quotient[0] = ""
    known = [part for part in quotient if part is not None]
    return "/".join(known) if len(known) == len(quotient) <= 3 else None


def is_unit(text: str) -> bool:
    """Tell whether a text is a unit of measure or of money."""
    return unit(text) is not None


def is_count(text: str) -> bool:
    """Tell whether a text names things that are counted: "apples", "cups of tea", "per person".

    Any plain words will do, except words that change a number ("dozen", "tenths", "times") and
    names of functions and variables ("theta", "cosx").
    """
    words = re.split(r"[\s/-]+", text.strip().strip(".")) if len(text) <= _MAX_CHARS else []
    return (
        0 < len(words) <= 8
        and words[0] not in ("of", "a", "an", "in")
        and words[-1] not in _JOINTS
        and any(_is_plain(word) or is_unit(word) for word in words)
        and all(
            word in _JOINTS or _is_plain(word) or is_unit(word) or _SHORT_WORD.fullmatch(word)
            for word in words
        )
    )


def _is_plain(word: str) -> bool:
    return (
        _WORD.fullmatch(word) is not None
        and word.casefold() not in _CHANGES
        and (_MATH_NAME.fullmatch(word) is None or word.casefold() in _NOT_MATH)
    )


def _product(text: str) -> str | None:
    """Return the normal form of units that stand side by side: `N m`, `sq ft`, `foot-pounds`."""
    factors: list[str] = []
    power = ""
    for word in re.split(r"[\s·]+|(?<=[a-z]{3})-(?=[a-z]{3})", text.strip()):
        lower = word.casefold()
        if lower in _POWERS and not power:
            power = _POWERS[lower]
        elif lower in _AFTER and factors and not power:
            factors[-1] += _AFTER[lower]
        elif (factor := _factor(word, power)) is not None:
            factors.append(factor)
            power = ""
        else:
            return None
    return "·".join(factors) if factors and not power and len(factors) <= 4 else None


def _factor(word: str, power: str) -> str | None:
    match = _PART.fullmatch(word)
    if match is None or (power and match[2]):
        return None
    name = match[1].rstrip(".") if len(match[1]) > 2 else match[1]
    lower = name.casefold()
    normal = (
        _SYMBOLS.get(name) or _NAMES.get(lower) or (_ANY_CASE.get(lower) if len(name) > 1 else None)
    )
    if normal is None:
        return None
    return normal + (power or (f"^{match[2]}" if match[2] and match[2] != "1" else ""))
