"""Several endpoints as one engine, each a server on a real socket; time passes as tests let it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from scripted_server import (
    Call,
    Script,
    Server,
    answered,
    piece,
    request,
    serving,
    text_piece,
)
from virtual_time import VirtualTime

from orchestrator.core.errors import EngineError, PlanError, PluginError, Unavailable
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, Finish, PluginSpec, Trace
from orchestrator.engines.openai import opening
from orchestrator.engines.openai.engine import OpenAI
from orchestrator.engines.openai.running import TokenBucket
from orchestrator.engines.supervised import Clock, SupervisedEngine
from orchestrator.plan import registry
from orchestrator.plan.execution import Supervision

MODELS = {"main": Model("tiny")}


@dataclass
class Pool:
    """An engine of several endpoints under supervision, as jobs use it."""

    engine: SupervisedEngine
    servers: list[Server]
    time: VirtualTime

    async def all(self, n: int, first: int = 0) -> list[Trace]:
        """Send n requests at once."""
        ordinals = range(first, first + n)
        return await asyncio.gather(*(self.engine.generate(request(i)) for i in ordinals))

    def n_sent(self) -> list[int]:
        """Count the completions that were requested of each server."""
        return [sum(call.path != "/v1/models" for call in s.calls) for s in self.servers]


def options(
    servers: Sequence[Server], each: Sequence[Mapping[str, Any]] = (), **around: Any
) -> OpenAI:
    tables = [
        {"base_url": server.url, **own}
        for server, own in itertools.zip_longest(servers, each, fillvalue={})
    ]
    engine = registry.load("engines", PluginSpec("openai", {"endpoints": tables, **around}))
    assert isinstance(engine, OpenAI)
    return engine


@asynccontextmanager
async def pool_of(
    *scripts: Script,
    each: Sequence[Mapping[str, Any]] = (),
    patience: float = 600.0,
    **around: Any,
) -> AsyncIterator[Pool]:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(script)) for script in scripts]
        time = VirtualTime()
        clock = await stack.enter_async_context(time.passing())
        factory = options(servers, each, **around)
        engine = await stack.enter_async_context(factory.open(MODELS, clock))
        supervised = SupervisedEngine(engine, Supervision(patience_seconds=patience), clock)
        stack.push_async_callback(supervised.aclose)
        yield Pool(supervised, servers, time)


@dataclass
class Gate:
    """A script that holds every request until it is opened; counts the most in flight."""

    opened: asyncio.Event
    n_arrived: asyncio.Semaphore
    n_running: int = 0
    most: int = 0

    async def __call__(self, call: Call) -> None:
        self.n_running += 1
        self.most = max(self.most, self.n_running)
        self.n_arrived.release()
        await self.opened.wait()
        self.n_running -= 1
        await answered(call)


def gates(n: int) -> list[Gate]:
    """Scripts that are opened together."""
    opened, n_arrived = asyncio.Event(), asyncio.Semaphore(0)
    return [Gate(opened, n_arrived) for _ in range(n)]


async def arrivals(gate: Gate, n: int) -> None:
    for _ in range(n):
        await gate.n_arrived.acquire()


def refusing(status: int = 429, extra: str = "") -> Script:
    async def script(call: Call) -> None:
        await call.plain('{"error": {"message": "not now"}}', status, extra=extra)

    return script


async def test_a_request_goes_to_the_least_busy_endpoint() -> None:
    first, *others = gates(3)
    async with pool_of(first, *others) as pool:
        pending = asyncio.create_task(pool.all(7))
        await arrivals(first, 7)
        assert pool.n_sent() == [3, 2, 2]
        first.opened.set()
        assert [trace.text for trace in await pending] == ["42"] * 7


async def test_no_endpoint_has_more_in_flight_than_it_takes() -> None:
    """The shares that are taken are compared, so that a large endpoint gets more than a small one.

    Of 5 requests the large one of 8 places gets 4. Of 20 requests 8 + 2 are sent; the others wait.
    """
    large, small = gates(2)
    async with pool_of(large, small, each=[{"max_in_flight": 8}, {"max_in_flight": 2}]) as pool:
        begun = asyncio.create_task(pool.all(5))
        await arrivals(large, 5)
        assert pool.n_sent() == [4, 1]
        others = asyncio.create_task(pool.all(15, first=5))
        await arrivals(large, 5)
        assert pool.n_sent() == [8, 2]
        large.opened.set()
        traces = await begun + await others
    assert (large.most, small.most) == (8, 2)
    assert [trace.ordinal for trace in traces] == list(range(20))


async def test_requests_are_started_at_the_rate_of_their_endpoint() -> None:
    """60 a minute and 30 a minute: one each at once, then one a second and one every two."""
    times: list[tuple[int, float]] = []

    def at(index: int) -> Script:
        async def script(call: Call) -> None:
            times.append((index, pool.time.now))
            await answered(call)

        return script

    each = [{"requests_per_minute": 60}, {"requests_per_minute": 30}]
    async with pool_of(at(0), at(1), each=each) as pool:
        await pool.all(11)
        taken = Counter(index for index, _ in times)
    assert taken == {0: 7, 1: 4}
    assert max(now for _, now in times) >= 6
    assert pool.time.now < 8


def test_a_rate_saves_up_no_more_than_a_second_of_it() -> None:
    """After an hour without requests, ten are at once; then one a tenth of a second."""
    bucket = TokenBucket(600, now=0.0)
    for _ in range(10):
        assert bucket.seconds_until(1, now=3600.0) == 0
        bucket.take(1, now=3600.0)
    assert bucket.seconds_until(1, now=3600.0) == pytest.approx(0.1)
    assert bucket.seconds_until(1, now=3600.1) == 0


def test_an_amount_beyond_a_second_of_the_rate_is_paid_off_before_the_next() -> None:
    """60 a minute, 1 saved up: 31 leave a debt of 30, and 16 that were not used are given back."""
    bucket = TokenBucket(60, now=0.0)
    assert bucket.seconds_until(31, now=0.0) == 0
    bucket.take(31, now=0.0)
    assert bucket.seconds_until(31, now=0.0) == pytest.approx(31)
    bucket.take(-16, now=0.0)
    assert bucket.seconds_until(31, now=0.0) == pytest.approx(15)


async def test_tokens_are_reserved_and_what_was_not_used_is_given_back() -> None:
    """A request may take 1 + 599 tokens, all of ten minutes; it takes 7 + 3, so 590 come back.

    A second request could start after 600 s; as the first has ended by then, after some 10 s.
    """
    async with pool_of(answered, tokens_per_minute=60) as pool:
        first = await pool.engine.generate(request(0, max_new_tokens=599))
        second = await pool.engine.generate(request(1, max_new_tokens=599))
        assert (first.finish, second.finish) == (Finish.STOP, Finish.STOP)
        assert 9 <= pool.time.now <= 11


async def test_an_endpoint_that_refuses_is_avoided_for_as_long_as_it_requests() -> None:
    """All requests are served by the other at once: nothing pauses, and nothing waits."""
    async with pool_of(refusing(extra="retry-after: 100\r\n"), answered) as pool:
        await pool.engine.generate(request())
        pool.time.now = 99.0
        traces = await pool.all(20, first=1)
        outages = pool.engine.outages
        assert {trace.finish for trace in traces} == {Finish.STOP}
        assert pool.n_sent() == [1, 21]
        assert (outages.n_retries, outages.n_pauses) == (1, 0)
        assert "HTTP 429: not now" in outages.reason
        assert pool.time.now == 99.0
        pool.time.now = 100.0
        await pool.engine.generate(request(21))
        assert pool.n_sent() == [2, 22]


async def test_after_its_rest_one_request_tries_an_endpoint_and_then_all_use_it() -> None:
    held = gates(1)[0]
    n_refused = 0

    async def first(call: Call) -> None:
        nonlocal n_refused
        n_refused += 1
        if n_refused == 1:
            await call.plain("{}", 429, extra="retry-after: 5\r\n")
        else:
            await held(call)

    async with pool_of(first, answered) as pool:
        await pool.engine.generate(request())
        pool.time.now = 5.0
        trying = asyncio.create_task(pool.engine.generate(request(1)))
        await arrivals(held, 1)
        await pool.all(10, first=2)  # its headers have not come: it may be down still
        assert pool.n_sent() == [2, 11]
        held.opened.set()
        assert (await trying).finish is Finish.STOP
        await pool.engine.generate(request(20))
        assert pool.n_sent() == [3, 11]


async def test_requests_of_an_endpoint_that_dies_go_to_the_others() -> None:
    """Six requests, of which three were streaming when their server died; their tokens count."""
    arrived = asyncio.Semaphore(0)

    async def streaming(call: Call) -> None:
        await call.begin()
        await call.event(piece("4"))
        arrived.release()
        await call.disconnect()

    held = gates(1)[0]
    async with pool_of(streaming, held) as pool:
        pending = asyncio.create_task(pool.all(6))
        for _ in range(3):
            await arrived.acquire()
        await arrivals(held, 3)
        held.opened.set()
        await pool.servers[0].die()
        traces = await pending
        assert [trace.text for trace in traces] == ["42"] * 6
        assert pool.n_sent() == [3, 6]
        assert (pool.engine.outages.n_retries, pool.engine.outages.lost_tokens) == (3, 3)
        assert pool.engine.outages.n_pauses == 0


async def test_the_job_pauses_when_all_endpoints_refuse_and_not_before() -> None:
    """Both refuse their first ten requests: a pause, and everything is served in the end."""

    def outage() -> Script:
        n = 0

        async def script(call: Call) -> None:
            nonlocal n
            n += 1
            await (answered(call) if n > 10 else refusing(503)(call))

        return script

    async with pool_of(outage(), outage()) as pool:
        traces = await pool.all(30)
        assert {trace.finish for trace in traces} == {Finish.STOP}
        assert sum(pool.n_sent()) == 50
        outages = pool.engine.outages
        assert (outages.n_retries, outages.n_pauses >= 1, outages.pause) == (20, True, None)


async def test_a_refusal_by_all_requests_the_shortest_of_their_rests() -> None:
    """What is sent all the same goes where that one ends, or no end of an outage would be seen."""
    long, short = refusing(extra="retry-after: 100\r\n"), refusing(extra="retry-after: 5\r\n")
    async with serving(long) as one, serving(short) as two:
        async with options([one, two]).open(MODELS, Clock(lambda: 7.0)) as engine:
            refusals = []
            for ordinal in (0, 0, 1):
                with pytest.raises(Unavailable) as refused:
                    await engine.generate(request(ordinal))
                refusals.append((refused.value.elsewhere, refused.value.retry_after_seconds))
        assert refusals == [(True, None), (False, 5), (False, 5)]
        assert (len(one.calls), len(two.calls)) == (2, 3)  # each with its list of models


async def test_a_pool_that_refuses_for_the_patience_ends_the_job_with_its_reason() -> None:
    async with pool_of(refusing(503), refusing(429), patience=60) as pool:
        with pytest.raises(EngineError, match="no request was served for"):
            await pool.all(8)


async def test_quotas_pause_at_once_only_if_all_are_used_up() -> None:
    quota = '{"error": {"message": "quota", "code": "insufficient_quota"}}'

    async def used_up(call: Call) -> None:
        await call.plain(quota, 429)

    async def busy_once(call: Call) -> None:
        await (refusing(503)(call) if len(pool.servers[1].calls) == 2 else answered(call))

    async with pool_of(used_up, busy_once) as pool:
        assert {trace.finish for trace in await pool.all(1)} == {Finish.STOP}
        assert (pool.engine.outages.n_retries, pool.engine.outages.n_pauses) == (2, 0)
    async with pool_of(used_up, used_up, patience=60) as pool:
        with pytest.raises(EngineError, match="add credit"):
            await pool.engine.generate(request())
        assert pool.engine.outages.n_pauses == 1


async def test_a_request_that_no_endpoint_serves_fails_while_others_are_served() -> None:
    """It is not sent from one to the other without end, though each has rested by its turn."""

    async def picky(call: Call) -> None:
        if call.body["messages"][0]["content"] != "poison":
            await answered(call)
            return
        pool.time.now += 60
        await refusing(500)(call)

    async with pool_of(picky, picky, patience=20) as pool:
        poisonous = asyncio.create_task(pool.engine.generate(request(99, prompt="poison")))
        for i in itertools.count():
            assert (await pool.engine.generate(request(i, prompt=str(i)))).text == "42"
            if poisonous.done():
                break
        trace = await poisonous
        assert trace.finish is Finish.FAILED
        assert "HTTP 500: not now; no other endpoint serves it now" in trace.error


async def test_no_request_is_lost_in_troubles_of_three_endpoints() -> None:
    """200 requests, half of them refused, cut or reset by one endpoint or another.

    Every request is served once, within the places and the rate of each endpoint.
    """
    rng = random.Random(7)
    served: Counter[str] = Counter()
    n_running: Counter[int] = Counter()

    def troubled(index: int) -> Script:
        async def script(call: Call) -> None:
            n_running[index] += 1
            assert n_running[index] <= 4
            for _ in range(rng.randrange(5)):
                await asyncio.sleep(0)
            n_running[index] -= 1
            trouble = rng.choice(["429", "503", "cut", "reset", "", "", "", ""])
            if trouble.isdigit():
                await refusing(int(trouble))(call)
            elif trouble == "reset":
                await call.cut()
            elif trouble == "cut":
                await call.begin()
                await call.event(piece("4"))
                await call.cut()
            else:
                served[call.body["messages"][0]["content"]] += 1
                await answered(call)

        return script

    around = {"max_in_flight": 4, "requests_per_minute": 600, "tokens_per_minute": 60_000}
    async with pool_of(*map(troubled, range(3)), **around) as pool:
        requests = [request(i, prompt=f"q{i}", max_new_tokens=100) for i in range(200)]
        traces = await asyncio.gather(*map(pool.engine.generate, requests))
        assert {trace.finish for trace in traces} == {Finish.STOP}
        assert served == {f"q{i}": 1 for i in range(200)}
        assert pool.engine.outages.n_retries == sum(pool.n_sent()) - 200 > 0
        # of 600 a minute, 10 at once
        assert max(pool.n_sent()) <= 10 + 10 * pool.time.now


async def test_an_abort_of_a_request_that_waits_for_a_place_is_a_cancelled_trace() -> None:
    held = gates(1)[0]
    async with pool_of(held, max_in_flight=1) as pool:
        tasks = [asyncio.create_task(pool.engine.generate(request(i))) for i in range(3)]
        await arrivals(held, 1)
        pool.engine.abort(request(1))
        assert (await tasks[1]).finish is Finish.CANCELLED
        held.opened.set()
        assert [(await tasks[i]).text for i in (0, 2)] == ["42", "42"]
        assert pool.n_sent() == [2]


async def test_an_abort_in_the_moment_in_which_a_place_becomes_free_is_not_lost() -> None:
    """The place goes to the next one."""
    held = gates(1)[0]
    async with pool_of(held, max_in_flight=1) as pool:

        async def aborts_another() -> Trace:
            trace = await pool.engine.generate(request(0))
            pool.engine.abort(request(1))
            return trace

        tasks = [asyncio.create_task(aborts_another())]
        tasks += [asyncio.create_task(pool.engine.generate(request(i))) for i in (1, 2)]
        await arrivals(held, 1)
        held.opened.set()
        traces = [await task for task in tasks]
        assert [t.finish for t in traces] == [Finish.STOP, Finish.CANCELLED, Finish.STOP]
        assert pool.n_sent() == [2]


async def test_cancelling_a_request_that_waits_frees_its_turn() -> None:
    held = gates(1)[0]
    async with pool_of(held, max_in_flight=1) as pool:
        tasks = [asyncio.create_task(pool.engine.generate(request(i))) for i in range(3)]
        await arrivals(held, 1)
        tasks[1].cancel()
        held.opened.set()
        assert (await tasks[2]).text == "42"
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]


async def test_a_model_has_the_name_that_its_endpoint_gives_it() -> None:
    """`other` is served under that name by the scripted server."""
    async with pool_of(answered, answered, each=[{}, {"model": "other"}]) as pool:
        await pool.engine.generate(request())
        pool.servers[0].script = refusing()
        await pool.engine.generate(request(1))
        names = [server.calls[-1].body["model"] for server in pool.servers]
    assert names == ["tiny", "other"]


async def test_an_endpoint_may_serve_one_model_pool_of_several() -> None:
    models = {"main": Model("tiny"), "judge": Model("large")}
    async with serving(answered) as one, serving(answered) as two:
        factory = options([one, two], [{"pool": "main"}, {"pool": "judge", "model": "other"}])
        async with factory.open(models) as engine:
            for _ in range(3):
                await engine.generate(replace(request(), model="judge"))
        assert len(one.calls) == 1
        assert {call.body["model"] for call in two.calls[1:]} == {"other"}


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        ({"pool": "jugde"}, r"endpoints\[0\]\.pool = 'jugde' \(did you mean 'judge'\?\)"),
        ({"pool": "main"}, r"no endpoint serves models\.judge; add one with pool = 'judge'"),
        ({"model": "other"}, r"endpoints\[0\]\.model = 'other' names one model.*set.*\.pool"),
    ],
)
async def test_pools_and_endpoints_must_fit(each: Mapping[str, Any], reason: str) -> None:
    models = {"main": Model("tiny"), "judge": Model("large")}
    async with serving(answered) as server:
        with pytest.raises(PlanError, match=reason):
            async with options([server], [each]).open(models):
                pass


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_endpoint_that_rejects_every_request_is_given_up_while_another_serves(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that expires during a job must not end it; when no endpoint is left, it has to end."""
    rejecting = {"both": False}

    async def rejects(call: Call) -> None:
        await call.plain(json.dumps({"error": {"message": "no such key"}}), status)

    async def serves(call: Call) -> None:
        await (rejects(call) if rejecting["both"] else answered(call))

    async with pool_of(rejects, serves) as pool:
        with caplog.at_level(logging.WARNING):
            traces = await pool.all(6)
        assert {trace.finish for trace in traces} == {Finish.STOP}
        assert caplog.text.count("nothing more is sent there") == 1
        n_rejected = pool.n_sent()[0]
        await pool.all(4, first=6)
        assert pool.n_sent()[0] == n_rejected
        rejecting["both"] = True
        with pytest.raises(EngineError, match="no such key"):
            await pool.engine.generate(request(20))


