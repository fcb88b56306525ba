"""The `openai` engine against an HTTP server on a real socket; each test scripts its replies."""

from __future__ import annotations

import asyncio
import builtins
import gzip
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from scripted_server import (
    USAGE,
    Call,
    Script,
    Server,
    answered,
    piece,
    request,
    serving,
    text_piece,
)

from orchestrator.core.errors import EngineError, PlanError, PluginError, Unavailable
from orchestrator.core.metrics import recorded_with
from orchestrator.core.plan import Model
from orchestrator.core.protocols import Engine
from orchestrator.core.values import (
    Capability,
    ConfidenceFloor,
    Delimiter,
    Finish,
    LikelyToken,
    Message,
    PluginSpec,
    Request,
    Sampling,
    TokenLogprob,
    Trace,
    WordLimit,
)
from orchestrator.engines.openai.endpoints import Endpoint
from orchestrator.engines.openai.engine import OpenAI
from orchestrator.plan import registry

MODELS = {"main": Model("tiny")}


@asynccontextmanager
async def engine_for(script: Script, **options: Any) -> AsyncIterator[tuple[Engine, Server]]:
    async with (
        serving(script) as server,
        replace(OpenAI(base_url=server.url), **options).open(MODELS) as engine,
    ):
        yield engine, server


def scored(logprob: float, top: list[float]) -> dict[str, Any]:
    alternatives = [{"token": str(i), "logprob": lp} for i, lp in enumerate(top)]
    return {"content": [{"token": "x", "logprob": logprob, "top_logprobs": alternatives}]}


async def one(script: Script, asked: Request | None = None, **options: Any) -> tuple[Trace, Server]:
    async with engine_for(script, **options) as (engine, server):
        return await engine.generate(asked or request()), server


async def test_a_completion_comes_back_with_its_text_finish_and_usage() -> None:
    """The server's own count is charged; the layers of a remote model are unknown."""
    trace, _ = await one(answered, request(ordinal=5))
    assert (trace.ordinal, trace.text, trace.finish, trace.error, trace.note) == (
        5,
        "42",
        Finish.STOP,
        "",
        "",
    )
    usage = trace.usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens, usage.layer_tokens) == (
        7,
        4,
        3,
        0,
    )
    assert usage.seconds > 0


async def test_what_is_sent_is_the_plain_api() -> None:
    """OpenAI's own API rejects unknown fields.

    So no vLLM fields are sent unless the plan or `server` requests them.
    """
    sampling = Sampling(temperature=0.5, top_p=0.9, max_new_tokens=64, stop=("END",))
    _, server = await one(answered, request(sampling=sampling, max_new_tokens=9))
    assert server.calls[-1].path == "/v1/chat/completions"
    assert server.calls[-1].body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "2+2?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 17,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 9,
        "stop": ["END"],
    }


async def test_sampling_beyond_the_api_is_sent_where_the_plan_sets_it() -> None:
    """A plan's `min_p` must not be dropped silently."""
    _, server = await one(answered, request(sampling=Sampling(top_k=5, min_p=0.1)))
    body = server.calls[-1].body
    assert (body["top_k"], body["min_p"]) == (5, 0.1)
    assert "repetition_penalty" not in body


async def test_other_parameters_are_fields_of_the_request() -> None:
    extra = {"presence_penalty": 0.5, "chat_template_kwargs": {"enable_thinking": False}}
    _, server = await one(answered, request(sampling=Sampling(extra=extra)))
    assert {name: server.calls[-1].body[name] for name in extra} == extra


async def test_a_structure_is_sent_in_the_words_of_the_server_or_refused() -> None:
    """vLLM's server passes over `guided_*`, and others over all that is vLLM's own."""

    async def script(call: Call) -> None:
        if call.path == "/tokenize":
            await call.plain(json.dumps({"tokens": [1]}))
        else:
            await answered(call)

    schema = {"type": "object"}
    form = {"name": "reply", "strict": True, "schema": schema}
    standard = {"response_format": {"type": "json_schema", "json_schema": form}}
    for extra, server, sent in (
        ({"guided_choice": ["A", "B"]}, "vllm", {"structured_outputs": {"choice": ["A", "B"]}}),
        ({"structured_outputs": {"regex": "a"}}, "vllm", {"structured_outputs": {"regex": "a"}}),
        ({"guided_json": schema}, "any", standard),
        ({"structured_outputs": {"json": json.dumps(schema)}}, "openai", standard),
        (standard, "any", standard),
    ):
        _, called = await one(script, request(sampling=Sampling(extra=extra)), server=server)
        body = called.calls[-1].body
        names = {"response_format", "structured_outputs", *extra} & body.keys()
        assert {name: body[name] for name in names} == sent
        OpenAI(server=server).require_sampling(extra)  # type: ignore[arg-type]
    vllm = Endpoint(base_url="http://a", server="vllm")
    for extra in ({"guided_regex": "a"}, {"structured_outputs": {"choice": ["A"]}}):
        with pytest.raises(PlanError, match=f"extra.{next(iter(extra))}: of all servers vLLM's"):
            OpenAI(endpoints=(vllm, Endpoint(base_url="http://b"))).require_sampling(extra)


