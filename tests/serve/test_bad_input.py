"""Bad input gets the protocol's error object, names what is wrong, and disturbs nobody."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from counting_service import SECONDS, Served

from orchestrator.core.values import Finish, Message, Request, Result, Status
from orchestrator.engines.reply import trace_for
from orchestrator.engines.vllm.prompts import Prompts, Refused
from orchestrator.serve.protocol.replies import failure

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "How many days has a week?"}]
IMAGE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "small", "messages": MESSAGES} | changes


def leadline(**own: Any) -> dict[str, Any]:
    return body(leadline=own)


# a body, the status, and what the message must name
BODIES: dict[str, tuple[Any, int, str]] = {
    "a near model": (body(model="smal"), 404, "did you mean 'small'"),
    "no model": ({"messages": MESSAGES}, 400, "model: Field required"),
    "a near strategy": (body(model="small+consistancy"), 400, "did you mean 'consistency'"),
    "an unknown option": (body(model="small+consistency?m=3"), 400, "m"),
    "an option out of range": (body(model="small+consistency?n=0"), 400, "n"),
    "no option": (body(model="small+consistency?n"), 400, "KEY=VALUE"),
    "a depth that is none": (body(model="small@deep"), 400, "whole number"),
    "a strategy for whole plans": (body(model="small+auto"), 400, "name a strategy"),
    "too many attempts": (body(model="small+consistency?n=9999"), 400, "allows 256"),
    "a file here": (
        leadline(strategy={"name": "deepprune", "similarity": {"name": "trained", "file": "/x"}}),
        400,
        "may not name a file",
    ),
    "an unknown key": (leadline(stratgy="adaptive"), 400, "leadline.stratgy"),
    "said twice": (body(model="small@2", leadline={"depth": 3}), 400, "leadline.depth"),
    "a budget that is none": (leadline(budget={"tokens": -1}), 400, "leadline.budget.tokens"),
    "a budget over the plan's": (leadline(budget={"tokens": 10**6}), 400, "at most 100,000"),
    "dollars without prices": (leadline(budget={"usd": 1}), 400, "knows no prices"),
    "an unknown domain": (leadline(domain="maths"), 400, "did you mean 'math'"),
    "a near field": (body(temprature=1), 400, "did you mean 'temperature'"),
    "out of range": (body(temperature=-1), 400, "temperature"),
    "not a number": (body(max_tokens="many"), 400, "max_tokens"),
    "no choices": (body(n=0), 400, "n:"),
    "too many choices": (body(n=10**6), 400, "n:"),
    "no messages": (body(messages=[]), 400, "messages"),
    "an unknown role": (body(messages=[{"role": "oracle", "content": "?"}]), 400, "oracle"),
    "empty messages": (body(messages=[{"role": "user", "content": " "}]), 400, "empty"),
    "an address": (body(messages=[{"role": "user", "content": [IMAGE]}]), 400, "fetches nothing"),
    "what is not supported": (body(functions=[{"name": "f"}]), 400, "functions"),
    "a choice without tools": (body(tool_choice="required"), 400, "there are no tools"),
    "top_logprobs alone": (body(top_logprobs=2), 400, "logprobs"),
    "a list": ([], 400, "the body"),
    "a text": ("hello", 400, "the body"),
    "nothing": (None, 400, "the body"),
}


@pytest.fixture(scope="module")
def http(service: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.root, timeout=SECONDS) as client:
        yield client


@pytest.mark.parametrize(("content", "status", "named"), BODIES.values(), ids=BODIES)
def test_a_body_that_cannot_be_honoured_is_refused(
    http: httpx.Client, content: Any, status: int, named: str
) -> None:
    error = refused(http.post(CHAT, json=content), status)
    assert named in error["message"]


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe", b'{"model": NaN}', b'"\\ud800"', b"[" * 100_000],
    ids=["torn", "no UTF-8", "NaN", "half a character", "deep"],
)
def test_what_is_not_json_is_refused(http: httpx.Client, content: bytes) -> None:
    response = http.post(CHAT, content=content, headers={"Content-Type": "application/json"})
    error = refused(response, 400)
    assert error["message"].startswith("the body is not valid JSON")
    assert error["code"] == "invalid_json"


def test_other_paths_methods_and_sizes_are_refused(http: httpx.Client) -> None:
    refused(http.get("/v1/chat"), 404)
    assert refused(http.get(CHAT), 405) is not None
    huge = body(messages=[{"role": "user", "content": "x" * (9 << 20)}])
    assert "8,388,608 bytes" in refused(http.post(CHAT, json=huge), 413)["message"]
    many = (b" " * (1 << 20) for _ in range(9))  # no length is announced
    refused(http.post(CHAT, content=many), 413)


def test_an_error_in_a_stream_is_an_error_before_it(http: httpx.Client) -> None:
    refused(http.post(CHAT, json=body(stream=True, temperature=-1)), 400)


def test_pages_of_other_sites_may_not_use_a_service_without_keys(http: httpx.Client) -> None:
    refused(http.post(CHAT, json=body(), headers={"Origin": "https://example.org"}), 403)


def test_a_good_request_is_served_between_bad_ones(http: httpx.Client) -> None:
    refused(http.post(CHAT, content=b"{"), 400)
    assert http.post(CHAT, json=body()).status_code == 200


def test_messages_to_a_model_without_a_chat_template_are_the_clients_mistake() -> None:
    """The client learns the reason and the remedy, where the server used to say that it failed."""
    messages = (Message("user", "?"),)
    with pytest.raises(Refused) as refusal:
        Prompts(SimpleNamespace(chat_template=None), "small").ids(messages)
    request = Request(messages, problem_id="p", ordinal=0, seed=0)
    trace = trace_for(request, Finish.FAILED, error=str(refusal.value))
    fault = failure(Result("p", Status.FAILED, error="1 of 1 failed"), [trace])
    assert (fault.status, fault.code, fault.param) == (400, "no_chat_template", "messages")
    assert "/v1/completions" in fault.message


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error object of a response, which has these fields and tells nothing inside."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] in ("invalid_request_error", "not_found_error", "permission_error")
    assert "Traceback" not in response.text
    assert "chatcmpl-" not in error["message"]
    return error
