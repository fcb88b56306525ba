"""What each domain reads in a reply.

One line per rule of `orchestrator.kit.answers.find` and of the domain itself.
"""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.protocols import Domain
from verifiers.answers.choice import Choice
from verifiers.answers.json_value import JsonValue
from verifiers.answers.math import Math
from verifiers.answers.number import Number
from verifiers.answers.text import Text

DOMAINS: list[Domain] = [Math(), Number(), Choice(), Text(), JsonValue()]

NUMERIC: list[tuple[str, str | None]] = [
    # the latest statement counts
    ("answer is 5. But wait, actually the answer is 7", "7"),
    (r"\boxed{5}. But wait, actually the answer is 7", "7"),
    (r"The answer is 7, so \boxed{5}", "5"),
    (r"\boxed{3}, no: \boxed{4}", "4"),
    # boxes
    (r"The answer is \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\fbox{5}", "5"),
    (r"\\boxed{5}", "5"),
    (r"\boxed{}", None),
    (r"so 12. \boxed{5", None),
    (r"\boxed{3} then \boxed{5", "3"),
    # denials
    ("The answer is not 5", None),
    ("The answer isn't 5.", None),
    (r"it is not \boxed{5}", None),
    ("The answer is 5, the answer is not 6", "5"),
    ("The answer is 5. No, the answer is not 5.", None),
    # words whose rest could change the value
    ("answer is between 5 and 6", None),
    ("the answer is 5 minutes and 30 seconds", None),
    ("the answer is 5 times 6", None),
    ("The answer is 1 in 6", None),
    ("The answer is 42 (since 6*7=42)", "42"),
    ("The answer is 18 dollars per day.", "18"),
    ("The answer is therefore 12 apples.", "12"),
    # forms of words
    ("The final answer is -5", "-5"),
    ("**Answer:** 5", "5"),
    ("**Answer**: 5", "5"),
    ("The answer is **5**.", "5"),
    ("The answer is: $5$.", "5"),
    ("The answer to 2+2 is 4.", "4"),
    ("The answer would be 3/4", "3/4"),
    ("the answer is 3.14.", "3.14"),
    ("answer: 5!", "5"),
    ("The answer is $70,000.", "$70,000"),
    (r"The answer is \$18.00", r"\$18.00"),
    (r"the answer is 50\%.", r"50\%"),
    ("the answer is 50 percent.", "50 percent"),
    ("The answer is 2 million.", "2 million"),
    ("The answer is correct.", None),
    ("Final Answer: The final answer is $5$. I hope it is correct.", "5"),
    ("Answer: 5\n\nExplanation: because 2+3=5", "5"),
    # several lines
    ("The answer is\n\n5", "5"),
    ("### Final Answer\n\n42", "42"),
    ("Final Answer:\n\n$$ 42 $$", "42"),
    ("Final Answer:\n\\[\n42\n\\]", "42"),
    ("Answer:\n1. First, add\n2. Then", None),
    # GSM8K
    ("#### 42", "42"),
    ("so\n#### 1,000", "1,000"),
    ("#### Step 1: do\nno", None),
    # reasoning
    ("<think>the answer is 5</think>The answer is 6", "6"),
    ("the answer is 5</think>The answer is 6", "6"),
    (r"<think>\boxed{5}", None),
    ("<think>It is 5", None),
    (r"<think>\boxed{5}</think>", None),
    ("<think>\\boxed{5}</think>\nI am done", None),
    # the last line of a finished reply
    ("So the total is 18.", "18"),
    ("3 + 4 = 7 apples", "7"),
    ("Therefore,\n\\[\n x = 42\n\\]", "42"),
    ("Therefore John is **205 miles** from home after those 4 hours.", "205"),
    ("Answer: Let us first add.\nSo the total is 18.", "18"),
    ("She has 3 apples and 4 pears.", None),
    ("Is it 5?", None),
    ("", None),
]


