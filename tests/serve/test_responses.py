"""/v1/responses with the official client: items, streams, and what has no counterpart here."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from counting_service import MODELS, Served, served
from openai.types.responses import Response

from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Problem, Result, Status
from orchestrator.engines.fake.engine import problem_number
from orchestrator.plan.execution import Prices
from orchestrator.serve.protocol.bodies import ResponsesBody
from orchestrator.serve.protocol.faults import broken
from orchestrator.serve.protocol.questions import Question
from orchestrator.serve.protocol.replies import Answered
from orchestrator.serve.protocol.responses.events import ResponseEvents
from orchestrator.serve.protocol.responses.reply import response
from orchestrator.serve.protocol.responses.request import chat_of

ASKED: Any = {"model": "small", "input": "How many days has a week?"}
TOOL: Any = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


def test_a_response_is_the_winning_attempt_and_its_usage_counts_all(service: Served) -> None:
    reply = service.client().responses.create(**ASKED, temperature=0.5, metadata={"a": "b"})
    assert (reply.object, reply.status, reply.model) == ("response", "completed", "small")
    assert reply.output_text.endswith(f" {problem_number(reply.id)}.")
    [item] = reply.output
    assert (item.type, item.status) == ("message", "completed")
    own: Any = (reply.model_extra or {})["leadline"]
    assert own["n_attempts"] == 8
    assert reply.usage is not None
    assert reply.usage.output_tokens == own["cost"]["solve"]["output_tokens"] == 8 * 8
    assert (reply.temperature, reply.metadata) == (0.5, {"a": "b"})


def test_a_reply_that_was_cut_is_incomplete(service: Served) -> None:
    reply = service.client().responses.create(**ASKED, max_output_tokens=5)
    assert reply.status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("n", [1, 8])
def test_the_pieces_of_a_stream_are_its_response(service: Served, n: int) -> None:
    """The client's own accumulator takes each event, and ends with what the service ends with."""
    asked = ASKED | {"model": f"small+consistency?n={n}"}
    kinds, pieces = [], ""
    with service.client().responses.stream(**asked) as stream:
        for number, event in enumerate(stream):
            assert event.sequence_number == number
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                pieces += event.delta
        final = stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert final.output_text == pieces
    assert kinds.count("response.output_item.done") == len(final.output) == 1
    assert final.usage is not None
    assert final.usage.output_tokens == 8 * n


def test_thinking_is_an_item_of_its_own() -> None:
    plan = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": 2}), domain="number")
    with served(plan, "thinking", answers=("<think>Seven days.</think> 7",)) as service:
        whole = service.client().responses.create(**ASKED)
        kinds = [event.type for event in service.client().responses.create(**ASKED, stream=True)]
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert "response.reasoning_text.delta" in kinds


def test_a_conversation_with_calls_is_the_chat_that_it_means() -> None:
    conversation = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "input_text", "text": "Add."}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I add."}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
    ]
    schema = {"type": "json_schema", "name": "sum", "schema": {"type": "object"}, "strict": True}
    chat = chat_of(
        ResponsesBody(
            model="small",
            instructions="Add numbers.",
            input=conversation,
            tools=[TOOL],
            tool_choice={"type": "function", "name": "add"},
            text={"format": schema},
            reasoning={"effort": "low", "summary": "auto"},
            max_output_tokens=7,
            include=["message.output_text.logprobs"],
        )
    ).model_dump(exclude_unset=True)
    called = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    assert chat["messages"] == [
        {"role": "system", "content": "Add numbers."},
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Add."}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "I add."}],
            "tool_calls": [{"id": "c1", **called}, {"id": "c2", **called}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    own = {"name": "add", "parameters": TOOL["parameters"]}
    assert chat["tools"] == [{"type": "function", "function": own}]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    wanted = {"name": "sum", "schema": {"type": "object"}, "strict": True}
    assert chat["response_format"] == {"type": "json_schema", "json_schema": wanted}
    assert (chat["reasoning_effort"], chat["max_completion_tokens"]) == ("low", 7)
    assert chat["logprobs"] is True


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"previous_response_id": "resp_1"}, "send the whole conversation as input"),
        ({"background": True}, "use /v1/batches"),
        ({"tools": [{"type": "web_search"}]}, "there are functions only"),
        ({"input": [{"type": "item_reference", "id": "m"}]}, "keeps no responses"),
        ({"input": [{"type": "computer_call"}]}, "there is no such item"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "data: URI"),
        ({"input": [{"role": "wizard", "content": "a"}]}, "wizard"),
        ({"input": [{"role": ["user"], "content": "a"}]}, "input: messages.0.role"),
        ({"input": 3}, "input"),
        ({"extra_body": {"max_output_token": 3}}, "did you mean"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    service: Served, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=text):
        service.client().responses.create(**ASKED | changes)


def answered(message: dict[str, Any]) -> Answered:
    """Return a reply with one choice."""
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    problem = Problem("resp_1", "?")
    question = Question(problem, {"url": "/v1/chat/completions"}, "small")
    return Answered(question, Result("resp_1", Status.ANSWERED), (), [choice], 0, Prices())


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def test_calls_are_items_in_a_stream_too() -> None:
    body = ResponsesBody(**ASKED)
    reply = answered(
        {"content": "I add.", "reasoning_content": "Hm.", "tool_calls": [CALL, CALL | {"id": "c2"}]}
    )
    whole = Response.model_validate(response(reply, body))
    assert [item.type for item in whole.output] == ["reasoning", "message", *["function_call"] * 2]
    events = ResponseEvents(reply.question, 0, body)
    sent = [*events.begin(), *events.piece(0, True, "Hm."), *events.piece(0, False, "I add.")]
    sent += events.end(reply, False)
    parsed = [one.decode() for one in sent]
    added = [one for one in parsed if one.startswith("event: response.output_item.added")]
    done = [one for one in parsed if one.startswith("event: response.output_item.done")]
    assert len(added) == len(done) == 4
    assert [f'"output_index":{i},' in one for i, one in enumerate(done)] == [True] * 4


def test_a_stream_that_fails_says_so_without_the_cause() -> None:
    events = ResponseEvents(answered({"content": ""}).question, 0, ResponsesBody(**ASKED))
    [error, failed] = [one.decode() for one in events.failed(broken("secret"))]
    assert error.startswith("event: error\n")
    assert failed.startswith("event: response.failed\n")
    assert "secret" not in error + failed
