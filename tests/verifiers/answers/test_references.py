"""References are read by their domain: a bare answer, or a text that gives one explicitly."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.values import PluginSpec
from orchestrator.plan import registry
from verifiers.answers.prose import is_prose

GSM8K = "Ann has 6*3=<<6*3=18>>18 pens.\n#### 18"
SOLUTION = "We get $2x = 1$.\nThus $x = \\frac12$, so the answer is \\boxed{\\frac{1}{2}}."
UNFINISHED = "First, 6 boxes hold 3 pens each.\nThat makes 6 * 3 = 18"
FENCED = "Here it is:\n```python\nprint(18)\n```\n"


def domain(name: str, **options: Any) -> Any:
    return registry.load("domains", PluginSpec(name, options))


READ = [
    *(("number", text, "18") for text in (GSM8K, "18", " 18\n", "#### 18", "The answer is 18.")),
    ("number", "Answer: 1,000", "1000"),
    ("number", "\\boxed{18}", "18"),
    ("number", "$18 per hour", "18"),
    ("number", SOLUTION, "0.5"),
    *(("math", text, "18") for text in (GSM8K, "18", "#### 18", "The answer is 18.", "18 pens")),
    ("math", SOLUTION, "1/2"),
    ("math", "\\boxed{x > 3}", "x > 3"),
    ("math", "(3, \\infty)", "(3, \\infty)"),
    ("math", "x = 3 \\text{ or } x = 4", "x = 3 \\text{ or } x = 4"),
    ("math", "no real solutions", "no real solutions"),
    ("math", "\\text{all real numbers except } 3", "\\text{all real numbers except } 3"),
    (
        "math",
        "\\begin{pmatrix}\n1 \\\\ 2\n\\end{pmatrix}",
        "\\begin{pmatrix}1 \\\\ 2\\end{pmatrix}",
    ),
    *(("choice", text, "B") for text in ("B", "b", "(B)", "B.", "B. Paris", "B) Paris", "[B]")),
    *(("choice", text, "B") for text in ("The answer is (B).", "\\boxed{B}", "Answer: B")),
    ("choice", "Paris is older, hence B is wrong.\nThe answer is C", "C"),
    ("text", "Paris", "paris"),
    ("text", "The answer is Paris.", "Paris"),
    ("text", "a text of\nseveral lines", "a text of several lines"),
    *(("json", text, '{"a": 1}') for text in ('{"a":1.0}', '```json\n{"a": 1}\n```')),
    ("json", "The answer is [1, 2].", "[1,2]"),
    ("json", '"Paris"', '"Paris"'),
    ("code", "print(18)", "print(18)"),
    ("code", FENCED, "print(18)"),
]


@pytest.mark.parametrize(("name", "text", "answer"), READ)
def test_the_answer_of_a_reference_is_read(name: str, text: str, answer: str) -> None:
    """As the public data sets write references: bare, marked, or at the end of a solution."""
    value = domain(name).read_reference(text)
    assert value is not None
    assert domain(name).equivalent(value, answer)


UNREADABLE = [
    *(("number", text) for text in ("", " ", "about a dozen", "B", "32, 349", "[1, 2]")),
    *(("number", text) for text in (UNFINISHED, "The answer is about a dozen.", "18 or 19")),
    *(("math", text) for text in ("", "\n", UNFINISHED, "Ann has 18 pens", "...")),
    *(("math", text) for text in ("The answer is about a dozen.", "Ann sells all the eggs today")),
    *(("choice", text) for text in ("", "2", "0", "Paris", "K", "A man went home", "A, C")),
    *(("choice", text) for text in ("(B) and (C)", "A or B", "option 2", GSM8K)),
    *(("text", text) for text in ("", "  ", "\n")),
    *(("json", text) for text in ("", "Paris", "{'a': 1}", '{"a": 1', "NaN")),
    *(("code", text) for text in ("", "\n", "```rust\nfn main() {}\n```")),
]


@pytest.mark.parametrize(("name", "text"), UNREADABLE)
def test_a_reference_without_an_answer_of_the_domain_is_not_read(name: str, text: str) -> None:
    """It would never equal an answer, and every attempt at its problem would count as wrong."""
    assert domain(name).read_reference(text) is None


def test_the_letters_of_the_domain_decide_what_a_reference_is() -> None:
    assert domain("choice", letters="ABCD").read_reference("E") is None
    assert domain("choice", letters="ABCDE").read_reference("E") == "E"


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, text, _ in READ])
def test_a_reply_that_repeats_its_reference_is_right(name: str, text: str) -> None:
    """What is explicit in a reference is read as in a reply."""
    given = domain(name).extract(text, False)
    read = domain(name).read_reference(text)
    assert given is None or domain(name).canonical(given) == domain(name).canonical(read)


@pytest.mark.parametrize(
    "text",
    [
        "7 out of 10", "Day 5", "12 hours 30 minutes 15 seconds", "x = 3 and y = 4", "\\sin x",
        "18 \\text{ of all the pens that Ann has}", "Tuesday and Thursday", "no real solution",
        "5 apples and 3 oranges", "2\\frac{1}{2} feet", "x \\equiv 3 \\pmod{7}",
    ],
)  # fmt: skip
def test_an_answer_is_no_prose(text: str) -> None:
    assert not is_prose(text)


@pytest.mark.parametrize(
    "text",
    [
        "Ann has 18 pens", "all real numbers except 3", "It is at most 5 of them",
        "She does not have any pens left over", "Each of the 6 boxes holds 3",
    ],
)  # fmt: skip
def test_a_sentence_is_prose(text: str) -> None:
    assert is_prose(text)