async def test_vllms_server_gets_the_limit_of_thinking() -> None:
    """Only there is it a number of tokens; another server is refused before anything starts."""
    limited = request(sampling=Sampling(thinking_tokens=64))
    _, server = await one(answered, limited)
    assert server.calls[-1].body["thinking_token_budget"] == 64
    OpenAI(server="vllm").require_thinking(64, {})
    with pytest.raises(PlanError, match=r"thinking_tokens = 64: only vLLM's .*reasoning_effort"):
        OpenAI(server="openai").require_thinking(64, {})


@pytest.mark.parametrize("name", ["n", "seed", "max_tokens", "messages", "logprobs", "stop"])
def test_another_parameter_replaces_none_of_ours(name: str) -> None:
    with pytest.raises(PlanError, match=rf"sampling\.extra\.{name} is not sent: .* decided by"):
        OpenAI().require_sampling({name: 1})


async def test_openai_itself_gets_its_own_name_of_the_length_limit() -> None:
    """Its newer models reject `max_tokens`.

    Local servers ignore `max_completion_tokens` and would never stop.
    """
    _, server = await one(answered, server="openai")
    assert server.calls[-1].body["max_completion_tokens"] == 512
    assert "max_tokens" not in server.calls[-1].body


async def test_messages_are_sent_as_they_are() -> None:
    """Roles and order matter."""
    prompt = (Message("system", "Be brief."), Message("user", "Hi"))
    _, server = await one(answered, request(prompt=prompt))
    assert server.calls[-1].body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


async def test_the_key_comes_from_the_named_variable_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is recorded and shown, so it never contains a key."""
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    monkeypatch.setenv("MY_KEY", "s3cret")
    _, server = await one(answered, api_key_env="MY_KEY")
    assert {call.headers["authorization"] for call in server.calls} == {"Bearer s3cret"}


async def test_a_missing_key_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local servers need none."""
    monkeypatch.delenv("MY_KEY", raising=False)
    trace, server = await one(answered, api_key_env="MY_KEY")
    assert trace.finish is Finish.STOP
    assert server.calls[-1].headers["authorization"] == "Bearer none"


async def test_text_completions_take_plain_prompts_and_refuse_messages() -> None:
    """A base model has no roles; joining messages silently would change the prompt."""

    async def script(call: Call) -> None:
        await call.stream(
            text_piece("4", finish="length"), {"choices": [], "usage": USAGE}, "[DONE]"
        )

    async with engine_for(script, chat=False) as (engine, server):
        trace = await engine.generate(request())
        refused = await engine.generate(request(prompt=(Message("user", "Hi"),)))
    assert (trace.text, trace.finish) == ("4", Finish.LENGTH)
    assert (server.calls[-1].path, server.calls[-1].body["prompt"]) == ("/v1/completions", "2+2?")
    assert refused.finish is Finish.FAILED
    assert "chat = true" in refused.error


async def test_thoughts_that_the_server_sends_apart_are_part_of_the_text() -> None:
    """Otherwise a trace cut inside its reasoning would look empty.

    Stop rules would also be silently inactive.
    """

    async def script(call: Call) -> None:
        deltas = [
            {"reasoning_content": "h"},
            {"reasoning": "m ", "reasoning_details": [{"type": "reasoning.text", "text": "m "}]},
            {"reasoning_details": [{"type": "reasoning.text", "text": "wait"}]},
            {"content": "4"},
        ]
        chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
        await call.stream(
            *chunks, piece("!", finish="stop"), {"choices": [], "usage": USAGE}, "[DONE]"
        )

    trace, _ = await one(script)
    assert trace.text == "<think>hm wait</think>4!"
    assert (trace.thinking, trace.reply) == ("hm wait", "4!")


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "thinking", "thinking": [{"type": "text", "text": "40 and 2."}]}],
        [{"type": "thinking", "thinking": "40 and 2."}],
        [{"type": "reasoning", "text": "40 and 2."}],
        [{"type": "reasoning", "reasoning": "40 and 2."}, {"type": "text", "text": ""}],
    ],
)
async def test_content_may_be_a_list_of_parts(content: list[object]) -> None:
    """Mistral's servers send the thinking as a part of the content."""

    async def script(call: Call) -> None:
        parts = [content, [{"type": "text", "text": "The answer "}], "is 42."]
        chunks = [{"choices": [{"delta": {"content": one}}]} for one in parts]
        await call.stream(*chunks, piece("", finish="stop"), {"usage": USAGE}, "[DONE]")

    trace, _ = await one(script)
    assert (trace.thinking, trace.reply) == ("40 and 2.", "The answer is 42.")
    assert trace.text == "<think>40 and 2.</think>The answer is 42."


async def test_thinking_that_mentions_its_tag_is_kept_apart_by_the_server() -> None:
    async def script(call: Call) -> None:
        deltas = [{"reasoning": "no </think> yet, 41"}, {"content": "42\n</think>"}]
        chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
        await call.stream(*chunks, piece("", finish="stop"), {"usage": USAGE}, "[DONE]")

    trace, _ = await one(script)
    assert (trace.thinking, trace.reply) == ("no </think> yet, 41", "42\n")


async def test_tags_in_the_content_are_left_to_the_reading() -> None:
    """A server without a reasoning parser sends everything as content."""

    async def script(call: Call) -> None:
        await call.stream(piece("<think>hm</think>4", finish="stop"), {"usage": USAGE}, "[DONE]")

    trace, _ = await one(script)
    assert (trace.text, trace.reply_spans) == ("<think>hm</think>4", None)


