"""The service over a real vLLM with the embedded model, through the official client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import openai
import pytest

import orchestrator
from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Capability, PluginSpec, Sampling
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.options import Vllm
from orchestrator.plan.execution import Execution
from orchestrator.serve.server import ServerOptions, serve

pytest.importorskip("vllm")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(400),
]

CHAT: Any = "/v1/chat/completions"
MESSAGES: Any = [{"role": "user", "content": "Name three colours."}]
# a busy machine sends several tokens in one piece, so what is streamed is long
LONG = "Write a long story about a ship and its crew."
OPEN: list[VllmEngine] = []


@orchestrator.engine("opened-vllm")
@dataclass(frozen=True, slots=True)
class Opened:
    """Yields the engine that the tests share."""

    loads_models: ClassVar[bool] = False

    def capabilities(self) -> frozenset[Capability]:
        return Vllm().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[VllmEngine]:
        yield OPEN[-1]


@asynccontextmanager
async def client_of(engine: VllmEngine, data: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """Yield a client of a service in this event loop."""
    OPEN.append(engine)
    plan = Plan(
        models={"main": Model("smollm2")},
        strategy=PluginSpec("consistency", {"n": 3}),
        sampling=Sampling(max_new_tokens=24),
        domain="text",
    )
    execution = Execution(PluginSpec("opened-vllm"), window=16)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    address: asyncio.Future[str] = loop.create_future()
    options = ServerOptions(port=0, data=data, drain_seconds=0.0)
    task = asyncio.create_task(serve(plan, execution, options, stop, address.set_result))
    await asyncio.wait((task, address), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        async with openai.AsyncOpenAI(base_url=address.result(), api_key="none") as client:
            yield client
    finally:
        stop.set()
        await task


async def deltas_of(response: Any) -> list[str]:
    """Return the pieces of text of a streamed response."""
    return [e.delta async for e in response if e.type == "response.output_text.delta"]


async def test_the_official_client_gets_replies_streams_and_batches(
    vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    """A stream of one attempt comes in many pieces; a batch has a line for each row."""
    async with client_of(vllm_engine, tmp_path) as client:
        create: Any = client.chat.completions.create
        reply = await create(model="main", messages=MESSAGES, n=2, logprobs=True, top_logprobs=2)
        assert all(choice.message.content for choice in reply.choices)
        own = reply.model_extra["leadline"]
        assert own["n_attempts"] == 3
        assert reply.usage.completion_tokens == own["cost"]["solve"]["output_tokens"]
        content = reply.choices[0].logprobs.content
        assert "".join(token.token for token in content).startswith(
            reply.choices[0].message.content
        )
        stream = await create(
            model="main+consistency?n=1",
            messages=[{"role": "user", "content": LONG}],
            max_tokens=96,
            stream=True,
        )
        chunks = [chunk async for chunk in stream]
        pieces = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
        assert len(pieces) > 5
        responses: Any = client.responses.stream
        async with responses(
            model="main+consistency?n=1", input="Hi", temperature=0, max_output_tokens=96
        ) as response:
            greeting = "".join(await deltas_of(response))
        assert (await response.get_final_response()).output_text == greeting
        async with responses(
            model="main+consistency?n=1", input=LONG, max_output_tokens=96
        ) as response:
            assert len(await deltas_of(response)) > 5
        text = await client.completions.create(model="main", prompt="Red, green,", max_tokens=5)
        assert text.choices[0].text
        rows = [
            {
                "custom_id": f"r{i}",
                "method": "POST",
                "url": CHAT,
                "body": {"model": "main", "messages": MESSAGES, "max_tokens": 8},
            }
            for i in range(8)
        ]
        content = "\n".join(map(json.dumps, rows)).encode()
        file = await client.files.create(file=("rows.jsonl", content), purpose="batch")
        window: Any = {"endpoint": CHAT, "completion_window": "24h"}
        batch = await client.batches.create(input_file_id=file.id, **window)
        while batch.status not in ("completed", "failed"):
            batch = await client.batches.retrieve(batch.id)
        assert batch.output_file_id is not None
        lines = (await client.files.content(batch.output_file_id)).text.splitlines()
        assert {json.loads(line)["custom_id"] for line in lines} == {f"r{i}" for i in range(8)}


async def test_a_prompt_that_is_too_long_is_the_protocols_error(
    vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    long: Any = [{"role": "user", "content": "red " * 3000}]
    async with client_of(vllm_engine, tmp_path) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="main", messages=long)
        assert refused.value.code == "context_length_exceeded"


async def test_a_client_that_leaves_empties_the_engine(
    vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    """Sixteen attempts of a thousand tokens run; once their client has left, none does."""
    async with client_of(vllm_engine, tmp_path) as client:
        create: Any = client.chat.completions.create
        endless = {"max_tokens": 900, "extra_body": {"ignore_eos": True}}
        work = asyncio.create_task(
            create(model="main+consistency?n=16", messages=MESSAGES, **endless)
        )
        await until(lambda: vllm_engine.running_tokens() >= 16 or work.done())
        assert not work.done(), work.result()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await until(lambda: vllm_engine.running_tokens() == 0)


async def until(holds: Callable[[], bool]) -> None:
    """Let other tasks work until something holds."""
    for _ in iter(holds, True):
        await asyncio.sleep(0)
