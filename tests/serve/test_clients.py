"""Clients of the OpenAI protocol work unchanged: the official package, and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from typing import Any

import openai
import pytest
from counting_service import Served

from orchestrator.engines.fake.engine import problem_number

QUESTION: Any = [{"role": "user", "content": "How many days has a week?"}]


def test_the_reply_is_the_winning_attempt_and_usage_counts_all_of_them(service: Served) -> None:
    """Eight attempts of eight tokens each are paid for, and one that gave the answer is read."""
    reply = service.client().chat.completions.create(model="small", messages=QUESTION)
    [choice] = reply.choices
    assert reply.object == "chat.completion"
    assert choice.finish_reason == "stop"
    assert choice.message.content is not None
    own = extension(reply)
    assert choice.message.content.endswith(f" {own['answer']}.")
    assert own["n_attempts"] == own["n_planned"] == 8
    assert own["votes"][0]["count"] == round(8 * own["share"])
    assert sum(vote["count"] for vote in own["votes"]) == 8
    assert own["reason"] == "the strategy came to its end after 8 of 8 attempts"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == own["cost"]["solve"]["output_tokens"] == 8 * 8


def test_a_field_without_effect_is_named(service: Served) -> None:
    """Attempts are drawn by the id of a request, so that its seed repeats nothing."""
    reply = service.client().chat.completions.create(
        model="small", messages=QUESTION, seed=3, user="me", extra_body={"session_id": "s"}
    )
    assert extension(reply)["ignored"] == ["seed", "session_id"]


def test_the_name_of_the_model_chooses_pool_depth_and_strategy(service: Served) -> None:
    name = "large@4+consistency?n=3"
    reply = service.client().chat.completions.create(model=name, messages=QUESTION)
    assert reply.model == name
    assert extension(reply)["strategy"] == "consistency n=3"
    requests = [r for r in service.counts.started if r.problem_id == reply.id]
    assert [(r.model, r.depth) for r in requests] == [("large", 4)] * 3


def test_the_object_leadline_says_the_same_as_the_name(service: Served) -> None:
    own = {"strategy": {"name": "consistency", "n": 5}, "depth": 2, "budget": {"traces": 2}}
    reply = service.client().chat.completions.create(
        model="tiny/large", messages=QUESTION, extra_body={"leadline": own}
    )
    assert extension(reply)["n_attempts"] == 2
    assert extension(reply)["stopped_by"] == "traces"
    assert extension(reply)["reason"] == "the budget of traces ended it after 2 of 5 attempts"
    requests = [r for r in service.counts.started if r.problem_id == reply.id]
    assert {(r.model, r.depth) for r in requests} == {("large", 2)}


def test_a_strategy_that_stops_early_says_so(service: Served) -> None:
    reply = service.client().chat.completions.create(model="small+adaptive?n=64", messages=QUESTION)
    own = extension(reply)
    assert own["answer"] == problem_number(reply.id)
    assert own["n_attempts"] < own["n_planned"] == 64
    assert own["reason"].startswith("the strategy stopped early")


def test_several_choices_are_the_leading_classes(service: Served) -> None:
    """The first choice is of the winner; where classes lack, other attempts follow."""
    reply = service.client().chat.completions.create(model="small", messages=QUESTION, n=3)
    found = [(choice.message.content or "").split()[-1].strip(".") for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    leading = [vote["answer"] for vote in extension(reply)["votes"]]
    assert found[: len(leading)] == leading


def test_more_choices_than_attempts_draw_more_attempts(service: Served) -> None:
    reply = service.client().chat.completions.create(model="small", messages=QUESTION, n=12)
    assert len(reply.choices) == 12
    assert extension(reply)["n_attempts"] == 12


def test_logprobs_are_those_of_the_attempt_that_is_returned(service: Served) -> None:
    create = service.client().chat.completions.create
    one = create(model="small", messages=QUESTION, logprobs=True, top_logprobs=2).choices[0]
    assert one.logprobs is not None
    assert one.logprobs.content is not None
    assert len(one.logprobs.content) == 8
    assert {len(token.top_logprobs) for token in one.logprobs.content} == {2}
    stream = create(model="small+consistency?n=1", messages=QUESTION, logprobs=True, stream=True)
    tokens = [c.logprobs.content for [c] in (p.choices for p in stream if p.choices) if c.logprobs]
    assert [len(own or ()) for own in tokens] == [8]


def test_a_text_completion_has_the_older_form(service: Served) -> None:
    create = service.client().completions.create
    reply = create(model="small", prompt="A week has days:", max_tokens=5, logprobs=1)
    assert reply.object == "text_completion"
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].logprobs is not None
    assert len(reply.choices[0].logprobs.tokens or ()) == 5
    pieces = list(create(model="small", prompt="A week has days:", stream=True))
    text = "".join(c.text for piece in pieces for c in piece.choices)
    assert text.endswith(f" {extension(pieces[-1])['answer']}.")


def test_a_stream_of_several_attempts_is_the_reply_with_progress_where_wanted(
    service: Served,
) -> None:
    chunks = list(
        service.client().chat.completions.create(
            model="small",
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"leadline": {"progress": True}},
        )
    )
    own = extension(chunks[-2])
    assert content(chunks).endswith(f" {own['answer']}.")
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == own["cost"]["solve"]["output_tokens"]
    progress = [one["progress"] for c in chunks if "progress" in (one := extension(c))]
    assert (progress[-1]["n_attempts"], progress[-1]["n_planned"]) == (8, 8)
    assert progress[-1]["share"] == own["share"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


async def test_requests_at_the_same_time_do_not_mix(service: Served) -> None:
    """Twenty streams and replies: the number that each finds belongs to its own id."""
    client = openai.AsyncOpenAI(base_url=service.address, api_key="none", max_retries=0)
    create: Any = client.chat.completions.create

    async def found(*, stream: bool) -> bool:
        own = {"model": "small+consistency?n=15", "messages": QUESTION}
        if not stream:
            reply = await create(**own)
            return has_its_number(reply.id, reply.choices[0].message.content)
        chunks = [chunk async for chunk in await create(**own, stream=True)]
        assert len({chunk.id for chunk in chunks}) == 1
        return has_its_number(chunks[0].id, content(chunks))

    assert all(await asyncio.gather(*(found(stream=i % 2 == 0) for i in range(20))))
    await client.close()


def test_models_are_listed_and_described(service: Served) -> None:
    client = service.client()
    names = [model.id for model in client.models.list()]
    assert names == ["small", "large", "tiny/small", "tiny/large"]
    assert client.models.retrieve("large@2+consistency?n=2").id == "large@2+consistency?n=2"
    with pytest.raises(openai.NotFoundError, match="did you mean 'small'"):
        client.models.retrieve("smal")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_a_reply_and_a_stream(service: Served) -> None:
    body = {"model": "small", "messages": QUESTION}
    reply = json.loads(curl(service, body))
    assert has_its_number(reply["id"], reply["choices"][0]["message"]["content"])
    events = curl(service, {**body, "stream": True}).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    comments = [event for event in events if event.startswith(":")]
    assert comments[-1].startswith(": 8 of 8 attempts, leading share ")


def curl(service: Served, body: object) -> str:
    url = f"{service.address}/chat/completions"
    header = "Content-Type: application/json"
    command = ["curl", "-sSfN", url, "-H", header, "-d", json.dumps(body)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def has_its_number(id: str, text: str) -> bool:
    """Tell whether a text gives the number of its request: most of many attempts do."""
    return text.endswith(f" {problem_number(id)}.")


def content(chunks: list[Any]) -> str:
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)


def extension(reply: Any) -> dict[str, Any]:
    own: dict[str, Any] = (reply.model_extra or {}).get("leadline", {})
    return own