@pytest.mark.parametrize(
    "reported",
    [{"completion_tokens_details": {"reasoning_tokens": 2}}, {"reasoning_tokens": 2}],
)
async def test_the_tokens_of_thinking_are_counted_by_the_server(reported: object) -> None:
    async def script(call: Call) -> None:
        await call.stream(piece("4", finish="stop"), {"usage": USAGE | reported}, "[DONE]")

    trace, _ = await one(script)
    assert (trace.usage.output_tokens, trace.usage.reasoning_tokens) == (3, 2)


async def test_a_server_that_sends_token_ids_needs_no_count_of_thinking() -> None:
    async def script(call: Call) -> None:
        if call.path == "/tokenize":
            await call.plain(json.dumps({"tokens": [1]}))
            return
        chunks = [
            {"choices": [{"delta": {"reasoning": "hm"}, "token_ids": [5, 6]}]},
            {"choices": [{"delta": {"content": "4"}, "token_ids": [7], "finish_reason": "stop"}]},
        ]
        await call.stream(*chunks, {"choices": [], "usage": USAGE}, "[DONE]")

    async with engine_for(script, server="vllm") as (engine, _):
        trace = await engine.generate(request())
    assert trace.usage.reasoning_tokens == 2


@pytest.mark.parametrize(
    ("counts", "prompt_tokens", "notes"),
    [
        ({"prompt_tokens": 5, "completion_tokens": None}, 5, ["output_tokens is"]),
        ({"prompt_tokens": None, "completion_tokens": 3}, 0, ["prompt_tokens is unknown"]),
        (
            {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
            0,
            ["output_tokens is", "lower bound", "prompt_tokens is unknown"],
        ),
        ({"prompt_tokens": 5.0, "completion_tokens": 10**40}, 5, ["output_tokens is"]),
        ({"prompt_tokens": -7, "completion_tokens": 2.5}, 0, ["output_tokens is", "prompt_tokens"]),
        ({"prompt_tokens": True, "completion_tokens": "9"}, 0, ["output_tokens is"]),
        ("none", 0, ["output_tokens is", "prompt_tokens"]),
        ([5, 3], 0, ["output_tokens is", "prompt_tokens"]),
    ],
)
async def test_counts_that_are_null_or_impossible_are_unknown(
    counts: object, prompt_tokens: int, notes: list[str]
) -> None:
    """The reply is there all the same, and a note names what is not known."""

    async def script(call: Call) -> None:
        await call.stream(
            piece("The answer is 42."),
            piece("", finish="stop"),
            {"choices": [], "usage": counts},
            "[DONE]",
        )

    trace, _ = await one(script)
    assert (trace.finish, trace.text) == (Finish.STOP, "The answer is 42.")
    assert trace.usage.prompt_tokens == prompt_tokens
    assert trace.usage.output_tokens in (1, 3)
    assert all(note in trace.note for note in ("the server sent", *notes))


async def test_a_count_far_beyond_the_limit_of_the_request_is_unknown() -> None:
    """It would end a job by its budget."""

    async def script(call: Call) -> None:
        usage = {"prompt_tokens": 5, "completion_tokens": 999_999_999}
        await call.stream({**piece("4", finish="stop"), "usage": usage}, "[DONE]")

    trace, _ = await one(script, request(max_new_tokens=9))
    assert (trace.finish, trace.usage.output_tokens) == (Finish.STOP, 1)
    assert "the server sent the counts (5, 999999999); output_tokens is" in trace.note


async def test_a_part_of_a_count_is_no_more_than_the_whole() -> None:
    """Cached tokens are of the prompt, reasoning tokens of the output."""
    parts = {
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }

    async def script(call: Call) -> None:
        await call.stream({**piece("4", finish="stop"), "usage": USAGE | parts}, "[DONE]")

    usage = (await one(script))[0].usage
    assert (usage.prompt_tokens, usage.output_tokens) == (7, 3)
    assert (usage.cached_tokens, usage.reasoning_tokens) == (0, 0)


async def test_a_reasoning_parser_is_the_servers() -> None:
    models = {"main": Model("tiny", reasoning_parser="qwen3")}
    with pytest.raises(PlanError, match=r"vllm serve --reasoning-parser"):
        async with OpenAI().open(models):
            pass


async def test_metrics_are_folded_from_the_stream() -> None:
    """Mean log-probability: (-0.5 - 1.5) / 2 = -1.

    Confidence is minus the mean of a token's 20 best: 2 and 4.
    """

    async def script(call: Call) -> None:
        await call.stream(
            piece("a", logprobs=scored(-0.5, [-2.0] * 20)),
            piece("b", finish="stop", logprobs=scored(-1.5, [-4.0] * 20)),
            {"choices": [], "usage": USAGE},
            "[DONE]",
        )

    trace, server = await one(script, request(metrics=("mean_logprob", "mean_confidence")))
    assert (trace.metrics["mean_logprob"], trace.metrics["mean_confidence"]) == (-1.0, 3.0)
    # the others come with the same log-probabilities
    assert trace.metrics.keys() == {*recorded_with(["mean_confidence"])}
    assert (server.calls[-1].body["logprobs"], server.calls[-1].body["top_logprobs"]) == (True, 20)


async def test_metrics_of_text_completions_take_the_best_of_what_is_sent() -> None:
    """This endpoint adds the sampled token to the top ones.

    Of 21 the 20 most likely count, here 20 times -2.
    """

    async def script(call: Call) -> None:
        top = {str(i): -2.0 for i in range(20)} | {"sampled": -9.0}
        logprobs = {"tokens": ["a"], "token_logprobs": [-9.0], "top_logprobs": [top]}
        await call.stream(
            text_piece("a", finish="stop", logprobs=logprobs),
            {"choices": [], "usage": USAGE},
            "[DONE]",
        )

    asked = (
        "mean_logprob",
        "mean_confidence",
        "first_token_logprob@7",
        "first_token_logprob@sampled",
    )
    trace, server = await one(script, request(metrics=asked), chat=False)
    expected = {"mean_logprob": -9.0, "mean_confidence": 2.0, "first_token_logprob@7": -2.0}
    assert {name: trace.metrics.get(name) for name in asked} == {
        **expected,
        "first_token_logprob@sampled": None,
    }
    assert server.calls[-1].body["logprobs"] == 20


KEPT = Sampling(logprobs=True, top_logprobs=2)


async def test_a_trace_keeps_the_log_probabilities_that_its_request_wants() -> None:
    """Beside those of metrics: by rank, and with the bytes of a token that is part of a letter."""
    part = {"token": "\\xc3", "bytes": [0xC3], "logprob": -0.25, "top_logprobs": []}
    likely = [("c", -3.0), ("a", -1.0), ("b", -2.0), *((str(i), -5.0) for i in range(17))]
    tops = [{"token": token, "logprob": p, "bytes": [*token.encode()]} for token, p in likely]
    whole = {"token": "b", "bytes": [98], "logprob": -2.0, "top_logprobs": tops}

    async def script(call: Call) -> None:
        last = {**part, "top_logprobs": tops}
        await call.stream(
            piece("b", logprobs={"content": [whole]}),
            piece("\xe9", finish="stop", logprobs={"content": [last]}),
            {"choices": [], "usage": USAGE},
            "[DONE]",
        )

    top = (LikelyToken("a", -1.0), LikelyToken("b", -2.0))
    expected = (TokenLogprob("b", -2.0, None, top), TokenLogprob("\\xc3", -0.25, (0xC3,), top))
    trace, server = await one(script, request(sampling=KEPT))
    assert (trace.logprobs, trace.metrics) == (expected, {})
    assert (server.calls[-1].body["logprobs"], server.calls[-1].body["top_logprobs"]) == (True, 2)
    measured, server = await one(script, request(sampling=KEPT, metrics=("mean_confidence",)))
    assert (measured.logprobs, server.calls[-1].body["top_logprobs"]) == (expected, 20)
    assert measured.metrics["mean_confidence"] == pytest.approx(91 / 20)


async def test_text_completions_keep_the_texts_of_tokens() -> None:
    """vLLM's server sends ids instead where metrics need them: both at once cannot be had."""

    async def script(call: Call) -> None:
        if call.path == "/tokenize":
            await call.plain(json.dumps({"tokens": [1]}))
            return
        top = {"b": -2.0, "a": -1.0, "x": -9.0}
        logprobs = {"tokens": ["x"], "token_logprobs": [-9.0], "top_logprobs": [top]}
        await call.stream(text_piece("x", finish="stop", logprobs=logprobs), "[DONE]")

    trace, server = await one(script, request(sampling=KEPT), chat=False)
    top = (LikelyToken("a", -1.0), LikelyToken("b", -2.0))
    assert trace.logprobs == (TokenLogprob("x", -9.0, None, top),)
    assert server.calls[-1].body["logprobs"] == 2
    refused, _ = await one(
        script,
        request(sampling=KEPT, metrics=("mean_confidence",)),
        chat=False,
        server="vllm",
    )
    assert "sampling.logprobs: /completions sends texts or ids" in refused.error


async def test_log_probabilities_that_were_wanted_and_do_not_come_fail_the_trace() -> None:
    trace, _ = await one(answered, request(sampling=KEPT))
    assert trace.finish is Finish.FAILED
    assert "sampling.logprobs needs them" in trace.error


@pytest.mark.parametrize(
    ("logprobs", "reason"),
    [
        (None, "no log-probabilities"),
        (scored(-0.5, [-2.0] * 5), "5 of the 20 top log-probabilities"),
    ],
)
async def test_log_probabilities_that_do_not_come_fail_the_trace(
    logprobs: object, reason: str
) -> None:
    """A missing metric, or one on another scale, would silently change a vote."""

    async def script(call: Call) -> None:
        await call.stream(piece("a", finish="stop", logprobs=logprobs), "[DONE]")

    trace, _ = await one(script, request(metrics=("mean_confidence",)))
    assert (trace.finish, trace.metrics) == (Finish.FAILED, {})
    assert reason in trace.error


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (WordLimit(("wait",), 2), "so wait, then wait, "),
        (Delimiter("\n\n"), "so wait, then wait, or\n\n"),
        (ConfidenceFloor(floor=2.0, window_tokens=2, top_k=3), "so wait, then "),
    ],
)
async def test_a_stop_rule_ends_the_trace_and_closes_the_stream(rule: Any, text: str) -> None:
    """RULES is declared, so rules are enforced: here on the stream, which is then closed.

    Confidences per piece are 3, 2, 1: the mean of a window of 2 falls below 2 at the third piece.
    """
    closed = asyncio.Event()

    async def script(call: Call) -> None:
        await call.begin()
        for index, said in enumerate(("so ", "wait, ", "then ", "wait, ", "or\n\n")):
            await call.event(piece(said, logprobs=scored(-0.5, [index - 3.0] * 3)))
        await call.disconnect()
        closed.set()

    async with engine_for(script) as (engine, _):
        trace = await engine.generate(request(rules=(rule,)))
        await closed.wait()
    assert (trace.finish, trace.text) == (Finish.RULE, text)


