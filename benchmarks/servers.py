"""Servers of a benchmark, and requests to them: `leadline serve`, vLLM's own server, and others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from orchestrator.core.plan import Model
from orchestrator.plan.looped import latent_of
from orchestrator.plan.models import resolve_model

N_IN_FLIGHT = 64
CHAT = "/v1/chat/completions"
ENGINE = {"kv_cache_gib": 1.0, "max_num_seqs": N_IN_FLIGHT, "dtype": "float32"}
START_SECONDS = 300


def at_depth(model: str, depth: int) -> dict[str, Any]:
    """Return what makes a looped model run at a depth in vLLM: changes to its configuration."""
    config = json.loads(Path(resolve_model(model), "config.json").read_text(encoding="utf-8"))
    latent = latent_of(config, Model(model), model)
    assert latent is not None
    return replace(latent, depth=depth, max_depth=depth).overrides()


@dataclass(frozen=True, slots=True)
class Served:
    """How a shipped model is served: sampling, and what vLLM's own server needs for it."""

    n_tokens: int = 48
    temperature: float = 0.4
    flags: tuple[str, ...] = ()


SERVED = {
    "smollm2": Served(),
    # at half of its depth, where nine of ten attempts are right; it has no chat template
    "sounder": Served(
        16,
        1.0,
        (
            *("--hf-overrides", json.dumps(at_depth("sounder", 4))),
            *("--chat-template", "{{ messages[-1].content }}"),
        ),
    ),
}


def tree(address: str) -> list[psutil.Process]:
    """Return the process that listens at an address, and all that it has started."""
    port = int(address.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            process = psutil.Process(connection.pid)
            return [process, *process.children(recursive=True)]
    raise RuntimeError(f"nothing listens at {address}")


@contextlib.asynccontextmanager
async def vllm_server(folder: Path, model: str = "smollm2") -> AsyncIterator[str]:
    """Run vLLM's own server with a model that comes with Leadline."""
    port, served = free_port(), SERVED[model]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", resolve_model(model), *served.flags]
    command += ["--served-model-name", model, "--port", f"{port}", "--dtype", "float32"]
    command += ["--max-num-seqs", f"{N_IN_FLIGHT}", "--enforce-eager"]
    # no prompt is cut: on a CPU the server dies of a seeded request whose prompt is
    command += ["--no-enable-chunked-prefill"]
    # its_hub passes neither on: they are the server's for all
    defaults = {
        "temperature": served.temperature,
        "top_p": 1.0,
        "max_new_tokens": served.n_tokens,
    }
    command += ["--override-generation-config", json.dumps(defaults)]
    environment = {  # the threads are those that our engine takes
        "VLLM_CPU_KVCACHE_SPACE": f"{int(ENGINE['kv_cache_gib'])}",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": f"{max(1, len(os.sched_getaffinity(0)) - 1)}",
    }
    async with server(command, port, "/health", folder, environment) as address:
        yield address


def vllm_plan() -> dict[str, object]:
    """Return the settings of a plan with an engine like that of `vllm_server`."""
    options = {f"execution.engine.{name}": value for name, value in ENGINE.items()}
    return {"execution.engine.name": "vllm", "execution.window": N_IN_FLIGHT, **options}


@contextlib.asynccontextmanager
async def leadline(
    strategy: str, folder: Path, settings: Mapping[str, object], model: str = "smollm2"
) -> AsyncIterator[str]:
    """Run `leadline serve` with the settings of a plan."""
    port = free_port()
    command = [sys.executable, "-m", "orchestrator", "serve", "--model", model]
    command += ["--strategy", strategy, "--port", f"{port}", "--max-waiting", "512"]
    usual: dict[str, object] = {"sampling.top_p": 1.0, "domain": "text"}
    usual["sampling.temperature"] = SERVED[model].temperature
    for key, value in {**usual, **settings}.items():
        command += [f"--{key}", f"{value}"]
    async with server(command, port, "/ready", folder) as address:
        yield address


@contextlib.asynccontextmanager
async def server(
    command: Sequence[str],
    port: int,
    path: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[str]:
    """Run a server until the block ends; yield its address once the path answers."""
    address, log = f"http://127.0.0.1:{port}", folder / f"{port}.log"
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        async with aiohttp.ClientSession() as session:
            if not await is_ready(session, address + path, process):
                raise RuntimeError(f"{command} does not answer:\n{log.read_text()[-3000:]}")
        yield address
    finally:
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


async def is_ready(
    session: aiohttp.ClientSession, url: str, process: asyncio.subprocess.Process
) -> bool:
    """Wait until a server answers; False if it ends or takes too long."""
    for _ in range(START_SECONDS * 2):
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(url) as response:
                if response.status == 200:
                    return True
        if process.returncode is not None:
            break
        await asyncio.sleep(0.5)
    return False


async def ask(
    address: str, bodies: Sequence[Mapping[str, Any]], n_in_flight: int, path: str = CHAT
) -> tuple[list[dict[str, Any]], float]:
    """Send the requests; return the replies and the seconds until the last."""
    replies: list[dict[str, Any]] = [{} for _ in bodies]
    waiting = iter(enumerate(bodies))
    timeout = aiohttp.ClientTimeout(total=600)
    began = time.monotonic()
    async with (
        aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=n_in_flight)
        ) as session,
        asyncio.TaskGroup() as group,
    ):

        async def send() -> None:
            for place, body in waiting:
                replies[place] = await posted(session, address + path, body)

        for _ in range(n_in_flight):
            group.create_task(send())
    return replies, time.monotonic() - began


async def posted(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> Any:
    """Return what a server replies; RuntimeError for an error."""
    async with session.post(url, json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{url}: {response.status} {await response.text()}")
        return await response.json()


async def generated(engine: str) -> int:
    """Return how many tokens a vLLM server has generated so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{engine}/metrics") as response:
        text = await response.text()
    counts = re.findall(r"^vllm:generation_tokens_total\S* (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, counts)))


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
