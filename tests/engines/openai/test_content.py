"""Tools, calls and content parts through the `openai` engine, against a scripted server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from scripted_server import USAGE, Call, piece, request, serving

from orchestrator.core.errors import PlanFault
from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, Media, Message, Request, Sampling, ToolCall, Trace
from orchestrator.engines.openai.engine import OpenAI

MODELS = {"main": Model("tiny")}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
WITH_TOOLS = Sampling(extra={"tools": TOOLS, "tool_choice": "required"})


async def one(*pieces: object, asked: Request, **options: Any) -> tuple[Trace, list[Any]]:
    async def script(call: Call) -> None:
        if call.path == "/tokenize":
            await call.plain('{"tokens": [1]}')
        else:
            await call.stream(*pieces)

    async with serving(script) as server:
        engine_options = replace(OpenAI(base_url=server.url), **options)
        async with engine_options.open(MODELS) as engine:
            trace = await engine.generate(asked)
        return trace, [call.body for call in server.calls if call.body]


def part(*calls: dict[str, Any], **choice: Any) -> dict[str, Any]:
    found = piece("", **choice)
    found["choices"][0]["delta"]["tool_calls"] = list(calls)
    return found


@pytest.mark.parametrize("with_index", [True, False])
async def test_calls_are_put_together_from_their_pieces(with_index: bool) -> None:
    """Two at a time; a server may leave the index out."""

    def call(index: int, arguments: str, **first: str) -> dict[str, Any]:
        function = {"arguments": arguments} | ({"name": first["name"]} if first else {})
        place = {"index": index} if with_index else {}
        return place | ({"id": first["id"]} if first else {}) | {"function": function}

    trace, bodies = await one(
        piece("Let me see."),
        part(call(0, "", id="a", name="add")),
        part(call(0, '{"x": ')),
        part(call(0, "1}")),
        part(call(1, "{}", id="b", name="add")),
        piece("", finish="tool_calls") | {"usage": USAGE},
        asked=request(sampling=WITH_TOOLS),
    )
    assert trace.calls == (ToolCall("add", '{"x": 1}', "a"), ToolCall("add", "{}", "b"))
    assert (trace.finish, trace.text) == (Finish.STOP, "Let me see.")
    assert (bodies[-1]["tools"], bodies[-1]["tool_choice"]) == (TOOLS, "required")


async def test_media_calls_and_replies_of_tools_are_sent_as_they_came() -> None:
    url = {"url": "data:image/png;base64,AAAA", "detail": "low"}
    prompt = (
        Message("user", "What is  this?", (Media("image_url", json.dumps(url), 8),)),
        Message("assistant", "", calls=(ToolCall("look", '{"at": "it"}', "c1"),)),
        Message("tool", "a cat", call_id="c1"),
    )
    _, bodies = await one(piece("cat", finish="stop"), asked=request(prompt=prompt))
    assert bodies[-1]["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is "},
                {"type": "image_url", "image_url": url},
                {"type": "text", "text": " this?"},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"at": "it"}'},
                }
            ],
        },
        {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
    ]


async def test_a_trace_with_tools_is_not_continued() -> None:
    """Its calls would come back as text."""
    trace, _ = await one(asked=request(sampling=WITH_TOOLS, suffix="So"), server="vllm")
    assert "a trace with tools cannot be continued" in trace.error


def test_tools_and_media_need_chats() -> None:
    plain = OpenAI(chat=False)
    with pytest.raises(PlanFault, match="set chat = true"):
        plain.require_tools(WITH_TOOLS.extra, MODELS)
    with pytest.raises(PlanFault, match="image: set chat = true"):
        plain.require_media(frozenset({"image"}), MODELS)
