"""Measures what the engine `openai` costs on the client's side, against a server of this machine.

    python benchmarks/streams.py [--part cpu,many] [--rounds 3]

cpu   192 chats of 64 tokens, 64 in flight: CPU of this process a request, over that of the same
      requests without streams by the official client alone; in turns
many  very many streams at once, begun over half of their time: how far the slowest falls behind
      the server

The server is a process of its own that sends what vLLM's server sends, a chunk for each token.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import openai

from orchestrator.core.plan import Model
from orchestrator.core.values import Request
from orchestrator.engines.openai.engine import OpenAI

N_REQUESTS, N_TOKENS, N_IN_FLIGHT = 192, 64, 64
MODELS = {"main": Model("model")}
WORD = " word"
PROMPT = "What?"
PARTS = ("cpu", "many")


def main() -> None:
    """Run the parts that are named, or the server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=60, help="of a stream of `many`")
    parser.add_argument("--every", type=float, default=1.0, help="seconds, a token of `many`")
    parser.add_argument("--profile", action="store_true", help="of one round of `cpu`")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
    for part in options.part.split(",") if options.serve is None else ():
        {"cpu": measure_cpu, "many": measure_many}[part](options)


def measure_cpu(options: argparse.Namespace) -> None:
    """Print the CPU of a request through the engine, and through the client alone."""
    costs: dict[str, list[float]] = {"engine": [], "client": []}
    with server(0.0) as address:
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(asyncio.run, through_engine(address, N_REQUESTS, N_TOKENS))
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)
            return
        for number in range(options.rounds + 1):
            for name, ask in (("engine", through_engine), ("client", through_client)):
                before = cpu()
                asyncio.run(ask(address, N_REQUESTS, N_TOKENS))
                if number:  # the first round imports and connects
                    costs[name].append((cpu() - before) / N_REQUESTS * 1000)
    ratios = [a / b for a, b in zip(costs["engine"], costs["client"], strict=True)]
    print(
        f"cpu: {N_REQUESTS} chats of {N_TOKENS} tokens: {statistics.median(costs['engine']):.2f}"
        f" ms a request streamed by the engine, {statistics.median(costs['client']):.2f} without a "
        f"stream by the client; ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
        f"{max(ratios):.2f}, n = {len(ratios)})"
    )


def measure_many(options: argparse.Namespace) -> None:
    """Print how long very many streams take."""
    n, seconds = options.streams, options.tokens * options.every
    with server(options.every) as address:
        before, began = cpu(), time.perf_counter()
        taken = asyncio.run(
            through_engine(address, n, options.tokens, n, spread_seconds=seconds / 2)
        )
        used = (cpu() - before) / (time.perf_counter() - began)
    print(
        f"many: {n:,} streams at once, {options.tokens} tokens each, one in {options.every:g} s, "
        f"{seconds:g} s in all: median {statistics.median(taken):.1f} s, the slowest "
        f"{max(taken):.1f} s, {used:.0%} of a core"
    )


async def through_engine(
    address: str,
    n_requests: int,
    n_tokens: int,
    n_in_flight: int = N_IN_FLIGHT,
    spread_seconds: float = 0.0,
) -> list[float]:
    """Send requests through the engine, begun over some seconds; return the seconds of each."""
    gate = asyncio.Semaphore(n_in_flight)
    async with OpenAI(base_url=address, timeout_seconds=600.0).open(MODELS) as engine:

        async def ask(number: int) -> float:
            request = Request(
                PROMPT,
                model="main",
                max_new_tokens=n_tokens,
                problem_id=f"p{number}",
            )
            await asyncio.sleep(spread_seconds * number / n_requests)
            async with gate:
                trace = await engine.generate(request)
            assert trace.text == WORD * n_tokens, trace
            return trace.usage.seconds

        return await asyncio.gather(*map(ask, range(n_requests)))


async def through_client(address: str, n_requests: int, n_tokens: int) -> None:
    """Send requests through the official client, without streams."""
    gate = asyncio.Semaphore(N_IN_FLIGHT)
    async with openai.AsyncOpenAI(base_url=address, api_key="none") as client:

        async def ask() -> None:
            async with gate:
                reply = await client.chat.completions.create(
                    model="model",
                    messages=[{"role": "user", "content": "What?"}],
                    max_tokens=n_tokens,
                )
            assert reply.choices[0].message.content == WORD * n_tokens

        await asyncio.gather(*(ask() for _ in range(n_requests)))


@contextmanager
def server(seconds_per_token: float) -> Iterator[str]:
    """Run the server in a process of its own, and yield its address."""
    command = [sys.executable, __file__, "--serve", f"{seconds_per_token}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def serve(seconds_per_token: float) -> None:
    """Serve until killed, and print the address."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await answer(head, reader, writer, seconds_per_token)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", flush=True)
    await listening.serve_forever()


async def answer(
    head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    """Answer one request, with a token every so many seconds."""
    if head.startswith(b"GET"):
        write_json(writer, {"data": [{"id": "model"}]})
        return
    length = next(x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:"))
    body = json.loads(await reader.readexactly(int(length.partition(b":")[2])))
    n_tokens = body.get("max_completion_tokens") or body["max_tokens"]
    usage = {"prompt_tokens": 5, "completion_tokens": n_tokens, "total_tokens": 5 + n_tokens}
    if body.get("stream"):
        await write_stream(writer, n_tokens, usage, seconds)
        return
    await asyncio.sleep(seconds * n_tokens)
    message = {"role": "assistant", "content": WORD * n_tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    fixed = {"id": "c", "object": "chat.completion", "created": 0, "model": "model"}
    write_json(writer, fixed | {"choices": [choice], "usage": usage})


async def write_stream(
    writer: asyncio.StreamWriter, n_tokens: int, usage: object, seconds: float
) -> None:
    """Write a streamed reply."""
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    for number in range(n_tokens):
        await asyncio.sleep(seconds)
        reason = "stop" if number == n_tokens - 1 else None
        choice = {"index": 0, "delta": {"content": WORD}, "logprobs": None}
        write_event(writer, [choice | {"finish_reason": reason, "token_ids": None}])
        await writer.drain()
    write_event(writer, [], usage)
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def write_event(writer: asyncio.StreamWriter, choices: object, usage: object = None) -> None:
    """Write an event of a streamed reply."""
    chunk = {"id": "chatcmpl-1234567890abcdef", "object": "chat.completion.chunk", "created": 0}
    data = chunk | {"model": "model", "choices": choices, "usage": usage}
    event = f"data: {json.dumps(data)}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))


def write_json(writer: asyncio.StreamWriter, data: object) -> None:
    """Write a reply that is not streamed."""
    body = json.dumps(data).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(f"{head}\r\n\r\n".encode() + body)


def cpu() -> float:
    """Return the CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