def test_traces_are_continued_only_where_every_endpoint_takes_token_ids() -> None:
    server = Server(answered)
    assert Capability.CONTINUE in options([server, server], server="vllm").capabilities()
    mixed = options([server, server], [{"server": "vllm"}, {}])
    assert Capability.CONTINUE not in mixed.capabilities()


async def test_a_trace_is_continued_by_any_endpoint_of_its_pool() -> None:
    """Token ids mean the same to all servers of one model."""

    async def script(call: Call) -> None:
        if call.path == "/tokenize":
            await call.plain(json.dumps({"tokens": [1, 2]}))
        elif call.path == "/v1/chat/completions":
            choice = {"delta": {"content": "a"}, "token_ids": [5, 6], "finish_reason": "stop"}
            await call.stream({"choices": [choice]}, "[DONE]")
        else:
            await call.stream(text_piece("b", finish="stop", token_ids=[7]), "[DONE]")

    async with pool_of(script, script, server="vllm") as pool:
        begun = await pool.engine.generate(request())
        pool.servers[0].script = refusing()
        asked = request(1, parent=0, prefix_ids=begun.token_ids, prefix_text=begun.text)
        assert (await pool.engine.generate(asked)).text == "b"
        assert pool.servers[1].calls[-1].body["prompt"] == [1, 2, 5, 6]


