"""Answers that are one letter of a multiple-choice question.

The one rule: a letter counts only if it is unambiguous: "A man went home" does not choose A. The
text of an option is never matched against the question; only letters are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.kit.answers.find import find_answer, last_line, sentences
from orchestrator.kit.answers.languages import LANGUAGES, Language
from orchestrator.kit.answers.statements.statement import Mark, Statement

_NOUNS = ("answer", "option", "choice")
_DECORATION = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathbb|boxed|fbox|framebox|left|right|rm|bf)\b\s?"
    r"|\\(?:q?quad\b|[,;:! (\[)\]])|[$*_`\"“”‘{}「」『』【】]|['’](?!\w)|(?<!\w)['’]"
)
_TWICE = re.compile(r"\[\[\s?([A-Za-z])\s?\]\]")  # as judges of pairs write it
_LABEL = re.compile(r"^(?:the )?(?:correct )?(?:option|choice|answer|letter)\s{1,3}", re.IGNORECASE)
_OPTION_LINE = re.compile(r"^[\W_]{0,6}[A-Za-z][.):][ \t]", re.MULTILINE)
_BECAUSE = r"because|since|as|for|due|which|with|so|given|based|is\b|and not\b|\("
# before a letter that ends a sentence
_CHOOSING = (
    r"(?:it['’]?s|it is|it was|(?:must|has to|have to|should|can only) be"
    r"|(?:it|answer) (?:would|will) be|answer is|go with|going with|went with|choose|chose|choosing"
    r"|pick|picked|pick is|select|selected|conclude|(?:I['’]?d|would) say|(?:makes|make|making) it"
    r"|(?:leaves|leaving|leave)(?: us)?(?: only| with)?)"
    r"(?: (?:that|is|it['’]?s|definitely|probably|clearly|simply|answer|option|choice|letter)){0,3}"
)
_CORRECT = (
    r"(?:it is\b|(?:fits|matches|works|satisfies|holds)\b"
    r"|(?:is|are|must be|has to be|seems|looks|would be|should be)"
    r" (?:definitely |clearly |probably |indeed )?(?:the |my |our )?"
    r"(?:only |final |best |correct )?(?:correct|right|best|answer|choice|true one)\b)"
)
# a sentence that names a letter to reject it
_REJECTED = re.compile(
    r"\b(?:rul(?:e|es|ed|ing) out|eliminat\w{1,4}|exclud\w{1,4}|discard\w{0,3}|reject\w{0,3}"
    r"|mistake|wrong|incorrect|not|cannot|neither)\b|n['’]t\b",
    re.IGNORECASE,
)
# "(A) is wrong" is a sentence about A
_ABOUT = re.compile(
    r"\s(?:is|are|was|were|can|cannot|can['’]t|could|does|do|has|have|would|will|and|or|but|seems)\b"
)
_SO = r"(?:so|thus|hence|therefore|then)[,:]?"
# "correct" in other languages that write Latin letters
_CORRECT_ELSEWHERE = (
    r"(?:richtig|korrekt|correct|corret|corrett|exact|juist|prawidłow|benar|đúng|sahihi)\w{0,3}"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One letter of a multiple-choice question."""

    letters: Annotated[
        str, Meta(min_length=1, description="The letters of the choices, such as 'ABCD'.")
    ] = "ABCDEFGHIJ"

    in_process: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.letters.isalpha() or len(set(self.letters.upper())) != len(self.letters):
            raise ValueError(
                f"letters must be different letters such as 'ABCD', not {self.letters!r}"
            )

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the letter stated last.

        If a finished reply states none, return that of its last line (`B`, `B) Paris`, "so (B)"),
        or that which is its first line.
        """
        return find_answer(text, finished, self._read, _NOUNS, (_last_line, _first_line))

    def canonical(self, answer: str) -> str:
        """Return `=` and the capital letter.

        Any other text equals only itself, ignoring case and spacing.
        """
        text = " ".join(answer.replace("=", " ").split())
        return f"={self._letter(text) or text.casefold()}"

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether the letters are the same. Fast."""
        return self.canonical(a) == self.canonical(b)

    @property
    def expects(self) -> str:
        """What a reference must be."""
        return f"one letter of {self.letters.upper()}, not an index"

    def read_reference(self, text: str) -> str | None:
        """Return the letter of a bare choice ("B", "(B)", "B. Paris"), else an explicit one.

        An index such as 2 is not a letter: files count from 0 or from 1.
        """
        return self._letter(text) or self.extract(text, finished=False)

    def _read(self, statement: Statement) -> str | None:
        if statement.mark is Mark.LAST_LINE:
            return self._from_last_line(statement.texts[0], statement.language)
        if statement.mark in (Mark.WORDS, Mark.LABEL):
            return self._from_words(statement.texts[0], statement.language)
        if statement.mark is Mark.FIRST_LINE:
            return self._letter(statement.texts[0])
        letters = {self._letter(text, of_box=True) for text in statement.texts}
        return letters.pop() if len(letters) == 1 else None

    def _letter(self, text: str, *, of_box: bool = False) -> str | None:
        """Return the letter of a text that consists only of a choice.

        Examples are `B`, `(b)`, `B.`, `(B) 15`, `B: Paris`, `B - Paris` and `option B`; in a box,
        `B, Paris` too.
        """
        text = _LABEL.sub("", _bare(text))
        named = r"\s[-–—]+\s"
        if of_box:
            named += rf"|,(?!\s?\(?[{self._both}]\b)|(?<![AI])\s+(?=[A-Z0-9])"
        match = re.match(
            rf"\(?([{self._both}])(?:\)|[.:](?=\s|[^\x00-\x7f]|$)|$"
            rf"|(?<=[{self.letters.upper()}])(?:{named}))|\[([{self._both}])\]",
            text,
        )
        rest = text[match.end() :] if match else ""
        is_all = not self._more(rest, None) and not _ABOUT.match(rest)
        return self._upper(match) if match and is_all else None

    def _from_words(self, text: str, language: Language | None) -> str | None:
        """Return the letter that begins a phrase.

        None when more letters follow ("A or B"), or when it begins a word or a sentence.
        """
        text = _LABEL.sub("", self._latin(_bare(text), language))
        if language:
            # "la opción C", "la C"
            article = r"^(?:[^\W\d_A-Z]{1,4}[\s'’])?"
            option = rf"(?:(?i:{language.options})\s{{0,3}}|(?=\(?[A-Z]\b))"
            text = re.sub(article + option, "", text)
        decorated = rf"\(([{self._both}])\)|\[([{self._both}])\]|([{self._both}])\)"
        # elsewhere than in English, a capital letter is never a word
        follows = r"|[^\x00-\x7f]|[\s,;('’]" if language else ""
        upper = (
            rf"([{self.letters.upper()}])(?=[.:,;!]?\s*$|[.:](?=\s|[A-Z]|[^\x00-\x7f])|[,;]\s|\s[-–—]+\s"
            rf"|\s+(?i:{_BECAUSE}){follows})"
        )
        alone = rf"([{self._both}])(?=[.!]?$)"
        match = re.match(rf"(?:{decorated}|{upper}|{alone})", text)
        return (
            self._upper(match) if match and not self._more(text[match.end() :], language) else None
        )

    def _more(self, rest: str, language: Language | None) -> bool:
        """Tell whether another letter follows: "A or B", "A, B"."""
        joints = f"|{language.joints}" if language else ""
        letter = rf"\(?[{self.letters.upper()}](?!['’]?[A-Za-z])"
        joined = rf"\s*(?:,|/|&|\band\b|\bor\b{joints})+\s*(?:and |or )?{letter}"
        return re.match(joined, rest) is not None

    def _from_last_line(self, line: str, language: Language | None) -> str | None:
        bare = self._latin(_bare(line), language)
        if letter := self._letter(bare):
            return letter
        last = sentences(bare)[-1:] or [bare]
        for is_mention, pattern in enumerate(_named(self.letters.upper(), language)):
            letters: set[str] = set()
            for text in (bare, *last):
                matches = list(pattern.finditer(text))
                if is_mention and _REJECTED.search(text):
                    continue
                if any(self._more(text[match.end() :], language) for match in matches):
                    return None
                if len(letters := {self._upper(match) for match in matches}) == 1:
                    return letters.pop()
            if letters:
                return None
        return None

    def _latin(self, text: str, language: Language | None) -> str:
        """Return a text with the letters of choices in other scripts as the Latin ones."""
        if language is None or not language.letters:
            return text
        table = dict(zip(language.letters[::2], language.letters[1::2], strict=True))
        alone = rf"(?<!\w)(?:{'|'.join(table)})(?!\w)"
        return re.sub(alone, lambda match: table[match[0]], text)

    @property
    def _both(self) -> str:
        return self.letters.upper() + self.letters.lower()

    @staticmethod
    def _upper(match: re.Match[str]) -> str:
        return next(group for group in match.groups() if group).upper()


