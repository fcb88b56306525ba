r"""The mathematical expression that prose gives: `5 apples, because 2 + 3 = 5` gives `5`.

    leading_expression("5 apples, because 2 + 3 = 5")   # "5"

The one rule: when the following words could change the value ("5 times the price", "between 5 and
6", "5 hours and 30 minutes"), nothing is read. The input is a sentence or a line of bounded length.
Not covered: the value of the expression (`kit.answers.numbers`, `verifiers`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from orchestrator.kit.answers.find import (
    SEVERAL_EQUATIONS,
    first_formula,
    first_sentence,
    formulas_in,
    leading_formulas,
    right_side,
    sentences,
    unstyled,
    without_steps,
)
from orchestrator.kit.answers.languages import (
    Language,
    change_of,
    negation_of,
    verb_of,
    words_of,
)
from orchestrator.kit.answers.numbers import measurement
from orchestrator.kit.answers.numerals import UNCLEAR, plain
from orchestrator.kit.answers.statements.statement import MAX_ANSWER_CHARS, Mark, Statement
from orchestrator.kit.answers.units import is_unit

_TOKEN = re.compile(
    r"\\(?:text|mathrm|begin|end)\{[^{}]*\}|\\[A-Za-z]+|\\.|\d+(?:[.,]\d+)*|\.\d+|[^\W\d_]+|\s+|."
)
_MATH_WORD = re.compile(
    r"pi|sqrt|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|det|gcd|lcm|max|min|mod|infinity|alpha|beta|gamma|theta"
    r"|(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt)[xyznu]|percent|percentage|pct|and|or|million|billion|trillion|thousand|hundred",
    re.IGNORECASE,
)
_SIGNS = frozenset("≈+-−–*/^=()[]{}<>|!%°√π∞≤≥≠±×÷·∪∩_.,:'$€£¥&²³½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⁄")
_CHANGES = re.compile(
    r"(?:times|plus|minus|of|more|less|fewer|greater|to|through|out|over|divided|multiplied|squared|cubed|point|dozens?"
    r"|short|and|or|factorial|choose|higher|lower|larger|smaller|base|modulo|quarters?|score|fold|tens|ones"
    r"|hundreds|thousands|millions|(?:in|by) (?=\d))\b",
    re.IGNORECASE,
)
# "at least 5", "more than 5": the number is a bound
_HALF_DAY = re.compile(
    r"(?<=\d )[ap]\.?m\b\.?|(?<=\d)[ap]\.?m\b\.?|(?<=\d [ap]\.)m\b", re.IGNORECASE
)
_BOUND = re.compile(
    r"(?:\bat (?:most|least)|\b(?:more|fewer|less|greater|larger|smaller|other) than|\bup to"
    r"|\b(?:between|mindestens|höchstens|mehr als|weniger als|au moins|au plus|plus de|moins de"
    r"|al menos|más de|menos de|pelo menos|mais de|almeno|più di|meno di|не менее|не более|больше"
    r"|меньше)"
    r"|至少|至多|最多|超过|不到|少なくとも|최소|최대)$",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"(?<=[\d%})])\s\((?=[-+]?[\d.,/]{1,20}\s?\\?%?\))"
    r"|\s\((?=or\b|i\.e\.|that is\b|about\b|approx|≈|\\approx|=)"
)
_CONTRAST = re.compile(r",?\s{0,3}(?:(?:and|but) not|not|rather than|instead of)\b", re.IGNORECASE)
_PART = re.compile(
    r"(?:hal(?:f|ves)|(?:thir|four|fif|six|seven|eigh|nin|ten|twelf|hundred|thousand)(?:d|th)s?)\b"
    r"(?! of\b)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[,;:(—.，。；：、（،]|\b(?:because|since|as|which|so|when|where|for|if|after|by|in|at|from|on|with|that|than"
    r"|porque|parce que|weil|denn|perché|poiché|pois|так как|потому что|поскольку)\b"
    r"|因为|因為|なぜなら|왜냐하면"
)
_NEGATIVE = re.compile(r"(?:negative|minus)\s+(?=[\d$\\])", re.IGNORECASE)
# a letter of a script that writes its words without spaces may stand next to a number
_ADJACENT = "\u0600-\u06ff\u0900-\u0dff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
_NUMBER = re.compile(
    rf"(?<![^\W{_ADJACENT}])(?<![.,^{{}}\\/第])[-−]?(?:\\?[$€£¥₹]\s?)?"
    r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?(?:/\d{1,40})?[½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]?|[½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])"
    r"(?:\s?\\?%|\s?(?:percent(?:age)?|per cent|pct)\b)?"
    rf"(?P<unit>[A-Za-zµ°][A-Za-z]{{0,9}}(?:[²³]|/[a-z]{{1,3}})?)?(?![^\W{_ADJACENT}])(?![/^])(?!\.\d)"
)
_CURRENCY = re.compile(r"(?:USD|EUR|GBP|JPY|CNY|RMB|INR|CAD|AUD|CHF|Rs\.?|US|HK)\s?(?=[$\d])")
_PERCENT_WORD = re.compile(r"\s?(?:percentage|per cent|pct)$", re.IGNORECASE)
_MAX_UNIT_WORDS = 5
_MAX_VALUES = 16  # of one line
_MAX_UNIT_CHARS = 40
_OPERATOR_BEFORE = re.compile(r"[A-Za-z\d)]\s?(?:[-+*/^]|\*\*)\s?$")
_PLAIN_NUMBER = re.compile(r"(-?\d{1,18}(?:\.\d{1,18})?)[.!]?")
_IS = re.compile(r"\b(?:is|are|was|were|equals)\s")
# a sentence that begins so leads to an answer and does not give it
_PREAMBLE = re.compile(
    r"(?:First|Firstly|Let['’]?s|Let us|(?:Next, )?[Ww]e (?:need|want) to|We start)\b"
    # "Step 5: done."
    r"|[*#_ ]{0,6}(?:Step|Case|Part|Problem|Question|Example|Section|Chapter) \d{1,3}[*_:.)]{0,4}"
    r"[^\d$\\]*$"
)
_BLANK = re.compile(r"(?:\\q?quad(?![A-Za-z])|\\text\s*\{\s*\}|\\[,;:! ]|[\s{}$,.;:~*_])*")
# "of" behind these leaves them alone: 3/4 of the pie
_PROPORTION = re.compile(r"\d\s?/\s?\d|[½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]|%|percent|pct|per cent", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![\w*)])\*([^*\s][^*\n]{0,100})\*(?![\w*(])")
_FACTORIAL = re.compile(r"\d{1,4}!")  # not the end of a sentence
_VARIABLES = re.compile(r"\s(?![a-z]*[aeiou])[a-z]{2,3}\b")  # 12 xyz
_OPEN_END = re.compile(
    r"(?:[?:][*_]{0,3}|[-+/=^({\\]|(?<!\*)\*)$"
)  # a question, or the rest is missing
_LETTERS = re.compile(r"[A-Za-z]+")
_BRACKETED = re.compile(r"^([*_ ]{0,3})<([-+\w.,/]{1,40})>")  # <7>
_PARTS = re.compile(r"[*_ ]{0,3}\(?(?:a|i|1)\)[^\n]{1,200}?(?<!\w)\(?(?:b|ii|2)\)")  # (a) 5; (b) 6
_REASON = re.compile(r"(?<=\S),?\s(?:because|since)\s")
_NOT = re.compile(r"(?:not|never|neither|nor)\b", re.IGNORECASE)
_CALLED_WRONG = re.compile(
    r"\b(?:is|are|was|were) (?:(?!not )\w{1,12} )?(?:wrong|incorrect|mistaken)\b"
    r"|(?:n['’]t|\bnot) (?:right|correct)\b",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r",\s(?:who|which|whose)\s[^,.;$\\]{1,80}(?=,)")  # Tom, who is 12, has
_HAS_VALUE = re.compile(
    r"\binfinity\b|\d|\\(?:pi|infty|sqrt|emptyset|varnothing)|[π∞√½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]|\bpi\b"
)
_RELATION = re.compile(r"<=|>=|≤|≥|≠|!=|(?<![-=<])<(?![-<])|(?<![-=>])>(?!>)")
Reader = Callable[[str, "Language | None"], "str | None"]


def leading_expression(words: str, language: Language | None = None) -> str | None:
    """Return the expression, or list of expressions, at the start of a phrase.

    None if the rest of the sentence could change it.
    """
    # the common case; the code below gives the same result in five times the time
    number = _PLAIN_NUMBER.fullmatch(words.strip())
    if number and not (language and language.decimal_comma and number[1][-4:-3] == "."):
        return number[1]
    found = _leading(words, language)
    return None if found is None or _BLANK.fullmatch(found[0]) else found[0]


def leading_measurement(words: str, language: Language | None = None) -> str | None:
    """Return the same with the unit behind it: `12 miles per hour`."""
    found = _leading(words, language)
    if found is None or _BLANK.fullmatch(found[0]):
        return None
    return " ".join([found[0], *_unit_words(found[1])])


def statement_values(statement: Statement, read: Reader = leading_expression) -> list[str]:
    """Return the texts of a statement that may be its value; for a list of boxes, its elements.

    [] where its words give none; more than one from a last line means that the line is ambiguous.
    """
    language = statement.language
    if statement.mark is Mark.LAST_LINE:
        return closing_values(statement.texts[0], language, read)
    if statement.mark in (Mark.BOX, Mark.HASHES):
        return [plain(unstyled(text), language) for text in statement.texts]
    words = statement.texts[0]
    if statement.mark in (Mark.TAG, Mark.FIELD) and _FACTORIAL.fullmatch(words):
        return [words]
    if value := read(words, language):
        return [value]
    # "答案是每人分得37颗": the verb of the sentence follows
    is_sentence = language is not None and statement.mark is Mark.WORDS and words
    return closing_values(first_sentence(words), language, read) if is_sentence else []


def closing_values(
    line: str, language: Language | None = None, read: Reader = leading_expression
) -> list[str]:
    """Return the values that a closing line gives; [] for a question.

    More than one means that the line is ambiguous. If the last sentence has a value, it alone
    counts. The values are the first of these that exists: the text in bold; the text after the last
    "is", "are" or "equals"; the formulas; an inequality; the text after the last `=`; the numbers.
    """
    line = _EMPHASIS.sub(r"\1", plain(line.strip(), language))
    if len(line) > MAX_ANSWER_CHARS or _OPEN_END.search(line) or UNCLEAR in line:
        return []
    last = sentences(line)[-1:]
    sentence = last[0] if last and _HAS_VALUE.search(last[0]) else line
    sentence = _REASON.split(sentence, maxsplit=1)[0]
    sentence = _RELATIVE.sub("", sentence)
    is_value = _HAS_VALUE.search(sentence) and not _CALLED_WRONG.search(sentence)
    if _PREAMBLE.match(sentence) or not is_value:
        return []
    for text in (sentence, line):
        if bold := _bold_values(text, language, read):
            return bold
    verb = verb_of(language) if language else _IS
    verbs = [match.end() for match in verb.finditer(sentence)][-1:]
    negation = negation_of(language) if language else _NOT
    if verbs and negation.match(sentence, verbs[0]):
        return []
    if verbs and (value := read(sentence[verbs[0] :], language)) and _HAS_VALUE.search(value):
        return [value]
    if formulas_in(sentence):
        return _formula_values(sentence)
    if relation := _RELATION.search(sentence):
        return _whole_formula(sentence, relation.start(), language)
    if several := SEVERAL_EQUATIONS.search(sentence):
        return _whole_formula(sentence, several.start(), language)
    if "=" in sentence:
        value = read(sentence.rpartition("=")[2].removeprefix(">"), language)
        return [value] if value else []
    return _numbers(sentence, language, read)


def _unit_words(rest: str) -> list[str]:
    """Return the words of the unit at the start of a text."""
    words = first_sentence(rest).replace("*", "").split()[:_MAX_UNIT_WORDS]
    for end in range(len(words), 0, -1):
        # not the inch of "5 km in total"
        if (words[end - 1] != "in" or end == len(words)) and is_unit(" ".join(words[:end])):
            return words[:end]
    return []


def _leading(words: str, language: Language | None) -> tuple[str, str] | None:
    """Return the expression at the start of a phrase, and the words after it."""
    if _PARTS.match(words):
        return None
    words = _BRACKETED.sub(r"\1\2", words, count=1)
    words = plain(words, language).strip().lstrip("*_: ").strip().lstrip("\"'“`")
    words = _NEGATIVE.sub("-", words, count=1) if _NEGATIVE.match(words) else words
    formulas, rest = leading_formulas(words)
    if formulas:
        return (
            (", ".join(without_steps(formula) for formula in formulas), rest)
            if _unchanged(rest, language)
            else None
        )
    sentence = _ASIDE.split(first_sentence(words), maxsplit=1)[0]
    money = _CURRENCY.match(sentence)
    start = money.end() if money else 0
    end = start + _math_length(sentence[start:], language)
    expression = _trimmed(sentence[:end])
    rest = sentence[sentence.find(expression) + len(expression) :]
    if not expression or not _balanced(expression) or len(expression) > MAX_ANSWER_CHARS:
        return None
    if (part := _PART.match(rest.strip())) and _PLAIN_NUMBER.fullmatch(expression):
        expression, rest = f"{expression} {part[0]}", rest.strip()[part.end() :]
    if not _HAS_VALUE.search(expression) and (rest.strip(" *_") or not _is_symbolic(expression)):
        return None
    attached = _LETTERS.match(rest)
    if attached and expression[-1].isdigit() and not is_unit(attached[0]):
        return None
    if _VARIABLES.match(rest) and not _unit_words(rest):
        return None
    measured = measurement(expression)
    is_part = bool(_PROPORTION.search(expression) or (measured and measured[1]))
    if not _unchanged(rest, language, is_part=is_part):
        return None
    return _PERCENT_WORD.sub("%", without_steps(expression)), rest


def _bold_values(text: str, language: Language | None, read: Reader) -> list[str]:
    pieces = text.split("**")
    return [
        value
        for bold, following in zip(pieces[1::2], pieces[2::2], strict=False)
        if not bold.endswith(":") and not following.startswith(":") and _HAS_VALUE.search(bold)
        if (value := read(bold, language))
    ]


def _formula_values(sentence: str) -> list[str]:
    """Return the values of the formulas of a sentence; equations at its end may be one list."""
    formulas = formulas_in(sentence)
    listed, rest = leading_formulas(sentence[first_formula(sentence) :])
    is_list = len(listed) == len(formulas) > 1 and not rest.strip(" .*")
    if is_list and all("=" in formula for formula in listed):
        return [", ".join(listed)]  # "$x = 2$ or $x = 3$"
    return [value for value in map(right_side, formulas) if _HAS_VALUE.search(value)]


def _whole_formula(sentence: str, at: int, language: Language | None) -> list[str]:
    """Return the formula in prose around a place, if the sentence has no number outside of it."""
    start = at
    for token in reversed(list(_TOKEN.finditer(sentence[:at]))):
        is_math = _is_math(token[0], sentence, token.start(), token.end(), language)
        if token[0] in ",;:" or not is_math:
            break
        start = token.start()
    formula = _trimmed(sentence[start : at + 1 + _math_length(sentence[at + 1 :], language)])
    rest = sentence[:start] + sentence[start:].strip()[len(formula) :]
    complete = not re.search(r"\d", rest) and _balanced(formula) and not _BLANK.fullmatch(formula)
    return [formula] if complete and not _RELATION.match(formula) else []


def _numbers(sentence: str, language: Language | None, read: Reader) -> list[str]:
    """Return the numbers of a sentence; [] if a word after one of them changes it."""
    values = []
    negation = negation_of(language) if language else _NOT
    for match in _NUMBER.finditer(sentence):
        attached = match["unit"]
        if attached and (len(attached) == 1 or not is_unit(attached)):
            continue
        if _OPERATOR_BEFORE.search(sentence, max(0, match.start() - 8), match.start()):
            return _whole_formula(sentence, match.start(), language)
        before = sentence[max(0, match.start() - _MAX_UNIT_CHARS) : match.start()].rstrip()
        value = read(sentence[match.start() :], language)
        is_changed = negation.fullmatch(before.rpartition(" ")[2]) or _BOUND.search(before)
        if value is None or is_changed:
            return []
        values.append(value)
        if len(values) == _MAX_VALUES:
            break  # the line is ambiguous
    return values


def _math_length(sentence: str, language: Language | None) -> int:
    end = 0
    for match in _TOKEN.finditer(sentence):
        if not _is_math(match[0], sentence, match.start(), match.end(), language):
            break
        end = match.end()
    return end


def _is_math(token: str, sentence: str, start: int, end: int, language: Language | None) -> bool:
    if token[0].isalpha():
        return _is_math_word(token, sentence, start, end, language)
    return token[0].isalnum() or token[0].isspace() or token[0] in "\\." or token in _SIGNS


def _is_math_word(
    word: str, sentence: str, start: int, end: int, language: Language | None
) -> bool:
    if _MATH_WORD.fullmatch(word) or _HALF_DAY.match(sentence, start):
        return True
    if language is not None and (not word.isascii() or word.casefold() in words_of(language)):
        return False
    is_article = word in ("a", "A", "I") and re.match(r"\s+[a-z]", sentence[end:]) is not None
    return not is_article and (
        len(word) == 1
        or (word in ("xy", "xyz", "ab", "abc") and sentence[start - 1 : start] != " ")
    )


def _trimmed(expression: str) -> str:
    before = None
    while expression != before:
        before = expression
        expression = re.sub(
            r"(?:^|\s)(?:and|or)$", "", expression.strip().rstrip("([{,;:=+-*/^<>|&_.'!\\").strip()
        )
    return expression


def _unchanged(
    rest: str, language: Language | None, *, check_rest: bool = True, is_part: bool = False
) -> bool:
    """Tell whether the words after an expression leave its value alone.

    `check_rest`: they contain no other number either. `is_part`: the expression may be one of
    something, as a percentage or a measurement.
    """
    rest = rest.strip(" *_'")
    if any(map(str.isdigit, rest[:_MAX_UNIT_CHARS])):  # the power of a unit: 12 ft/s^2
        rest = rest.removeprefix(" ".join(_unit_words(rest))).strip()
    if is_part:
        rest = re.sub(r"^of\b", "", rest)
    if _CONTRAST.match(rest):
        return True
    if rest.startswith("+"):
        return False
    if _CHANGES.match(rest) or _PART.match(rest) or (language and change_of(language).match(rest)):
        return False
    return not check_rest or not re.search(r"\d", _CLAUSE.split(rest, maxsplit=1)[0])


def _is_symbolic(expression: str) -> bool:
    return len(expression) == 1 or not re.search(r"[A-Za-z]{3}", expression.replace("\\", ""))


def _balanced(expression: str) -> bool:
    return sum(expression.count(c) for c in "([{") == sum(expression.count(c) for c in ")]}")
