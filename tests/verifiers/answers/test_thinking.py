"""Every domain reads the reply and never the thinking, whatever the tags."""

from __future__ import annotations

import pytest

from orchestrator.core.protocols import Domain
from verifiers.answers.choice import Choice
from verifiers.answers.code import Code
from verifiers.answers.json_value import JsonValue
from verifiers.answers.math import Math
from verifiers.answers.number import Number
from verifiers.answers.text import Text

FINAL = "<|start|>assistant<|channel|>final<|message|>"
THOUGHT = "Maybe the answer is 41. Let me recheck."


@pytest.mark.parametrize("domain", [Math(), Number()], ids=["math", "number"])
@pytest.mark.parametrize(
    "text",
    [
        f"<thinking>{THOUGHT}</thinking>\nSo 40 + 2 = 42.",
        f"[THINK]{THOUGHT}[/THINK]\nSo 40 + 2 = 42.",
        f"<THINK>{THOUGHT}</THINK>\nSo 40 + 2 = 42.",
        f"◁think▷{THOUGHT}◁/think▷So 40 + 2 = 42.",
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|>{FINAL}So 40 + 2 = 42.",
        f"{THOUGHT}</think>\nSo 40 + 2 = 42.",
        "<think>6*7</think>The answer is 42.\n\n</think>\n\nDone.",
        "So 40 + 2 = 42.\n</think>",
        "<think>6*7</think>So 40 + 2 = 42.\n</think>",
    ],
)
def test_the_reply_is_read(domain: Domain, text: str) -> None:
    answer = domain.extract(text, True)
    assert answer is not None
    assert domain.equivalent(answer, "42")


DOMAINS: list[tuple[Domain, str]] = [
    (Math(), r"The answer is \boxed{41}."),
    (Number(), "#### 41"),
    (Choice(), "The answer is (B)."),
    (Text(), "The answer is Paris."),
    (JsonValue(), '```json\n{"a": 1}\n```'),
    (Code(), "```python\nprint(1)\n```"),
]


@pytest.mark.parametrize(("domain", "statement"), DOMAINS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("finished", [True, False])
def test_an_answer_that_was_only_thought_is_none(
    domain: Domain, statement: str, finished: bool
) -> None:
    """The model may still have rejected it: of the thinking that was cut nobody knows the end."""
    assert domain.extract(statement, finished) is not None
    assert domain.extract(f"<think>\n{statement}\nBut", finished) is None
    assert domain.extract(f"[THINK]{statement}[/THINK]", finished) is None
    assert domain.extract(f"<think>\n{statement}\n</think>\n", finished) is None


def test_a_program_about_tags_stays_whole() -> None:
    program = 'def reply(s):\n    return s.split("</think>")[-1]'
    text = f"<think>Split it.</think>\n```python\n{program}\n```"
    assert Code().extract(text, True) == program
    assert Code().extract(f"```python\n{program}\n```", True) == program
