r"""The mathematical expression that prose states: `5 apples, because 2 + 3 = 5` states `5`.

    leading_expression("5 apples, because 2 + 3 = 5")   # "5"

The one rule: when the following words could change the value ("5 times the price", "between 5 and
6", "5 hours and 30 minutes"), nothing is read. The input is a sentence or a line of bounded length.
Not covered: the value of the expression (`kit.answers.numbers`, `verifiers`).
"""

from __future__ import annotations

import re

from orchestrator.kit.answers.find import MAX_ANSWER_CHARS, first_sentence

_TOKEN = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|\\.|\d+(?:[.,]\d+)*|\.\d+|[^\W\d_]+|\s+|.")
_MATH_WORD = re.compile(
    r"pi|sqrt|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|det|gcd|lcm|max|min|mod|infinity|alpha|beta|gamma|theta"
    r"|percent|and|or|million|billion|trillion|thousand|hundred",
    re.IGNORECASE,
)
_SIGNS = frozenset("+-−–*/^=()[]{}<>|!%°√π∞≤≥≠±×÷·∪∩_.,:'$€£¥&²³½¼¾⅓⅔⁄")
_CHANGES = re.compile(
    r"(?:times|plus|minus|of|more|less|fewer|greater|to|through|out|over|divided|multiplied|squared|cubed|point|dozen"
    r"|short|and|or|factorial|choose|percentage|higher|lower|larger|smaller|in (?=\d))\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[,;:(—.]|\b(?:because|since|as|which|so|when|where|for|if|after|by|in|at|from|on|with|that|than)\b"
)
_NEXT_FORMULA = re.compile(r"\s{0,3}(?:,\s{0,3}(?:and|or)?|and|or)\s{0,3}(?=\$|\\\()")
_PERCENT = re.compile(r"\s?(?:\\?%|percent\b)", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.,^{}\\/])[-−]?(?:\\?[$€£¥]\s?)?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?(?:/\d{1,40})?"
    r"(?:\s?\\?%|\s?percent\b)?(?![\w/^])(?!\.\d)"
)
_PLAIN_NUMBER = re.compile(r"(-?\d{1,18}(?:\.\d{1,18})?)[.!]?")
_BOLD = re.compile(r"\*\*([^*\n]{0,200}[^*\n:])\*\*(?!:)")
_IS = re.compile(r"\b(?:is|are|equals)\s")
_HAS_VALUE = re.compile(r"\d|\\(?:pi|infty|sqrt|emptyset|varnothing)|[π∞√]|\bpi\b")
_PAIRS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def leading_expression(words: str) -> str | None:
    """Return the expression, or list of expressions, at the start of a phrase.

    None if the rest of the sentence could change it.
    """
    words = words.strip().lstrip("*_: ").strip()
    # the common case; the code below gives the same result in five times the time
    if plain := _PLAIN_NUMBER.fullmatch(words):
        return plain[1]
    formulas, rest = _formulas(words)
    if formulas:
        return ", ".join(formulas) if _unchanged(rest) else None
    sentence = first_sentence(words)
    end = _math_length(sentence)
    expression = _trimmed(sentence[:end])
    rest = sentence[sentence.find(expression) + len(expression) :]
    if not expression or not _balanced(expression) or len(expression) > MAX_ANSWER_CHARS:
        return None
    if not _HAS_VALUE.search(expression) and (rest.strip(" *_") or not _is_symbolic(expression)):
        return None
    return expression if _unchanged(rest) else None


def closing_values(line: str) -> list[str]:
    """Return the values that a closing line states; [] for a question.

    More than one means that the line is ambiguous. The values are the first of these that exists:
    the text in bold; the text after the last "is", "are" or "equals"; the formulas; the text after
    the last `=`; the numbers.
    """
    line = line.strip()
    if len(line) > MAX_ANSWER_CHARS or line.endswith(("?", ":")):
        return []
    bold = [
        value
        for match in _BOLD.finditer(line)
        if _HAS_VALUE.search(match[1]) and (value := leading_expression(match[1]))
    ]
    if bold:
        return bold
    last = [match.end() for match in _IS.finditer(line)][-1:]
    if last and (value := leading_expression(line[last[0] :])) and _HAS_VALUE.search(value):
        return [value]
    values = [formula.rpartition("=")[2].strip() for formula in _all_formulas(line)]
    if values:
        return [formula for formula in values if _HAS_VALUE.search(formula)]
    if "=" in line:
        value = leading_expression(line.rpartition("=")[2])
        return [value] if value else []
    return [match[0] for match in _NUMBER.finditer(line)]


def _formulas(words: str) -> tuple[list[str], str]:
    contents: list[str] = []
    rest = words
    while (formula := _formula(rest)) and len(contents) < 16:
        content, rest = formula
        if percent := _PERCENT.match(rest):
            content, rest = content + "%", rest[percent.end() :]
        contents.append(content)
        following = _NEXT_FORMULA.match(rest)
        if not following:
            break
        rest = rest[following.end() :]
    return contents, rest


def _formula(text: str) -> tuple[str, str] | None:
    """Return the content of the formula at the start of a text, and the text after it.

    `$18 and $20` are two prices, not a formula.
    """
    for left, right in _PAIRS:
        if not text.startswith(left):
            continue
        end = text.find(right, len(left))
        while end > 0 and text[end - 1] == "\\" and left == "$":
            end = text.find(right, end + 1)
        content = text[len(left) : end] if end > 0 else ""
        price = (
            left == "$"
            and content[:1].isdigit()
            and (content[-1:].isspace() or text[end + 1 : end + 2].isdigit())
        )
        return (
            (content.strip(), text[end + len(right) :]) if content.strip() and not price else None
        )
    return None


def _all_formulas(line: str) -> list[str]:
    contents: list[str] = []
    at = 0
    while (opened := re.compile(r"\$\$?|\\[(\[]").search(line, at)) and len(contents) < 16:
        formula = _formula(line[opened.start() :])
        at = len(line) - len(formula[1]) if formula else opened.end()
        contents += [formula[0]] if formula else []
    return contents


def _math_length(sentence: str) -> int:
    end = 0
    for match in _TOKEN.finditer(sentence):
        token = match[0]
        if token[0].isalpha() and not _is_math_word(token, sentence, match.start(), match.end()):
            break
        if not (
            token[0].isalnum()
            or token[0].isspace()
            or token[0] == "\\"
            or token[0] == "."
            or token in _SIGNS
        ):
            break
        end = match.end()
    return end


def _is_math_word(word: str, sentence: str, start: int, end: int) -> bool:
    if _MATH_WORD.fullmatch(word):
        return True
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
            r"(?:^|\s)(?:and|or)$", "", expression.strip().rstrip("([{,;:=+-*/^<>|&_.'!").strip()
        )
    return expression


def _unchanged(rest: str) -> bool:
    rest = rest.strip(" *_'")
    clause = _CLAUSE.split(rest, maxsplit=1)[0]
    return not _CHANGES.match(rest) and not re.search(r"\d", clause)


def _is_symbolic(expression: str) -> bool:
    return len(expression) == 1 or not re.search(r"[A-Za-z]{3}", expression.replace("\\", ""))


def _balanced(expression: str) -> bool:
    return sum(expression.count(c) for c in "([{") == sum(expression.count(c) for c in ")]}")