async def test_an_aborted_request_returns_what_has_arrived_and_the_server_sees_it_go() -> None:
    """Cancelled tokens are charged, and the server must stop generating."""
    sent, closed = asyncio.Event(), asyncio.Event()

    async def script(call: Call) -> None:
        if call.body["messages"][0]["content"] != "long":
            await answered(call)
            return
        await call.begin()
        for _ in range(3):
            await call.event(piece("na ", logprobs=scored(-1.0, [])))
        sent.set()
        await call.disconnect()
        closed.set()

    async with engine_for(script) as (engine, _):
        asked = request(ordinal=1, prompt="long", metrics=("mean_logprob",))
        pending = asyncio.create_task(engine.generate(asked))
        await sent.wait()
        # its round trip takes longer than the arrival of earlier messages
        await engine.generate(request(ordinal=2))
        assert engine.running_tokens() == 3  # type: ignore[attr-defined]  # of this engine
        engine.abort(asked)
        engine.abort(asked)  # a second one is ignored
        trace = await pending
        await closed.wait()
    assert (trace.ordinal, trace.finish, trace.text) == (1, Finish.CANCELLED, "na na na ")
    assert (trace.usage.output_tokens, trace.metrics) == (3, {"mean_logprob": -1.0})
    assert "no count" in trace.note
    assert engine.running_tokens() == 0  # type: ignore[attr-defined]