@pytest.mark.parametrize("domain", [Math(), Number()], ids=["math", "number"])
@pytest.mark.parametrize(("reply", "answer"), NUMERIC)
def test_numbers_are_read_where_they_are_stated(
    domain: Domain, reply: str, answer: str | None
) -> None:
    assert domain.extract(reply, True) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"\boxed{5} or \boxed{6}", "5, 6"),
        (r"\boxed{\boxed{5}}", "5"),
        ("The answer is 5 or 6", "5 or 6"),
        ("The answer is $5$ and $6$.", "5, 6"),
        ("The answer is x = 5", "x = 5"),
        ("the answer is 2x + 3.", "2x + 3"),
        ("The answer is (3, pi/2)", "(3, pi/2)"),
        ("The answer is [0, 1).", "[0, 1)"),
        ("The answer is 2*sqrt(3).", "2*sqrt(3)"),
        ("The answer is $x$", "x"),
        ("The answer is Evelyn.", "Evelyn"),
        ("the answer is a number", None),
        ("The answer is clear", None),
        (r"the coordinates of $(0, 3)$ are $(3, \frac{\pi}{2})$.", r"(3, \frac{\pi}{2})"),
        (r"the distance between the points is \(3\sqrt{13}\).", r"3\sqrt{13}"),
    ],
)
def test_math_reads_expressions(reply: str, answer: str | None) -> None:
    assert Math().extract(reply, True) == answer


@pytest.mark.parametrize(
    "reply", [r"\boxed{5} or \boxed{6}", "The answer is 5 or 6", r"\boxed{2x}", "answer: (1, 2)"]
)
def test_number_abstains_from_lists_and_expressions(reply: str) -> None:
    assert Number().extract(reply, True) is None


CHOICES: list[tuple[str, str | None]] = [
    ("The answer is B.", "B"),
    ("The answer is (B) Paris", "B"),
    ("The best answer is B: Paris", "B"),
    ("The answer is B, Paris.", "B"),
    ("The answer is A, because B is wrong", "A"),
    ("Answer: $B$", "B"),
    ("**Answer: (C)**", "C"),
    ("The correct option is C", "C"),
    ("the answer is option D.", "D"),
    ("the answer is\n(B)", "B"),
    ("the answer is a", "A"),
    ("answer is A. But wait, the answer is C.", "C"),
    (r"\boxed{B}", "B"),
    (r"\boxed{\text{B}}", "B"),
    (r"\boxed{\textbf{(B)}\ 15}", "B"),
    (r"\boxed{(b)}", "B"),
    ("#### B", "B"),
    # the last line
    ("B", "B"),
    ("**(B)**", "B"),
    ("B) Paris", "B"),
    ("I think it is (C).", "C"),
    ("So we go with option B since A is bad.", "B"),
    # not a letter, or not one
    ("A man went home", None),
    ("The answer is A man went", None),
    ("the answer is a good one", None),
    ("The answer is I think B", None),
    ("The answer is Ben", None),
    ("The answer is K", None),
    ("The answer is A or B", None),
    ("Answer: A, B", None),
    ("The answer is both A and B", None),
    ("The answer is not B", None),
    ("The answer is neither A nor B", None),
    ("I think (A) or (B).", None),
    ("I chose it", None),
    (r"\boxed{Paris}", None),
    (r"\boxed{A man}", None),
    (r"\boxed{A, B}", None),
    (r"\boxed{A} or \boxed{B}", None),
]


@pytest.mark.parametrize(("reply", "letter"), CHOICES)
def test_choice_reads_a_letter_only_where_it_can_be_nothing_else(
    reply: str, letter: str | None
) -> None:
    assert Choice().extract(reply, True) == letter


