r"""Numbers as other languages and scripts write them: `４２`, `٤٢`, `1.234,5`, `3万`, `5分の2`; and
as words: `thirty-two`.

    plain("Die Antwort ist 4,5 Prozent.", german)     # "Die Antwort ist 4.5%."
    in_digits("thirty-two apples", None)              # "32 apples"

The one rule: a number that two conventions read differently is not decided, but marked. Not
covered: which language it is, and its words (`kit.answers.languages`).
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

from orchestrator.kit.answers.languages import Language

UNCLEAR = "\ufffd"  # in a number that two conventions read differently: nothing reads it


def _forms() -> dict[int, str]:
    """Return the ASCII forms of full-width signs, of the digits of Indic and other scripts, ...

    Each is one character, so that positions in a text stay the same.
    """
    table = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    for zero in (
        0x660,
        0x6F0,
        0x966,
        0x9E6,
        0xA66,
        0xAE6,
        0xBE6,
        0xC66,
        0xCE6,
        0xD66,
        0xE50,
        0x1040,
    ):
        table |= {zero + digit: str(digit) for digit in range(10)}
    return table | {
        ord(sign): form for sign, form in zip("٪٫٬。।॥،؛؟　", "%.,...,;? ", strict=True)
    }


_FORMS = _forms()
_LATEX_GROUP = re.compile(r"(?<=\d)\s?\{\s?,\s?\}\s?(?=\d)")
_LATEX_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)(?!\d{3}(?!\d))")
_PIECE = re.compile(
    r"\$(?P<formula>[^$\n]{1,200})\$|\\\((?P<inline>[^\n]{1,200}?)\\\)"
    r"|(?<![\w.,(\[{;|^])(?P<number>[+-]?\d{1,40}(?:[.,\u00a0\u202f ]\d{1,40}){1,12})"
    r"(?![\w^])(?![.,]\d)"
)
_COMMA_ALONE = re.compile(
    r"\s*(?:[A-Za-z]\s*=\s*)?[+-]?\d{1,40},\d{1,40}\s*(?:\\?%\s*|\\text\{[^{}]*\}\s*)?"
)
# languages whose words for numbers text2num knows
_SPELLED = frozenset(["de", "en", "es", "fr", "it", "nl", "pt"])
_MAX_SPELLED = 300
_ONE_OF = re.compile(r"\s*one of\b", re.IGNORECASE)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:([.\u00a0\u202f ])\d{3})(?:\1\d{3})*(?:,\d+)?")
_ENGLISH_GROUPS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+\.\d+|[+-]?\d{1,3}(?:,\d{3}){2,}")


def ascii_forms(text: str) -> str:
    """Return a text of the same length with ASCII digits, and ASCII signs for full-width ones."""
    return text if text.isascii() else text.translate(_FORMS)


def in_digits(text: str, language: Language | None, least: int = 0) -> str:
    """Return a text whose numbers are spelled as words with digits instead: `32 apples`.

    What stands in brackets remains, as do single words for numbers below `least`, and a text that
    has a digit in front of a bracket, is in a language whose words are not known, or is long.
    `language` None is English.
    """
    code = "en" if language is None else language.code
    words, bracket, rest = text.partition("(")  # "twelve (12) apples"
    if code not in _SPELLED or len(text) > _MAX_SPELLED or _ONE_OF.match(text):
        return text
    if any(map(str.isdigit, words)) or not text.isprintable():  # of halves of characters, too
        return text
    import text_to_num  # not at the start: most replies need none of it

    return str(text_to_num.alpha2digit(words, code, threshold=least)) + bracket + rest


def plain(text: str, language: Language | None) -> str:
    """Return a text with its numbers as English writes them: `1.234,5 Prozent` is `1234.5%`.

    "and" stands between the numbers of a list.
    A number that may mean two things ("70,000" in German) contains `UNCLEAR` instead.
    """
    text = _LATEX_COMMA.sub(".", _LATEX_GROUP.sub("{,}", ascii_forms(text)))
    if language is None or not any(map(str.isdigit, text)):
        return text
    if language.decimal_comma:
        text = _PIECE.sub(lambda match: _converted(match, language), text)
    for pattern, new in _rules(language):
        text = pattern.sub(new, text)
    for pattern, power in _scales(language):
        text = pattern.sub(lambda match, power=power: _scaled(match[1], power), text)  # type: ignore[misc]  # bound
    return _joint(language).sub(" and ", text)


def _converted(match: re.Match[str], language: Language) -> str:
    if match["number"] is None:
        inner = match["formula"] or match["inline"]
        return match[0].replace(",", ".") if _COMMA_ALONE.fullmatch(inner) else match[0]
    number = match["number"]
    if _ENGLISH_GROUPS.fullmatch(number):
        return number
    if _GROUPED.fullmatch(number) and number.lstrip("+-")[:2] != "0.":
        return re.sub(r"[.\s\u00a0\u202f]", "", number).replace(",", ".")
    whole, comma, part = number.partition(",")
    if not comma or not part.isdigit() or not whole.lstrip("+-").isdigit():
        return number
    grouped = len(part) == 3 and len(whole.lstrip("+-")) <= 3 and whole.lstrip("+-")[0] != "0"
    if grouped and (part[-1] == "0" or language.code == "es"):
        return whole + UNCLEAR + part
    return f"{whole}.{part}"


@lru_cache(maxsize=64)
def _rules(language: Language) -> tuple[tuple[re.Pattern[str], str], ...]:
    number = r"(\d{1,40}(?:\.\d{1,40})?)"
    return (
        (
            re.compile(
                rf"(?:{language.percent_before})\s?{number}(?![\d.,]*\d)\s?%?", re.IGNORECASE
            ),
            r"\1%",
        ),
        (re.compile(rf"{number}\s?(?:{language.percent})", re.IGNORECASE), r"\1%"),
        # the denominator comes first
        (re.compile(r"(?<![\d.])(\d{1,40})\s?(?:分之|分の|분의)\s?(\d{1,40})(?![\d.])"), r"\2/\1"),
    )


@lru_cache(maxsize=64)
def _scales(language: Language) -> tuple[tuple[re.Pattern[str], int], ...]:
    # words are separate except in scripts without spaces, where no second number may follow
    end = (
        r"(?!\s?\d|[万亿億萬千百兆만억천백조])"
        if language.code in ("zh", "ja", "ko", "th")
        else r"(?!\w)"
    )
    return tuple(
        (
            re.compile(
                rf"(?<![\d.,])(\d{{1,15}}(?:,\d{{3}})*(?:\.\d{{1,15}})?)\s?(?:{words}){end}",
                re.IGNORECASE,
            ),
            power,
        )
        for words, power in language.scales.items()
    )


@lru_cache(maxsize=64)
def _joint(language: Language) -> re.Pattern[str]:
    space = r"\s+" if language.is_spaced and language.code != "ko" else r"\s*"
    joints = rf"{space}(?:{language.joints}){space}"
    return re.compile(rf"(?<=[\d%}})$]){joints}(?=[-+\d$\\(])", re.IGNORECASE)


def _scaled(number: str, power: int) -> str:
    return format((Decimal(number.replace(",", "")) * 10**power).normalize(), "f")