async def test_counts_the_server_did_not_send_are_called_what_they_are() -> None:
    """Chunks may have several tokens: their number is a lower bound, and the note reports it."""

    async def script(call: Call) -> None:
        await call.stream(piece("one two "), piece("three", finish="stop"), "[DONE]")

    trace, _ = await one(script)
    assert (trace.finish, trace.usage.output_tokens, trace.usage.prompt_tokens) == (
        Finish.STOP,
        2,
        0,
    )
    assert "lower bound" in trace.note


async def test_an_abort_before_the_first_byte_is_a_cancelled_trace() -> None:
    """A server that queues a request must not delay the end of a problem."""
    arrived = asyncio.Event()

    async def script(call: Call) -> None:
        arrived.set()
        await call.disconnect()

    async with engine_for(script) as (engine, _):
        pending = asyncio.create_task(engine.generate(request()))
        await arrived.wait()
        engine.abort(request())
        trace = await pending
    assert (trace.finish, trace.text, trace.usage.output_tokens) == (Finish.CANCELLED, "", 0)


async def test_aborting_an_unknown_request_does_nothing() -> None:
    """A race between a completion and its abort is normal."""
    async with engine_for(answered) as (engine, _):
        engine.abort(request())
        assert (await engine.generate(request())).finish is Finish.STOP
        engine.abort(request())


async def test_cancelling_the_task_closes_the_stream_and_is_not_swallowed() -> None:
    """Cancellation is not an error, and the server must be told."""
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def script(call: Call) -> None:
        await call.begin()
        arrived.set()
        await call.disconnect()
        closed.set()

    async with engine_for(script) as (engine, _):
        pending = asyncio.create_task(engine.generate(request()))
        await arrived.wait()
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        await closed.wait()