async def test_an_endpoint_that_is_down_at_the_start_is_reported_and_avoided(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(answered) as down, serving(answered) as up:
        await down.die()
        with caplog.at_level(logging.WARNING):
            async with options([down, up]).open(MODELS) as engine:
                assert (await engine.generate(request())).text == "42"
        assert f"no server answers at {down.url}" in caplog.text
        await up.die()
        with pytest.raises(EngineError, match=f"no server answers at {down.url}"):
            async with options([down, up]).open(MODELS):
                pass


async def test_an_endpoint_with_another_model_is_an_error_before_anything_starts() -> None:
    async with serving(answered) as one, serving(answered) as two:
        with pytest.raises(EngineError, match=rf"{two.url} does not serve absent"):
            async with options([one, two], [{}, {"model": "absent"}]).open(MODELS):
                pass


async def test_headers_are_those_of_the_engine_and_of_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An endpoint's own replaces the engine's, whatever its case, and wherever its value is."""
    monkeypatch.setenv("TEAM_TOKEN", "Basic dGVhbTpzZWNyZXQ=")
    monkeypatch.setenv("OTHER_TOKEN", "other-secret\n")
    async with pool_of(
        answered,
        answered,
        headers={"X-Team": "search", "X-Run": "7"},
        headers_env={"authorization": "TEAM_TOKEN"},
        organization="org-1",
        each=[{}, {"headers_env": {"x-team": "OTHER_TOKEN"}, "project": "proj-2"}],
    ) as pool:
        await pool.all(2)
        first, second = (server.calls[-1].headers for server in pool.servers)
    names = ("x-team", "x-run", "authorization", "openai-organization", "openai-project")
    basic = "Basic dGVhbTpzZWNyZXQ="
    assert [first.get(name) for name in names] == ["search", "7", basic, "org-1", None]
    assert [second.get(name) for name in names] == ["other-secret", "7", basic, "org-1", "proj-2"]


async def test_a_key_goes_to_another_address_only_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The default OPENAI_API_KEY is for the address of the engine, not for another company's."""
    monkeypatch.setenv("OPENAI_API_KEY", "default-key")
    monkeypatch.setenv("MY_KEY", "named-key")
    async with pool_of(answered, answered, each=[{"api_key_env": "MY_KEY"}, {}]) as pool:
        seen = [server.calls[-1].headers["authorization"] for server in pool.servers]
    assert seen == ["Bearer named-key", "Bearer none"]
    async with pool_of(answered, answered, api_key_env="MY_KEY") as pool:
        seen = [server.calls[-1].headers["authorization"] for server in pool.servers]
    assert seen == ["Bearer named-key"] * 2


async def test_two_endpoints_may_be_one_address_with_two_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY_A", "key-of-a")
    monkeypatch.setenv("KEY_B", "key-of-b")
    async with serving(answered) as server:
        tables = [{"api_key_env": "KEY_A"}, {"api_key_env": "KEY_B"}]
        spec = PluginSpec("openai", {"base_url": server.url, "endpoints": tables})
        async with registry.load("engines", spec).open(MODELS):
            pass
        seen = {call.headers["authorization"] for call in server.calls}
    assert seen == {"Bearer key-of-a", "Bearer key-of-b"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"Authorization": "swordfish"}},
        {"headers": {"X-Goog-Api-Key": "swordfish"}},
        {"headers": {"X-Mine": "Bearer swordfish"}},
        {"headers": {"X-Mine": "sk-0123456789abcdef-swordfish"}},
        {"headers_env": {"X-Mine": "sk-swordfish"}},
        {"api_key_env": "sk-swordfish"},
        {"base_url": "https://swordfish:x@example.org/v1"},
    ],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_secret_in_an_option_is_refused_and_not_shown(
    wrong: Mapping[str, Any], is_nested: bool
) -> None:
    """The options are stored in the job directory."""
    given = {"endpoints": [dict(wrong)]} if is_nested else wrong
    with pytest.raises(PluginError, match=r"_env|base_url") as refused:
        registry.load("engines", PluginSpec("openai", given))
    assert "swordfish" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"headers": {"a b": "c"}}, "'a b' is not the name of a header"),
        ({"headers": {"a": "b\nc: d"}}, "the value of a must be one line"),
        ({"headers": {"Accept-Encoding": "gzip"}}, "Accept-Encoding cannot be set: .*uncompressed"),
        ({"headers": {"x-a": "1"}, "headers_env": {"X-A": "B"}}, "x-a is in headers and in"),
        ({"endpoints": [{"max_in_flight": 0}]}, "endpoints.*max_in_flight"),
        ({"endpoints": [{"base_url": "localhost"}]}, "endpoints.*base_url"),
        ({"requests_per_minute": 0}, "requests_per_minute = 0: it must be"),
        ({"connect_seconds": 0}, "connect_seconds = 0: it must be"),
    ],
)
def test_a_wrong_option_is_named(wrong: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        registry.load("engines", PluginSpec("openai", wrong))


def test_an_unknown_option_of_an_endpoint_is_named() -> None:
    with pytest.raises(PluginError, match=r"endpoints\[0\] has no option .*did you mean"):
        registry.load("engines", PluginSpec("openai", {"endpoints": [{"requests_per_minut": 5}]}))


async def test_a_header_whose_variable_is_not_set_is_an_error_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    async with serving(answered) as server:
        factory = options([server], headers_env={"X-Auth": "MY_TOKEN"})
        with pytest.raises(EngineError, match=r"the header X-Auth is read from \$MY_TOKEN"):
            async with factory.open(MODELS):
                pass


async def test_a_secret_header_that_a_server_echoes_is_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also without the scheme before it."""
    monkeypatch.setenv("MY_TOKEN", "Basic dGVhbTpzZWNyZXQ=")

    async def echoing(call: Call) -> None:
        words = call.headers["x-auth"].split()
        await call.stream(piece(f"You sent {words[1]}.", finish="stop"), "[DONE]")

    async with pool_of(echoing, headers_env={"x-auth": "MY_TOKEN"}) as pool:
        trace = await pool.engine.generate(request())
    assert trace.text == "You sent " + 16 * "*" + "."


async def test_time_limits_are_those_of_the_options() -> None:
    client = opening.client(OpenAI(connect_seconds=3, timeout_seconds=90), {})
    async with client:
        assert (client.timeout.connect, client.timeout.read) == (3, 90)
