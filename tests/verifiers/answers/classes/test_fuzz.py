"""No answer crashes a domain, costs more than its own limit, or makes two exact numbers one.

The answers are soup from a seeded generator: LaTeX of all kinds glued together, deep nesting,
towers of exponents and factorials, unbalanced braces, very long digits, control characters, bidi
marks, lone surrogates, and exact numbers with known values among them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import aclosing
from fractions import Fraction

import pytest

from orchestrator.core.protocols import Domain
from orchestrator.core.values import PluginSpec
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.workers.pool import plugin_reference
from verifiers.answers.choice import Choice
from verifiers.answers.code import Code
from verifiers.answers.json_value import JsonValue
from verifiers.answers.math import Math
from verifiers.answers.number import Number
from verifiers.answers.text import Text

pytestmark = pytest.mark.slow

DOMAINS: list[Domain] = [Math(), Number(), Choice(), Text(), JsonValue(), Code()]
_COMMANDS = (
    r"\frac", r"\dfrac", r"\sqrt", r"\sqrt[3]", r"\text", r"\mathrm", r"\boxed", r"\left(",
    r"\right)", r"\left[", r"\right]", r"\left.", r"\right|", r"\begin{pmatrix}",
    r"\end{pmatrix}", r"\begin{cases}", r"\end{cases}", r"\begin{array}{cc}", r"\end{array}",
    r"\cdot", r"\times", r"\div", r"\pm", r"\mp", r"\cup", r"\cap", r"\setminus", r"\in",
    r"\infty", r"\pi", r"\theta", r"\alpha", r"\sin", r"\cos", r"\tan", r"\ln", r"\log",
    r"\log_2", r"\exp", r"\sum_{k=1}^{n}", r"\prod", r"\int", r"\lim_{x\to0}", r"\binom",
    r"\lfloor", r"\rfloor", r"\lvert", r"\rvert", r"\langle", r"\rangle", r"\le", r"\ge", r"\ne",
    r"\lt", r"\approx", r"\equiv", r"\pmod{7}", r"\circ", r"^\circ", r"\%", r"\$", r"\,", r"\;",
    r"\!", r"\quad", r"\{", r"\}", r"\\", r"\emptyset", r"\mathbb{R}", r"\mid", r"\to",
    r"\implies", r"\overline", r"\overline{9}", r"\bar", r"\color{red}", r"\text{and}",
    r"\text{or}", r"\text{cm}", r"\displaystyle", r"\operatorname", r"\phantom", r"\tag{1}",
    r"{n\choose k}",
)  # fmt: skip
_PIECES = (
    *_COMMANDS,
    *"0123456789xyznabkeiNCPRfE+-*/^_=<>(){}[],.;:|!'&%$#@~`\"?\\",
    *(
        "12",
        "0.5",
        "1/2",
        ".",
        "3,400",
        "10",
        "100",
        "999999",
        "x=",
        "f(x)",
        "y^2",
        "e^",
        "i",
        "!!",
    ),
    *("sqrt", "sin", "and", "or", "to", "percent", "yes", "no", "mod", "exp(", "log", "inf", "nan"),
    *("π", "√", "½", "²", "−", "×", "∞", "≤", "∪", "٣", "５", "①", "。", "，", "é", "🙂", "x̄"),
    *("\x00", "\x07", "\x1b[31m", "\x7f", "\t", "\r\n", "\u2028", "\xa0", "\u200b", "\ufeff"),
    *("\u202e", "\u2066", "\u200f", "\ud800", "\udfff", "\udc80"),
    *("$", "$$", r"\(", r"\)", r"\[", r"\]", "**", "```", "<think>", "</think>", "####"),
)
_NESTED = (
    ("(", ")"), ("{", "}"), ("[", "]"), (r"\{", r"\}"), (r"\frac{", "}{2}"), (r"\sqrt{", "}"),
    ("2^{", "}"), ("-", ""), (r"\left(", r"\right)"), ("f(", ")"), ("|", "|"), (r"\text{", "}"),
    ("x^{", "}"), ("1+(", ")"), (r"\boxed{", "}"), (r"\sin(", ")"), (r"\binom{", "}{2}"), ("", "!"),
    (r"\begin{pmatrix}", r"\end{pmatrix}"), ("(1,", ")"), ("x_{", "}"), (r"\overline{", "}"),
)  # fmt: skip
_MONSTERS = (
    "2^{10^{10}}", "10^{10^{10^{10}}}", "9^9^9^9", "9^{9^{9^{9}}}", "(10^{10})!", "((((9!)!)!)!)",
    "99999999999!", "1000000!!", r"\frac{1}{(10^9)!}", r"\binom{10^{9}}{5\cdot10^8}",
    "1e999999999", "1e999999", "(1+10^{-9})^{10^{9}}", r"\sum_{k=1}^{10^{12}} \frac1k",
    r"\prod_{k=1}^{10^9} k", "0^0", "0^{-1}", r"\int_0^1 x^{x^{x}} dx", r"\gcd(10^{10^7},3)",
    "2^{-10^{10}}", r"\sqrt[10^{10}]{2}", "i^{i^{i^i}}", "(x+1)^{100000}", "(x+y+z)^{999}",
    "x^{10^{10}}-1=0", r"\tan\frac{\pi}{2}", r"\log 0", r"\log_1 2",
    r"\frac{1}{\sin^2x+\cos^2x-1}", r"\pm\pm\pm\pm\pm\pm\pm\pm\pm\pm\pm\pm 1", "1" * 1999,
    "0." + "3" * 1990, "10^{-99999999999}", "x<" * 300 + "1", "1," * 900 + "1", r"\{1,2," * 200,
    "e^{e^{e^{e^{79}}}}", r"\lfloor e^{e^{e^{79}}} \rfloor", r"\cos(10^{100})",
    r"\sin(2^{10^{6}})", "1_{2}_{3}", "12_{1}",
)  # fmt: skip


def exact(chance: random.Random) -> tuple[str, Fraction]:
    """Return a number in one of its spellings, from a range where neighbours are frequent."""
    n, d = chance.randint(-40, 40), chance.randint(1, 12)
    base, power = chance.choice((2, 3, 10)), chance.randint(95, 100)
    big = 10 ** chance.choice((18, 40)) + chance.randint(-3, 3)
    return chance.choice(
        (
            (rf"\frac{{{n}}}{{{d}}}", Fraction(n, d)),
            (f"{n}/{d}", Fraction(n, d)),
            (f"{n}.{d:02}", Fraction(n) + (Fraction(d, 100) if n > 0 else -Fraction(d, 100)))
            if n
            else (f"0.{d:02}", Fraction(d, 100)),
            (rf"{n}\%", Fraction(n, 100)),
            (f"{base}^{{-{power}}}", Fraction(1, base**power)),
            (f"{base}^{{{power}}}+{d}", Fraction(base**power + d)),
            (rf"\frac{{1}}{{{base}^{{{power}}}}}", Fraction(1, base**power)),
            (str(big), Fraction(big)),
            (rf"\frac{{{big}}}{{{big + d}}}", Fraction(big, big + d)),
            (f"0.{'3' * power}", Fraction(int("3" * power), 10**power)),
            (rf"{n}\cdot 10^{{{d}}}", Fraction(n * 10**d)),
            (rf"1-10^{{-{power}}}", 1 - Fraction(1, 10**power)),
            (rf"\frac{{{d + 20}!}}{{{d + 18}!}}", Fraction((d + 20) * (d + 19))),
        )
    )


def _nested(chance: random.Random) -> str:
    depth, pairs = chance.choice((3, 8, 20, 60, 190)), chance.sample(_NESTED, chance.randint(1, 3))
    chosen = [chance.choice(pairs) for _ in range(depth)]
    closing = [right for _, right in reversed(chosen)]
    if chance.random() < 0.2:  # some are not closed
        closing = closing[chance.randrange(len(closing)) :]
    return "".join(left for left, _ in chosen) + chance.choice("1x2") + "".join(closing)


def _soup(chance: random.Random) -> str:
    return "".join(chance.choices(_PIECES, k=chance.choice((1, 2, 3, 5, 8, 13, 21, 60))))


def _damaged(chance: random.Random) -> str:
    """Return a sensible answer with some characters deleted, doubled or exchanged."""
    text = list(
        chance.choice((exact(chance)[0], *_MONSTERS, r"\{x\mid x\ge\frac{1}{2}\}", "x^2+y^2=25"))
    )
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(text))
        text[place] = chance.choice(("", text[place] * 2, chance.choice(_PIECES)))
    return "".join(text)


def corpus(n: int, seed: int) -> list[tuple[str, Fraction | None]]:
    """Return answers, those that are exact numbers with their values."""
    chance = random.Random(seed)
    makers: Sequence[Callable[[random.Random], str]] = (_soup, _soup, _nested, _damaged)
    answers: list[tuple[str, Fraction | None]] = [(text, None) for text in _MONSTERS]
    while len(answers) < n:
        answers += [exact(chance), *[(make(chance), None) for make in makers]]
    return answers[:n]


async def check_corpus(n: int, seed: int, limit_seconds: float) -> list[tuple[str, str]]:
    """Resolve every answer as a job does; return those that reached a limit, with the limit.

    Fails where resolving raises an error or two exact numbers have one key.
    """
    math, domain = Math(), plugin_reference("domains", PluginSpec("math"))
    numbers: defaultdict[str, set[Fraction]] = defaultdict(set)
    raised, limited = [], []
    workers = AnswerWorkers(n_workers=1, limit_seconds=limit_seconds, memory_bytes=1 << 30)
    async with aclosing(workers):
        for text, value in corpus(n, seed):
            canonical = math.canonical(text)
            key: str | None = canonical
            if not canonical.startswith("="):
                resolution = await workers.resolve(domain, canonical)
                key = resolution.key
                if key is None:
                    failures = raised if resolution.note.startswith("raised") else limited
                    failures.append((text[:200], resolution.note))
            if value is not None:
                assert key is not None, text
                numbers[key].add(value)
    assert raised == []
    assert {key: values for key, values in numbers.items() if len(values) > 1} == {}
    return limited


async def test_a_sample_of_soup_is_resolved() -> None:
    await check_corpus(150, seed=1, limit_seconds=2.0)


@pytest.mark.timeout(1800)
async def test_twenty_thousand_answers_are_resolved() -> None:
    """A corpus too large for every run; few answers cost their limit, which adds up in a job."""
    limited = await check_corpus(20_000, seed=2, limit_seconds=1.0)
    assert len(limited) <= 200, limited


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_soup_is_read_or_not_but_raises_nothing(domain: Domain) -> None:
    """Reading runs in the process of the job: an exception there would end the job.

    A normal form is its own normal form: the worker that completes it gets nothing else.
    """
    for text, _ in corpus(250, seed=3):
        for reply in (text, f"\\boxed{{{text}}}", f"The answer is {text}.", f"So {text}"):
            for finished in (True, False):
                answer = domain.extract(reply, finished)
                assert answer is None or domain.canonical(answer), reply
        form = domain.canonical(text)
        assert domain.canonical(form) == form, text
