"""Recipes: well-known sets of problems, each with its source, columns, domain and prompt.

`problems = "gsm8k"` is short for these keys; a key that the plan sets itself wins. The one rule: a
recipe is data. Sources, columns and numbers were looked up where docs/problems.md says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_BOXED = "{prompt}\n\nReason step by step, and put the final answer within \\boxed{}."
_LETTER = (
    "{prompt}\n\nReason step by step, and end with one line: Answer: X, where X is the letter of "
    "the right choice."
)
_FUNCTION = (
    "Complete this Python function. Reply with the whole function, its imports included, in one "
    "fenced code block.\n\n```python\n{prompt}\n```"
)
_R1_1_5B = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
_R1_7B = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
_QWEN_7B = "Qwen/Qwen2.5-7B-Instruct"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What `problems = NAME` stands for; `published` maps models to their published numbers."""

    source: str
    columns: Mapping[str, Any]
    domain: str
    template: str
    verifiers: tuple[str, ...] = ()
    selector: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)


RECIPES: Mapping[str, Recipe] = {
    "gsm8k": Recipe(
        "hf://openai/gsm8k?name=main&split=test",
        {"prompt": "question", "answer": "answer"},
        "number",
        _BOXED,
        published={_QWEN_7B: "91.6%"},
    ),
    "math500": Recipe(
        "hf://HuggingFaceH4/MATH-500?split=test",
        {"id": "unique_id", "prompt": "problem", "answer": "answer", "omit": ["solution"]},
        "math",
        _BOXED,
        published={_R1_1_5B: "83.9% pass@1", _R1_7B: "92.8% pass@1"},
    ),
    "aime24": Recipe(
        "hf://HuggingFaceH4/aime_2024?split=train",
        {"id": "aime24-{id}", "prompt": "problem", "answer": "answer", "omit": ["solution"]},
        "number",
        _BOXED,
        published={
            _R1_1_5B: "28.9% pass@1, 52.7% majority of 64",
            _R1_7B: "55.5% pass@1, 83.3% majority of 64",
        },
    ),
    "aime25": Recipe(
        "hf://opencompass/AIME2025?split=test",
        {"prompt": "question", "answer": "answer"},
        "number",
        _BOXED,
    ),
    "gpqa-diamond": Recipe(
        "hf://Idavidrein/gpqa?name=gpqa_diamond&split=train",
        {
            "id": "Record ID",
            "prompt": "Question",
            "answer": "Correct Answer",
            "wrong": ["Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"],
        },
        "choice",
        _LETTER,
        published={_R1_1_5B: "33.8% pass@1", _R1_7B: "49.1% pass@1"},
    ),
    "humaneval": Recipe(
        "hf://openai/openai_humaneval?split=test",
        {
            "id": "task_id",
            "prompt": "prompt",
            "tests": "{test}\ncheck({entry_point})",
            "omit": ["canonical_solution"],
        },
        "code",
        _FUNCTION,
        verifiers=("code-tests",),
        selector={"name": "best", "by": "verdict:code-tests"},
        published={_QWEN_7B: "84.8% pass@1"},
    ),
}