async def test_fifty_concurrent_requests_are_never_mixed_up() -> None:
    """Every text contains its own prompt and seed.

    Completions paired with the wrong prompt are the worst silent bug.
    """
    rng = random.Random(0)

    async def script(call: Call) -> None:
        text = f"{call.body['messages'][0]['content']}/{call.body['seed']}"
        await call.begin()
        for character in text:
            await call.event(piece(character))
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        await call.event(piece("", finish="stop"))
        await call.event("[DONE]")
        await call.end()

    async with engine_for(script) as (engine, _):
        traces = await asyncio.gather(
            *(
                engine.generate(
                    Request(
                        prompt=f"q{i}",
                        model="main",
                        problem_id=f"p{i % 10}",
                        ordinal=i // 10,
                        seed=1000 + i,
                    )
                )
                for i in range(50)
            )
        )
    assert [t.text for t in traces] == [f"q{i}/{1000 + i}" for i in range(50)]
    assert [t.ordinal for t in traces] == [i // 10 for i in range(50)]


@pytest.mark.parametrize(
    ("status", "reply", "extra", "reason", "seconds", "exhausted"),
    [
        (429, '{"error": {"message": "slow down"}}', "retry-after: 7\r\n", "slow down", 7, False),
        (429, '{"error": {"message": "x"}}', "retry-after-ms: 250\r\n", "HTTP 429: x", 0.25, False),
        (429, "{}", "retry-after: soon\r\n", "HTTP 429", None, False),
        (429, "{}", "retry-after: -1\r\n", "HTTP 429", None, False),
        (429, "{}", "retry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\n", "HTTP 429", 0, False),
        (
            429,
            '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}',
            "",
            "add credit",
            None,
            True,
        ),
        (402, '{"error": {"message": "Insufficient Balance"}}', "", "add credit", None, True),
        (408, "{}", "", "HTTP 408", None, False),
        (500, '{"error": {"message": "kaput"}}', "", "HTTP 500: kaput", None, False),
        (503, "<html>bad gateway</html>", "", "HTTP 503: <html>bad gateway", None, False),
    ],
)
async def test_a_server_that_cannot_now_is_unavailable_with_what_it_said(
    status: int, reply: str, extra: str, reason: str, seconds: float | None, exhausted: bool
) -> None:
    """429 is the normal state of a shared service; only the supervision sends a request again."""
    n_calls = 0

    async def script(call: Call) -> None:
        nonlocal n_calls
        n_calls += 1
        await call.plain(reply, status, extra=extra)

    with pytest.raises(Unavailable, match=reason) as refused:
        await one(script)
    assert (refused.value.retry_after_seconds, refused.value.exhausted) == (seconds, exhausted)
    assert n_calls == 1


async def test_a_request_that_the_server_declines_is_a_failed_trace() -> None:
    """One bad row must not end the job, and the server's own message gives the reason."""

    async def script(call: Call) -> None:
        await call.plain('{"error": {"message": "maximum context length is 16 tokens"}}', 400)

    trace, _ = await one(script)
    assert trace.finish is Finish.FAILED
    assert "maximum context length is 16 tokens" in trace.error


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_server_that_refuses_us_ends_the_job(status: int) -> None:
    """Every further request would be refused, too."""

    async def script(call: Call) -> None:
        await call.plain('{"error": {"message": "not for you"}}', status)

    with pytest.raises(EngineError, match=rf"HTTP {status}: not for you"):
        await one(script)


async def _html(call: Call) -> None:
    await call.plain("<html>Welcome to the hotel's network</html>", kind="text/html")


async def _empty(call: Call) -> None:
    await call.plain("")


async def _no_choices(call: Call) -> None:
    await call.stream({"id": "x"}, {"choices": []}, "[DONE]")


async def _not_json(call: Call) -> None:
    await call.stream(piece("4"), "{oops")


async def _wrong_shape(call: Call) -> None:
    await call.stream({"choices": "none"})


async def _error_event(call: Call) -> None:
    await call.stream(piece("4"), {"error": {"message": "out of memory", "code": 500}})


async def _declined_event(call: Call) -> None:
    await call.stream(piece("4"), {"error": {"message": "too long", "code": 400}})


def _with_error(*events: object) -> Script:
    """A stream of one piece and then an error, in the shape of one server or another."""

    async def script(call: Call) -> None:
        await call.stream(piece("4"), *events, "[DONE]")

    return script


def _status_200(error: object) -> Script:
    """No stream at all, but a status that says so."""

    async def script(call: Call) -> None:
        await call.plain(json.dumps({"error": error}))

    return script


_TOO_LONG = {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}
_DIED = {"object": "error", "message": "worker died", "type": "InternalServerError", "code": 500}
_ENDED = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
_ENDED_WHY = {**_ENDED, "error": {"message": "the provider left", "code": 502}}
_BAD_CODE = {"message": "too long", "type": "invalid_request_error", "code": "context_length"}


async def _cut(call: Call) -> None:
    await call.begin()
    await call.event(piece("4"))
    await call.cut()


async def _gone(call: Call) -> None:
    await call.cut()


async def _ended_early(call: Call) -> None:
    await call.stream(piece("4"))


async def _two_choices(call: Call) -> None:
    both = [{"index": i, "delta": {"content": str(i)}, "finish_reason": "stop"} for i in range(2)]
    await call.stream({"choices": both}, "[DONE]")


async def _second_choice(call: Call) -> None:
    await call.stream(piece("4"), piece("2", index=1), piece("", finish="stop"), "[DONE]")


async def _after_the_end(call: Call) -> None:
    await call.stream(piece("4", finish="stop"), piece("2"), "[DONE]")


async def _compressed(call: Call) -> None:
    """One event of 300 MB is 300 kB on the wire."""
    assert call.headers["accept-encoding"] == "identity"
    raw = gzip.compress(f"data: {json.dumps(piece('4', finish='stop'))}\n\n".encode())
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
    call.writer.write(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
    await call.writer.drain()


async def _endless_event(call: Call) -> None:
    await call.begin()
    await call.event(piece("4"))
    part = b"data: " + b"x" * (1 << 20) + b"\n"
    for _ in range(40):
        call.writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        await call.writer.drain()
    await call.end()


async def _long_winded(call: Call) -> None:
    await call.begin()
    for _ in range(30):
        await call.event(piece("why " * (1 << 15)))
    await call.end()


async def _filtered(call: Call) -> None:
    await call.stream(piece("4", finish="content_filter"), "[DONE]")


@pytest.mark.parametrize(
    ("script", "reason", "text"),
    [
        (_two_choices, "several completions", ""),
        (_second_choice, "several completions", "4"),
        (_after_the_end, "text after the end", "42"),
        (_compressed, "compressed reply (gzip)", ""),
        (_endless_event, "too many for one event", "4"),
        (_long_winded, "characters for a completion of at most 3 tokens", None),
        (_html, "no choices (content type text/html)", ""),
        (_empty, "no choices", ""),
        (_no_choices, "no choices", ""),
        (_not_json, "invalid JSON", "4"),
        (_wrong_shape, "malformed reply", ""),
        (_declined_event, "too long", "4"),
        (_with_error(_TOO_LONG), "too long", "4"),
        (_with_error({"error": _BAD_CODE}), "too long", "4"),
        (_with_error({"error": {"message": "too long", "code": "422"}}), "too long", "4"),
        (_status_200({"message": "too long", "code": 400}), "too long", ""),
        (_filtered, "content_filter", "4"),
    ],
)
async def test_a_malformed_reply_is_a_failed_trace_that_keeps_what_came(
    script: Script, reason: str, text: str | None
) -> None:
    """A malformed reply is data: reported, charged, and never used as an answer."""
    trace, _ = await one(script, request(max_new_tokens=3))
    assert trace.finish is Finish.FAILED
    assert text is None or trace.text == text
    assert reason in trace.error


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (_error_event, "out of memory"),
        (_cut, "the connection was lost"),
        (_ended_early, "the stream was cut"),
        (_with_error(_DIED), "worker died"),
        (_with_error({"error": "worker died"}), "worker died"),
        (_with_error({"choices": [_ENDED_WHY]}), "the provider left"),
    ],
)
async def test_a_stream_that_breaks_off_is_unavailable_with_its_lost_tokens(
    script: Script, reason: str
) -> None:
    """The same request is served another time; what it has cost is not forgotten."""
    with pytest.raises(Unavailable, match=reason) as refused:
        await one(script)
    assert refused.value.lost_tokens == 1


