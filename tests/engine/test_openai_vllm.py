"""The `openai` engine against a real vLLM server with the embedded model, started once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.errors import EngineError
from orchestrator.core.plan import Model
from orchestrator.core.values import ConfidenceFloor, Delimiter, Finish, Request, Sampling
from orchestrator.engines.openai.engine import OpenAI
from orchestrator.plan.models import embedded_model

pytest.importorskip("vllm", reason="needs the extra `cpu` or `cuda`")
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

MODELS = {"main": Model("smollm2")}
GREEDY = Sampling(temperature=0.0, top_p=1.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server, which is this module's own process group and ends with it."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--host 127.0.0.1 --port {port} --served-model-name smollm2"
    flags += " --max-model-len 512 --max-num-seqs 8 --dtype float32 --enforce-eager"
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(embedded_model()),
    ]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, *flags.split()],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        _await_health(f"http://127.0.0.1:{port}", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(server)


def _await_health(root: str, server: subprocess.Popen[bytes], log: Path) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{root}/health", timeout=30)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"the server ended with {server.returncode}:\n{log.read_text()[-4000:]}")


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        # its engine process too, whatever became of the parent
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _metric(root: str, name: str) -> float:
    with urllib.request.urlopen(f"{root}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    values = re.findall(rf"^vllm:{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    assert values, f"the server has no metric {name}"
    return sum(map(float, values))


def _await_idle(root: str) -> None:
    while _metric(root, "num_requests_running"):
        time.sleep(0.1)


def _options(root: str, *, chat: bool = True) -> OpenAI:
    return OpenAI(base_url=f"{root}/v1", chat=chat, server="vllm", api_key_env="LEADLINE_NO_KEY")


def _request(
    ordinal: int = 0, prompt: str = "What is the capital of France?", **fields: object
) -> Request:
    request = Request(
        prompt=prompt, model="main", problem_id="p", ordinal=ordinal, seed=17, max_new_tokens=24
    )
    return replace(request, **fields)  # type: ignore[arg-type]  # fields are Request's own


async def test_the_capital_of_france_with_metrics_and_exact_counts(root: str) -> None:
    """Counts, ids and log-probabilities of a real server agree with one another."""
    async with _options(root).open(MODELS) as engine:
        trace = await engine.generate(
            _request(sampling=GREEDY, metrics=("mean_logprob", "mean_confidence"))
        )
    assert (trace.finish, trace.error, trace.note) == (Finish.STOP, "", "")
    assert "Paris" in trace.text
    assert trace.usage.output_tokens == len(trace.token_ids) > 0
    assert trace.usage.prompt_tokens > 0
    assert (
        trace.metrics["mean_logprob"]
        < 0
        < -trace.metrics["mean_logprob"]
        < trace.metrics["mean_confidence"]
    )


@pytest.mark.parametrize("chat", [True, False])
async def test_the_seed_decides_what_is_drawn(root: str, chat: bool) -> None:
    """Equal seeds give equal traces, and different ones do not all coincide."""
    async with _options(root, chat=chat).open(MODELS) as engine:
        sampling = Sampling(temperature=1.5, top_p=1.0)
        first, again, other = [
            await engine.generate(_request(prompt="Tell me a story.", seed=seed, sampling=sampling))
            for seed in (5, 5, 6)
        ]
    assert first.token_ids == again.token_ids
    assert first.text == again.text != other.text


@pytest.mark.parametrize("chat", [True, False])
async def test_a_continued_trace_equals_an_uninterrupted_one(root: str, chat: bool) -> None:
    """The prefix goes back as ids behind the same prompt: greedily, cutting at a checkpoint changes
    nothing.
    """
    async with _options(root, chat=chat).open(MODELS) as engine:
        request = _request(prompt="Count from one to twenty in words.", sampling=GREEDY)
        whole = await engine.generate(request)
        head = await engine.generate(replace(request, max_new_tokens=10))
        tail = await engine.generate(
            replace(
                request,
                ordinal=1,
                parent=0,
                max_new_tokens=14,
                prefix_ids=head.token_ids,
                prefix_text=head.text,
            )
        )
        probe = await engine.generate(
            replace(
                request,
                ordinal=2,
                parent=0,
                suffix=" The answer is",
                prefix_ids=head.token_ids,
                max_new_tokens=2,
            )
        )
    assert head.finish is Finish.LENGTH
    assert len(head.token_ids) == 10
    assert head.token_ids + tail.token_ids == whole.token_ids
    assert head.text + tail.text == whole.text
    assert probe.suffix_ids
    assert probe.usage.prompt_tokens == tail.usage.prompt_tokens + len(probe.suffix_ids)


async def test_stop_rules_end_the_trace(root: str) -> None:
    """A floor above any confidence fires when its window of 4 tokens is full; the stream may bring
    more at once.
    """
    async with _options(root).open(MODELS) as engine:
        request = _request(prompt="List ten animals.", sampling=GREEDY, max_new_tokens=300)
        lines = await engine.generate(replace(request, rules=(Delimiter("\n", 2),)))
        floor = await engine.generate(
            replace(request, rules=(ConfidenceFloor(1e9, window_tokens=4),))
        )
    assert (lines.finish, floor.finish) == (Finish.RULE, Finish.RULE)
    assert lines.text.count("\n") >= 2
    assert 4 <= floor.usage.output_tokens < 100


async def test_an_abort_is_seen_by_the_server(root: str) -> None:
    """By its own counter it stops generating, and what had come is returned with an exact count.

    Unaborted it would make about 450 tokens; after the abort only those of the steps until it
    notices: 50 is ample.
    """
    before = _metric(root, "generation_tokens_total")
    async with _options(root).open(MODELS) as engine:
        request = _request(prompt="Write a long story about the sea.", max_new_tokens=450)
        pending = asyncio.create_task(engine.generate(request))
        # A short request beside it: when it has come back, the long one has begun.
        short = await engine.generate(_request(ordinal=1, max_new_tokens=8))
        engine.abort(request)
        trace = await pending
        await asyncio.to_thread(_await_idle, root)
    assert (trace.finish, trace.note) == (Finish.CANCELLED, "")
    assert 0 < trace.usage.output_tokens == len(trace.token_ids) < 450
    assert trace.text
    received = trace.usage.output_tokens + short.usage.output_tokens
    assert received <= _metric(root, "generation_tokens_total") - before <= received + 50


async def test_concurrent_requests_come_back_to_their_own_prompts(root: str) -> None:
    """More than the server runs at once, so some queue.

    Each prompt is one word longer, so its token count names it.
    """
    async with _options(root).open(MODELS) as engine:
        request = [_request(i, "Hello" + " again" * i, max_new_tokens=4) for i in range(12)]
        traces = await asyncio.gather(*map(engine.generate, request))
    assert [t.ordinal for t in traces] == list(range(12))
    first = traces[0].usage.prompt_tokens
    assert [t.usage.prompt_tokens for t in traces] == [first + i for i in range(12)]


async def test_a_prompt_beyond_the_context_is_a_failed_trace_in_the_servers_words(
    root: str,
) -> None:
    """One row too long must not end the job."""
    async with _options(root).open(MODELS) as engine:
        trace = await engine.generate(_request(prompt="word " * 600))
    assert trace.finish is Finish.FAILED
    assert "context length" in trace.error
    assert "512" in trace.error


async def test_a_model_under_another_name_is_refused_with_the_served_ones(root: str) -> None:
    """The served name is what counts, not the folder."""
    with pytest.raises(
        EngineError, match="does not serve HuggingFaceTB/SmolLM2; it serves: smollm2"
    ):
        async with _options(root).open({"main": Model("HuggingFaceTB/SmolLM2")}):
            pass
