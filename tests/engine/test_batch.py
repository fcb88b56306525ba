"""An OpenAI batch of sixty rows through a real vLLM: each row is honoured, or refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import PluginSpec, Sampling
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.options import Vllm
from orchestrator.jobs.job import open_job
from orchestrator.jobs.openai_batch import pools_of_rows, write_batch_output
from orchestrator.jobs.problems import read_problems
from orchestrator.plan.check import row_requirement
from orchestrator.plan.execution import Execution
from orchestrator.runtime.api import run_job

pytest.importorskip("vllm")

from open_engine import OpenEngine  # of cases/
from tiny_vision import image, make
from tool_template import TOOL_TEMPLATE

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
COLOUR = {"type": "object", "properties": {"colour": {"enum": COLOURS}}, "required": ["colour"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": COLOUR, "strict": True}}
    for name in ("paint", "mix")
]
MIX = {"type": "function", "function": {"name": "mix"}}
CALLED = [
    {"role": "user", "content": "Paint it."},
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "paint", "arguments": '{"colour": "red"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "It is red now."},
]
IMAGE = [{"role": "user", "content": [image("red")]}]
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
HEARD = [{"role": "user", "content": [SOUND]}]


def seen(*colours: str) -> dict[str, Any]:
    """Return what a row has for the model that sees, which thinks first."""
    text = {"type": "text", "text": "Which colour?"}
    messages = [{"role": "user", "content": [*map(image, colours), text]}]
    extra = {"temperature": 0, "ignore_eos": True, "max_tokens": 12}
    return {"model": "eye", "messages": messages, "thinking_token_budget": 4, **extra}


def is_colour(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"colour", "is_dark"} and value["colour"] in COLOURS


def calls(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())
    ]


def paints_or_mixes(message: Mapping[str, Any]) -> bool:
    found = calls(message)
    return bool(found) and all(n in ("paint", "mix") and v["colour"] in COLOURS for n, v in found)


def mixes_once(message: Mapping[str, Any]) -> bool:
    return [name for name, _ in calls(message)] == ["mix"]


# What a row asks for, by how many rows, and what must hold of every text that it gets.
HONOURED: list[tuple[int, dict[str, Any], Any]] = [
    (2, {"structured_outputs": {"choice": COLOURS}}, lambda text: text in COLOURS),
    (2, {"guided_choice": COLOURS}, lambda text: text in COLOURS),
    (2, {"guided_regex": "[0-9]{3}-[a-c]{2}"}, re.compile("[0-9]{3}-[a-c]{2}").fullmatch),
    (2, {"extra_body": {"guided_regex": "(yes|no)!"}}, re.compile("(yes|no)!").fullmatch),
    (4, {"response_format": FORM, "max_tokens": 200}, is_colour),
    (2, {"guided_json": SCHEMA, "n": 2, "max_tokens": 200}, is_colour),
    (2, {"response_format": {"type": "json_object"}, "max_tokens": 60}, lambda t: t[:1] == "{"),
    (2, {"guided_grammar": 'root ::= "a" | "b"'}, lambda text: text in ("a", "b")),
    (2, {"n": 3}, bool),
    (2, {"logprobs": True, "top_logprobs": 3, "n": 2, "temperature": 0}, bool),
    (3, {"temperature": 0, "seed": 7}, bool),
    (2, {"stop": [",", "e"]}, lambda text: not {",", "e"} & set(text)),
    (2, {"max_tokens": 1}, lambda text: len(text.split()) <= 1),
    (1, {"allowed_token_ids": [28], "max_tokens": 3}, lambda text: len(set(text)) == 1),
    (1, {"logit_bias": {"28": 100}, "max_tokens": 4}, lambda text: len(set(text)) == 1),
    (2, {"presence_penalty": 1.5, "frequency_penalty": 1.5, "min_tokens": 4}, bool),
    (2, {"bad_words": ["the"], "top_p": 0.5, "top_k": 20}, lambda t: " the " not in t),
    (3, {"tools": TOOLS, "tool_choice": "required", "max_tokens": 200}, paints_or_mixes),
    (
        2,
        {"tools": TOOLS, "tool_choice": MIX, "parallel_tool_calls": False, "max_tokens": 200},
        mixes_once,
    ),
    (1, {"tools": TOOLS, "max_tokens": 20}, lambda m: m["content"] or m["tool_calls"]),
    (1, {"tools": TOOLS, "tool_choice": "none", "max_tokens": 9}, lambda m: not calls(m)),
    (1, {"tools": TOOLS, "messages": CALLED, "max_tokens": 9}, lambda m: m["role"] == "assistant"),
    (2, seen("red"), bool),
    (1, seen("blue"), bool),
    (1, seen("red", "blue"), bool),
    (2, seen("red") | {"guided_choice": COLOURS, "ignore_eos": False}, lambda t: t in COLOURS),
    (1, {"model": "eye", "thinking_token_budget": 7, "max_tokens": 20, "ignore_eos": True}, bool),
]
REFUSED: dict[str, dict[str, Any]] = {
    "'top_logprobs' without": {"top_logprobs": 2},
    "no tools": {"tool_choice": "required"},
    "'erase'": {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "erase"}}},
    "'stream'": {"stream": True},
    "presence_penalty must be in": {"presence_penalty": 9},
    "it takes text only": {"messages": IMAGE},
    "it takes image beside text": {"model": "eye", "messages": HEARD},
    "sampling.thinking_tokens": {"thinking_token_budget": 8},
    "'verbositi'": {"verbositi": "high"},
    "must use one kind of structured outputs": {"structured_outputs": {"choise": COLOURS}},
}


def row(name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "user", "content": "Name a colour, and say why you like it."}
    body = {"model": "any", "max_tokens": 40, "messages": [message], **body}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Return one for text and tools, and one that sees and thinks."""
    eye = make(tmp_path_factory.mktemp("eye"), thinks=True)
    return {
        "main": Model("smollm2", max_context_tokens=1024, chat_template=TOOL_TEMPLATE),
        "eye": Model(str(eye), max_context_tokens=512, reasoning_parser="mistral"),
    }