async def test_a_used_up_quota_is_known_inside_a_stream_too() -> None:
    error = {"message": "no credit", "type": "insufficient_quota", "code": 429}
    for script in (_with_error({"error": error}), _status_200(error)):
        with pytest.raises(Unavailable, match="no credit; the quota is used up") as refused:
            await one(script)
        assert refused.value.exhausted


async def test_the_reason_of_a_lost_connection_can_be_continued() -> None:
    """It stands in the middle of a sentence, before "; no request was served for ..."."""
    with pytest.raises(Unavailable, match=r"lost: Server disconnected$"):
        await one(_gone)


async def test_of_a_web_page_only_the_title_is_reported() -> None:
    """A proxy in front of the server answers with one, and it would fill the screen."""
    page = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body>nginx</body></html>"

    async def script(call: Call) -> None:
        await call.plain(page, 502, "text/html")

    with pytest.raises(Unavailable, match=r"HTTP 502: a web page, '502 Bad Gateway'$"):
        await one(script)


async def test_a_silent_server_is_unavailable_after_the_time_limit() -> None:
    """It must never hang."""

    async def script(call: Call) -> None:
        await call.disconnect()

    with pytest.raises(Unavailable, match=r"lost: Timeout on reading data from socket$"):
        await one(script, timeout_seconds=0.05)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_server_that_dies_fails_no_trace(streaming: bool) -> None:
    """Its traces did not fail, so they must not become FAILED rows: they are sent again."""
    arrived = asyncio.Event()

    async def script(call: Call) -> None:
        if streaming:
            await call.begin()
            await call.event(piece("4"))
        arrived.set()
        await call.disconnect()

    async with engine_for(script) as (engine, server):
        pending = asyncio.create_task(engine.generate(request()))
        await arrived.wait()
        await server.die()
        with pytest.raises(Unavailable, match=rf"127.0.0.1:{server.port}/v1: the connection was"):
            await pending


async def test_a_server_that_is_busy_at_the_start_is_not_a_wrong_address() -> None:
    """A job may begin in an outage: its requests wait for the end of it."""
    async with (
        serving(answered, models="{}", models_status=503) as server,
        OpenAI(base_url=server.url).open(MODELS) as engine,
    ):
        assert (await engine.generate(request())).text == "42"


async def test_a_port_where_nobody_listens_is_an_error_before_anything_starts() -> None:
    """The error names the address and the remedy."""
    async with serving(answered) as server:
        url = server.url
    with pytest.raises(
        EngineError,
        match=rf"no server answers at {url} .*vllm\.entrypoints\.openai\.api_server --model MODEL",
    ):
        async with OpenAI(base_url=url).open(MODELS):
            pass


async def test_a_model_that_is_not_served_names_those_that_are() -> None:
    """The served name often differs from the hub path."""
    async with serving(answered) as server:
        with pytest.raises(EngineError, match="does not serve absent; it serves: tiny, other"):
            async with OpenAI(base_url=server.url).open(
                {"main": Model("tiny"), "judge": Model("absent")}
            ):
                pass


