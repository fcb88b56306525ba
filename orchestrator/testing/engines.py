"""The contract of engines: replies match their requests, and declared capabilities work.

Checks pairing, usage, limits, aborts, cancellation and capabilities, with about sixty short
completions. Each wait is bounded, so an engine that hangs fails. Greedy continuation is compared
exactly; a real engine that rounds differently in other batches may differ in a near-tie, so only a
few tokens are compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

from orchestrator.core.protocols import Engine
from orchestrator.core.values import Capability, Finish, Prompt
from orchestrator.engines.reply import validated
from orchestrator.testing.capabilities import CHECKS, Bench, require_distinct
from orchestrator.testing.rules import require, with_or_without_loop


@with_or_without_loop
async def check_engine(
    engine: Engine,
    capabilities: Collection[Capability],
    *,
    model: str = "main",
    prompt: Prompt = "Count from one to one hundred, in words.",
    long_tokens: int = 2_000,
    wait_seconds: float = 120.0,
) -> None:
    """Check the contract of an open engine with these `capabilities`.

    `prompt` must lead to replies of more than a dozen tokens. With a limit of `long_tokens`, most
    replies must still be running a tenth of a second after their start. No single wait lasts longer
    than `wait_seconds`. Await it within an event loop; without one it runs immediately.
    """
    bench = Bench(engine, model, prompt, long_tokens, wait_seconds)
    await _check_pairing(bench)
    await _check_limits(bench)
    await _check_unknown_aborts(bench)
    await _check_task_cancellation(bench)
    for needed, check in CHECKS:
        if needed <= set(capabilities):
            await check(bench)


async def _check_pairing(bench: Bench) -> None:
    """Send 32 concurrent requests of two problems with one prompt: each gets its own reply."""
    requests = [
        replace(bench.request(i, problem_id), seed=1_000 + i + offset)
        for i in range(16)
        for problem_id, offset in (("check-a", 0), ("check-b", 500))
    ]
    traces = await asyncio.gather(*map(bench.reply, requests))
    require_distinct(traces, "identity, never the prompt", "32 requests with one prompt")


async def _check_limits(bench: Bench) -> None:
    trace = await bench.reply(replace(bench.request(40), max_new_tokens=3))
    n_tokens = trace.usage.output_tokens
    require(
        trace.finish is not Finish.LENGTH or n_tokens == 3,
        "max_new_tokens",
        f"a trace of {n_tokens} tokens reports that it was cut at 3",
    )
    require(n_tokens > 0, "usage", "a trace that ended has no token; count the output")
    request = replace(bench.request(41), max_new_tokens=4, checkpoint=4)
    cut = validated(request, await bench.reply(request))
    require(
        cut.finish is Finish.STOP
        or (cut.finish is Finish.RULE and 2 < cut.usage.output_tokens <= 4),
        "checkpoint",
        f"a checkpoint at 4 tokens gave {cut.finish.value} after {cut.usage.output_tokens}",
    )


async def _check_unknown_aborts(bench: Bench) -> None:
    request = bench.request(50)
    try:
        bench.engine.abort(request)
        trace = await bench.reply(request)
        bench.engine.abort(request)
        bench.engine.abort(request)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(
            f"unknown aborts are ignored: {error!r}; "
            "a request may end just before its abort arrives"
        ) from error
    require(
        trace.finish is not Finish.CANCELLED,
        "unknown aborts are ignored",
        "a request was cut by an abort that came before it was generated; "
        "forget aborts of requests that are not running",
    )


async def _check_task_cancellation(bench: Bench) -> None:
    for ordinal in range(60, 63):
        task = asyncio.ensure_future(bench.engine.generate(bench.long_request(ordinal)))
        await asyncio.wait({task}, timeout=0.02)
        if not task.done():
            task.cancel()
            await bench.within(asyncio.wait({task}), "a cancelled generate()")
            require(
                task.cancelled(),
                "task cancellation",
                "generate() swallowed CancelledError; let it through after aborting",
            )
    await bench.reply(bench.request(63))
