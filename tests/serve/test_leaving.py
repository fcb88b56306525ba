"""A client that leaves stops everything that it caused, and text comes while it is generated."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from counting_service import MESSAGES, MODELS, SECONDS, Served, request, served, wait_until_waiting

from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec

N_CLIENTS, N_ATTEMPTS = 8, 16


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service whose requests never end by themselves."""
    name = str(tmp_path_factory.mktemp("endless"))
    plan = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": N_ATTEMPTS}))
    window = N_CLIENTS * N_ATTEMPTS
    with served(plan, name, window=window, hang_rate=1.0, drain_seconds=0.0) as one:
        yield one


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_leaves_stops_all_attempts_and_nobody_elses(endless: Served, stream: bool) -> None:
    """All clients but one leave: of 8 x 16 requests to the engine, the 16 of the last remain."""
    counts = endless.counts
    n_aborted = len(counts.aborted)
    clients = [request(endless, stream=stream) for _ in range(N_CLIENTS)]
    counts.wait_for(lambda c: c.n_running == N_CLIENTS * N_ATTEMPTS)
    for client in clients[1:]:
        client.close()
    counts.wait_for(lambda c: c.n_running == N_ATTEMPTS)
    clients[0].close()
    counts.wait_for(lambda c: c.n_running == 0)
    assert len(counts.aborted) - n_aborted == N_CLIENTS * N_ATTEMPTS
    health = httpx.get(f"{endless.root}/ready", timeout=SECONDS).json()
    assert health == {"status": "ready", "waiting": 0, "full": False}


def test_who_waits_and_leaves_never_reaches_the_engine(endless: Served) -> None:
    """Behind a full window a request waits; once its client has left, it is not begun."""
    counts = endless.counts
    first = [request(endless) for _ in range(N_CLIENTS)]
    counts.wait_for(lambda c: c.n_running == N_CLIENTS * N_ATTEMPTS)
    waiting = request(endless)
    wait_until_waiting(endless, 1)
    n_started = len(counts.started)
    waiting.close()
    wait_until_waiting(endless, 0)
    for client in first:
        client.close()
    counts.wait_for(lambda c: c.n_running == 0)
    assert len(counts.started) == n_started


def test_tokens_of_a_single_attempt_come_as_they_are_generated(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The first text arrives while the engine is at work; leaving then ends that work."""
    name = str(tmp_path_factory.mktemp("paced"))
    plan = Plan(models=MODELS, strategy=PluginSpec("consistency", {"n": 1}))
    with served(plan, name, n_tokens=100_000, seconds_per_token=0.001) as one:
        chunks = one.client().chat.completions.create(model="small", messages=MESSAGES, stream=True)
        text = ""
        for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
            if len(text) > 300:
                break
        assert set(text.split()) == {"so", "wait"}
        assert one.counts.n_running == 1
        chunks.close()
        one.counts.wait_for(lambda c: c.n_running == 0)
        assert len(one.counts.aborted) == 1