@pytest.mark.parametrize(
    ("models", "status", "reason"),
    [
        ("<html>hello</html>", 200, "no OpenAI-compatible API"),
        ('{"data": 3}', 200, "no OpenAI-compatible API"),
        ('{"data": [', 200, "no OpenAI-compatible API"),
        ('{"detail": "Not Found"}', 404, "HTTP 404.*most end in /v1"),
        (
            '{"error": {"message": "no key"}}',
            401,
            r"HTTP 401: no key; the key is read from \$MY_KEY, which is not set",
        ),
    ],
)
async def test_what_is_no_such_server_is_an_error_before_anything_starts(
    models: str, status: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong base_url or key is found at once, not after a thousand failed traces."""
    monkeypatch.delenv("MY_KEY", raising=False)
    async with serving(answered, models=models, models_status=status) as server:
        with pytest.raises(EngineError, match=reason):
            async with OpenAI(base_url=server.url, api_key_env="MY_KEY").open(MODELS):
                pass


async def test_a_continuation_goes_by_token_ids_on_vllm() -> None:
    """Prompt, generated tokens and suffix are sent as ids, never as text to tokenise again."""

    async def script(call: Call) -> None:
        if call.path == "/tokenize":
            await call.plain(json.dumps({"tokens": [1, 2] if "messages" in call.body else [9]}))
        else:
            choice = text_piece("yes", finish="stop", token_ids=[30, 31])
            await call.stream(choice, {"choices": [], "usage": USAGE}, "[DONE]")

    asked = request(parent=0, prefix_ids=(5, 6), prefix_text="ab", suffix="so")
    trace, server = await one(script, asked, server="vllm")
    assert (server.calls[-1].path, server.calls[-1].body["prompt"]) == (
        "/v1/completions",
        [1, 2, 5, 6, 9],
    )
    assert (server.calls[-1].body["return_token_ids"], server.calls[-1].body["top_k"]) == (True, 0)
    assert server.calls[-2].body == {"model": "tiny", "prompt": "so", "add_special_tokens": False}
    assert (trace.text, trace.token_ids, trace.suffix_ids, trace.parent) == (
        "yes",
        (30, 31),
        (9,),
        0,
    )


async def test_a_server_said_to_be_vllm_must_tokenise() -> None:
    """CONTINUE is declared by the user at plan time, so it is checked before the first request."""

    async def script(call: Call) -> None:
        await call.plain('{"error": {"message": "no such path"}}', 404)

    with pytest.raises(EngineError, match=r"HTTP 404: no such path.*server"):
        await one(script, server="vllm")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (request(parent=0, prefix_ids=(1,)), 'server = "vllm"'),
        (request(suffix="so"), 'server = "vllm"'),
        (request(depth=4), "latent depth"),
        (Request(prompt="x", model="absent"), "'absent'"),
    ],
)
async def test_what_cannot_be_served_is_a_failed_trace_and_is_not_sent(
    asked: Request, reason: str
) -> None:
    """Capabilities are checked at plan time.

    Unsupported requests that still arrive must not be answered with something else.
    """
    trace, server = await one(answered, asked)
    assert trace.finish is Finish.FAILED
    assert reason in trace.error
    assert [call.path for call in server.calls] == ["/v1/models"]


def test_capabilities_are_those_that_hold() -> None:
    """Continuation needs token ids; no remote API has latent depth."""
    common = {Capability.SEED, Capability.CANCEL, Capability.LOGPROBS, Capability.RULES}
    assert OpenAI().capabilities() == common
    assert OpenAI(server="vllm").capabilities() == common | {Capability.CONTINUE}


@pytest.mark.parametrize(
    "options", [{"base_url": "localhost:8000"}, {"timeout_seconds": 0}, {"max_retries": 2}]
)
def test_a_wrong_option_is_named(options: dict[str, Any]) -> None:
    """Options are validated when the plan is read."""
    with pytest.raises(PluginError, match=next(iter(options))):
        registry.load("engines", PluginSpec("openai", options))


async def test_a_revision_that_nobody_can_honour_is_refused() -> None:
    """A field of the plan that is ignored would silently change the experiment."""
    with pytest.raises(PlanError, match=r"models\.main: revision"):
        async with OpenAI().open({"main": Model("tiny", revision="abc")}):
            pass


async def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install leadline` alone does not bring it."""
    original = builtins.__import__

    def without_openai(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openai":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_openai)
    with pytest.raises(PlanError, match=r"leadline\[http\]"):
        async with OpenAI().open(MODELS):
            pass


KEY = "sk-test-0123456789abcdef"


async def _echoed(call: Call) -> None:
    await call.stream(
        piece(f"Your key is {call.headers['authorization']}. 42"), piece("", finish="stop")
    )


async def _echoed_in_an_error(call: Call) -> None:
    text = f"{'x' * 480} {call.headers['authorization']} is not allowed"
    await call.plain(json.dumps({"error": {"message": text}}), 400)


async def _echoed_in_the_stream(call: Call) -> None:
    await call.stream({"error": {"message": f"no {call.headers['authorization']}", "code": 400}})


@pytest.mark.parametrize("script", [_echoed, _echoed_in_an_error, _echoed_in_the_stream])
async def test_a_key_that_the_server_echoes_is_masked(
    monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    """The trace is journalled, exported and shared."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    trace, server = await one(script)
    assert server.calls[-1].headers["authorization"] == f"Bearer {KEY}"
    assert KEY[:8] not in repr(trace)
    assert "Bearer *" in (trace.text or trace.error)


async def test_a_key_in_the_refusal_of_a_job_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refusal = json.dumps({"error": {"message": f"bad key {KEY}"}})
    async with serving(answered, models=refusal, models_status=401) as server:
        with pytest.raises(EngineError, match=r"bad key \*+"):
            async with OpenAI(base_url=server.url).open(MODELS):
                pass


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret-word@example.org/v1",
        "https://example.org/v1?api_key=secret-word",
        "https://example.org/sk-0123456789abcdef-secret-word/v1",
    ],
)
def test_an_address_that_carries_a_key_is_refused(url: str) -> None:
    """The plan is stored in the job directory."""
    with pytest.raises(PluginError, match="api_key_env") as refused:
        registry.load("engines", PluginSpec("openai", {"base_url": url}))
    assert "secret-word" not in str(refused.value)