@lru_cache(maxsize=64)
def _named(upper: str, language: Language | None) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a letter that a sentence chooses, and of one that it names."""
    latin = [one for one in LANGUAGES if one.script == ""]
    nouns = "|".join(f"{one.options}|{one.nouns}" for one in latin)
    letter = rf"\(?([{upper}])(?!['’]?\w)"
    end = r"(?=\)?(?:[.!,;]|\s[-–—]\s|\s(?:because|since|as)\b|$))"
    # another letter may follow
    joined = end.removesuffix("|$))") + r"|\s(?:and|or|und|oder|et|ou|y|o|e|и|или)\b|$))"
    alone = rf"(?<!\w)(?<![{upper}] and )(?<![{upper}] or )(?<!nor )"
    chosen = [
        rf"(?<!to )(?<!not )(?<!n['’]t )\b(?i:{_CHOOSING})\s{{1,3}}{letter}{end}",
        rf"^(?i:{_SO})\s{letter}(?=\)?[.!]?$)",
        rf"{alone}{letter}\)?\s(?i:{_CORRECT})",
    ]
    named = [
        rf"(?<!\w)(?<!not )\(([{upper}])\){joined}",
        rf"(?<!not )\b(?i:option|choice|answer|{nouns})\s{{1,3}}{letter}{joined}",
    ]
    if language is not None:
        option = rf"(?<![不别非勿])(?:{language.options})\s{{0,3}}[:：]?\s{{0,3}}"
        named.append(rf"{option}\(?([{upper}])(?![A-Za-z])")
    if language is not None and language.script == "":
        verb = rf"(?:{language.verbs})\s"
        correct = rf"{verb}(?:\w{{1,8}}\s){{0,2}}(?i:{_CORRECT_ELSEWHERE})"
        chosen += [rf"\b{verb}{{1,3}}{letter}(?=\)?[.!]?$)", rf"{alone}{letter}\)?\s{correct}"]
    elif language is not None:
        right = "が正解|が正し|이 정답|가 정답|选?项?是?正确|选?项?是?对的|選?項?是?正確"
        chosen.append(rf"(?<![A-Za-z])([{upper}])\)?\s?(?:{right})")
    return re.compile("|".join(chosen)), re.compile("|".join(named))


def _last_line(text: str) -> Statement:
    """Return the last line; an empty one if it is the last of a list of options."""
    before, _, line = text.rstrip().rpartition("\n")
    previous = before.rstrip().rpartition("\n")[2]
    if _OPTION_LINE.match(line) and _OPTION_LINE.match(previous):
        return Statement(Mark.LAST_LINE, ("",), len(text), len(text))
    return last_line(text)


def _first_line(text: str) -> Statement:
    """Return the first line; an empty one if the reply lists the options."""
    line, _, rest = text.strip().partition("\n")
    line = "" if _OPTION_LINE.search(rest) else line
    return Statement(Mark.FIRST_LINE, (line,), 0, len(line))


def _bare(text: str) -> str:
    return _TWICE.sub(r"[\1]", _DECORATION.sub("", text[:2000])).strip()
