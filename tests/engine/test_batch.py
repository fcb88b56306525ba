"""An OpenAI batch of sixty rows through a real vLLM: each row is honoured, or refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Capability, PluginSpec, Sampling
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.options import Vllm
from orchestrator.jobs.job import open_job
from orchestrator.jobs.openai_batch import write_batch_output
from orchestrator.jobs.problems import read_problems
from orchestrator.plan.check import row_requirement
from orchestrator.plan.execution import Execution
from orchestrator.runtime.api import run_job

pytest.importorskip("vllm")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(400),
]

COLOURS = ["red", "green", "blue"]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": COLOURS}, "is_dark": {"type": "boolean"}},
    "required": ["colour", "is_dark"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "colour", "schema": SCHEMA}}
IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


def is_colour(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"colour", "is_dark"} and value["colour"] in COLOURS


# What a row asks for, by how many rows, and what must hold of every text that it gets.
HONOURED: list[tuple[int, dict[str, Any], Any]] = [
    (4, {"structured_outputs": {"choice": COLOURS}}, lambda text: text in COLOURS),
    (4, {"guided_choice": COLOURS}, lambda text: text in COLOURS),
    (4, {"guided_regex": "[0-9]{3}-[a-c]{2}"}, re.compile("[0-9]{3}-[a-c]{2}").fullmatch),
    (4, {"extra_body": {"guided_regex": "(yes|no)!"}}, re.compile("(yes|no)!").fullmatch),
    (4, {"response_format": FORM}, is_colour),
    (4, {"guided_json": SCHEMA, "n": 2}, is_colour),
    (4, {"response_format": {"type": "json_object"}, "max_tokens": 60}, lambda t: t[:1] == "{"),
    (2, {"guided_grammar": 'root ::= "a" | "b"'}, lambda text: text in ("a", "b")),
    (6, {"n": 3}, bool),
    (4, {"temperature": 0, "seed": 7}, bool),
    (4, {"stop": [",", "e"]}, lambda text: not {",", "e"} & set(text)),
    (2, {"max_tokens": 1}, lambda text: len(text.split()) <= 1),
    (2, {"allowed_token_ids": [28], "max_tokens": 3}, lambda text: len(set(text)) == 1),
    (2, {"logit_bias": {"28": 100}, "max_tokens": 4}, lambda text: len(set(text)) == 1),
    (2, {"presence_penalty": 1.5, "frequency_penalty": 1.5, "min_tokens": 4}, bool),
    (2, {"bad_words": ["the"], "top_p": 0.5, "top_k": 20}, lambda t: " the " not in t),
]
REFUSED: dict[str, dict[str, Any]] = {
    "'tools'": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "'logprobs'": {"logprobs": True},
    "'stream'": {"stream": True},
    "presence_penalty must be in": {"presence_penalty": 9},
    "image_url": {"messages": [{"role": "user", "content": IMAGE}]},
    "must use one kind of structured outputs": {"structured_outputs": {"choise": COLOURS}},
}


def row(name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "user", "content": "Name a colour, and say why you like it."}
    body = {"model": "any", "max_tokens": 40, "messages": [message], **body}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


class Opened:
    """Yields the engine that the tests share."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def capabilities(self) -> frozenset[Capability]:
        return Vllm().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[VllmEngine]:
        yield self._engine


async def test_every_row_is_honoured_or_refused_by_name(
    vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    wanted = {f"{i}-{j}": (b, holds) for i, (n, b, holds) in enumerate(HONOURED) for j in range(n)}
    rows = [row(name, body) for name, (body, _) in wanted.items()]
    rows += [row(reason, body) for reason, body in REFUSED.items()]
    assert len(rows) == 60
    path = tmp_path / "batch.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": 1}),
        models={"main": Model("smollm2")},
        sampling=Sampling(temperature=1.0),
        domain="text",
    )
    execution = Execution(engine=PluginSpec("vllm"))
    require = row_requirement(plan, execution)
    file = read_problems(path, default_domain="text", require=require)
    assert {result.problem_id for result in file.invalid} == set(REFUSED)
    for result in file.invalid:
        assert result.problem_id in result.error
    with open_job(tmp_path / "job", plan, file.problems, file.invalid, file.order) as job:
        async for _ in run_job(job, plan, execution, factory=Opened(vllm_engine)):
            pass
        lines = write_batch_output(job, plan).read_text().splitlines()
    texts = {}
    for line in map(json.loads, lines):
        if line["response"] is not None:
            choices = line["response"]["body"]["choices"]
            texts[line["custom_id"]] = [choice["message"]["content"] for choice in choices]
    assert texts.keys() == wanted.keys()
    for name, (body, holds) in wanted.items():
        assert len(texts[name]) == body.get("n", 1), name
        assert all(map(holds, texts[name])), (body, texts[name])
    greedy = HONOURED.index(next(one for one in HONOURED if one[1].get("temperature") == 0))
    assert len({texts[f"{greedy}-{j}"][0] for j in range(4)}) == 1