def test_choice_knows_only_its_letters() -> None:
    assert Choice("AB").extract("The answer is C.", True) is None
    with pytest.raises(ValueError, match="different letters"):
        Choice("AA")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is Paris. It is the capital.", "Paris"),
        ("Answer: Mr. Smith", "Mr. Smith"),
        ('The answer is "Paris".', "Paris"),
        (r"\boxed{Paris}. The answer is clear", "Paris"),
        (r"\boxed{\text{New York}}", "New York"),
        ("#### Paris", "Paris"),
        ("Paris", "Paris"),
        ("**Paris**", "Paris"),
        ("Well.\nIt is Paris", None),
        ("#### Step 1\nthen", None),
        ("The answer is not Paris", None),
        (r"\boxed{}", None),
        ("", None),
    ],
)
def test_text_reads_words(reply: str, answer: str | None) -> None:
    assert Text().extract(reply, True) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ("answer: [1]\n```json\n[2]\n```", "[2]"),
        ('The answer is {"a":\n 1}.', '{"a":\n 1}'),
        (r"\boxed{[1,2]}", "[1,2]"),
        ('Here: {"a": [1,2]} ok.', '{"a": [1,2]}'),
        ('{"a":1} then {"b":"}"}', '{"b":"}"}'),
        ("5", "5"),
        ('{"a":1', None),
        ("[see 5] x", None),
        ('{"a":1,"a":2}', None),
        ('{"a":1,"a":1.0}', '{"a":1,"a":1.0}'),
        ("NaN", None),
    ],
)
def test_json_reads_a_value(reply: str, answer: str | None) -> None:
    assert JsonValue().extract(reply, True) == answer


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize(
    "reply", ["So the total is 18.", "I think it is (C).", "Paris", 'Here: {"a": [1,2]} ok.', "B"]
)
def test_an_unfinished_reply_that_states_nothing_abstains(domain: Domain, reply: str) -> None:
    """A fall-back on a truncated trace would vote with an intermediate result."""
    assert domain.extract(reply, False) is None


@pytest.mark.parametrize("reply", ["The answer is 18", r"\boxed{18}, and", "#### 18"])
def test_an_unfinished_reply_that_states_an_answer_gives_it(reply: str) -> None:
    assert Math().extract(reply, False) == Number().extract(reply, False) == "18"


LONG = [
    "answer is ",
    "answer to ",
    "the answer is not 5 ",
    "answer is:\n\n\n",
    "final answer\n",
    r"\boxed{",
    r"\boxed{5} or ",
    "{",
    "[",
    "[{]",
    '{"a":',
    '{"a":1,"a":2}',
    "\\",
    r"\text{",
    "```\n",
    "####  ",
    "<think>",
    "</think>",
    "$",
    r"\(",
    "**",
    "**1 ",
    "is ",
    "a ",
    "A ",
    "答案",
    "Antwort ",
    "<answer>5</answer>",
    '"answer": "a" ',
    r"\boxed{5}\quad ",
    "5 kg of ",
    "x < ",
    "1.234,5 ",
    "1,",
    "9",
    "=",
    " ",
]


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("piece", LONG)
def test_reading_takes_linear_time(domain: Domain, piece: str) -> None:
    """It runs in the caller's process: quadratic time on 200,000 characters (4e10 steps) would stop
    a whole job.

    The unit is a linear pass over a text of that length, measured before and after, so that a busy
    machine slows both. The worst of these takes 40 units; a quadratic one took a thousand.
    """
    text = piece * (200_000 // len(piece))
    before = linear_pass_seconds(text)
    started = time.process_time()
    answer = domain.extract(text, True)
    domain.canonical(text)
    domain.canonical(answer or text[:1990])
    seconds = time.process_time() - started
    assert seconds < 200 * max(before, linear_pass_seconds(text))


def linear_pass_seconds(text: str) -> float:
    """Return the processor time of a pattern that looks at each character of a text once."""
    started = time.process_time()
    re.findall(r"(?s).", text)
    return time.process_time() - started


@settings(deadline=None)  # other processes share the machine
@given(
    st.text(
        alphabet=st.sampled_from(r"$\{}[]()*#.,:=/%-+^_ 0159aAbBx") | st.characters(), max_size=80
    ),
    st.booleans(),
)
def test_extraction_never_raises_and_its_answers_have_a_canonical_form(
    text: str, finished: bool
) -> None:
    for domain in DOMAINS:
        for prefix in ("", "the answer is ", r"\boxed{", "#### ", "Answer: **"):
            answer = domain.extract(prefix + text + ("}" if prefix.endswith("{") else ""), finished)
            if answer is not None:
                assert answer
                assert domain.canonical(answer)