@pytest_asyncio.fixture(loop_scope="session")
async def batch_engine(shared_engine: Any, models: Mapping[str, Model]) -> VllmEngine:
    options = Vllm("float32", kv_cache_gib=0.5, max_num_seqs=64, threads=1)
    engine: VllmEngine = await shared_engine.get(options, models)
    return engine


async def test_every_row_is_honoured_or_refused_by_name(
    batch_engine: VllmEngine, models: Mapping[str, Model], tmp_path: Path
) -> None:
    def named(body: Mapping[str, Any]) -> list[str]:
        return [name for name, (one, _) in wanted.items() if one == body]

    wanted = {f"{i}-{j}": (b, holds) for i, (n, b, holds) in enumerate(HONOURED) for j in range(n)}
    rows = [row(name, body) for name, (body, _) in wanted.items()]
    rows += [row(reason, body) for reason, body in REFUSED.items()]
    assert len(rows) == 60
    path = tmp_path / "batch.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": 1}),
        models=models,
        sampling=Sampling(temperature=1.0),
        domain="text",
    )
    execution = Execution(engine=PluginSpec("vllm"))
    require, pools = row_requirement(plan, execution), pools_of_rows(models)
    file = read_problems(path, default_domain="text", require=require, pools=pools)
    assert {result.problem_id for result in file.invalid} == set(REFUSED)
    for result in file.invalid:
        assert result.problem_id in result.error
    with open_job(tmp_path / "job", plan, file.problems, file.invalid, file.order) as job:
        async for _ in run_job(job, plan, execution, factory=OpenEngine(batch_engine)):
            pass
        lines = write_batch_output(job, plan).read_text().splitlines()
    texts, scored, thoughts, n_thinking = {}, [], {}, {}
    for line in map(json.loads, lines):
        if line["response"] is not None:
            choices = line["response"]["body"]["choices"]
            messages = [choice["message"] for choice in choices]
            with_tools = "tools" in wanted[line["custom_id"]][0]
            texts[line["custom_id"]] = messages if with_tools else [m["content"] for m in messages]
            thoughts[line["custom_id"]] = str(messages[0])
            details = line["response"]["body"]["usage"]["completion_tokens_details"]
            n_thinking[line["custom_id"]] = details["reasoning_tokens"]
            reasons = [choice["finish_reason"] for choice in choices]
            if "length" not in reasons:
                assert ("tool_calls" in reasons) == any(map(calls, messages))
            scored += [choice for choice in choices if choice["logprobs"] is not None]
    assert texts.keys() == wanted.keys()
    for name, (body, holds) in wanted.items():
        assert len(texts[name]) == body.get("n", 1), name
        assert all(map(holds, texts[name])), (body, texts[name])
    assert len(scored) == 4
    for choice in scored:  # greedy: each token is the most likely one
        content = choice["logprobs"]["content"]
        written = b"".join(bytes(token["bytes"]) for token in content).decode()
        assert written.removesuffix("<|im_end|>").startswith(choice["message"]["content"])
        for token in content:
            likely = token["top_logprobs"]
            assert len(likely) == 3
            assert likely[0] == {k: token[k] for k in ("token", "bytes", "logprob")}
            assert 0 >= likely[0]["logprob"] >= likely[1]["logprob"] >= likely[2]["logprob"]
    assert {texts[name][0] for name in named({"temperature": 0, "seed": 7})} == {
        texts[named({"temperature": 0, "seed": 7})[0]][0]
    }
    red, again = (thoughts[name] for name in named(seen("red")))
    assert red == again
    assert len({red, *(thoughts[named(seen(*c))[0]] for c in (("blue",), ("red", "blue")))}) == 3
    for name, (body, _) in wanted.items():
        assert n_thinking[name] <= body.get("thinking_token_budget", 0) + 1, name
