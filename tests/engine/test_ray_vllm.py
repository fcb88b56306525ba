"""A real vLLM in a real Ray: killing the replica or its engine in mid-run loses nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from processes import is_gone, until

from orchestrator.core.errors import EngineError
from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, PluginSpec, Request, Sampling, Trace
from orchestrator.engines.ray import cluster
from orchestrator.engines.ray.fleet import RayFleet
from orchestrator.engines.ray.pools import ReplicaState
from orchestrator.plan import registry

pytest.importorskip("ray", reason="needs the extra `cpu` or `cuda`")
pytest.importorskip("vllm", reason="needs the extra `cpu` or `cuda`")
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

OPTIONS = {"kv_cache_gib": 0.25, "max_num_seqs": 16, "enforce_eager": True}
SAMPLING = Sampling(temperature=0.8, max_new_tokens=100)


def requests(job: str) -> list[Request]:
    """Return twelve requests: three problems, four traces each."""
    return [
        Request(
            f"What is {i // 4} + 7?",
            model="main",
            sampling=SAMPLING,
            metrics=("mean_logprob",),
            problem_id=f"{job}{i // 4}",
            ordinal=i % 4,
            seed=i,
        )
        for i in range(12)
    ]


async def completed(
    fleet: RayFleet, job: str, disturb: Callable[[], None] | None = None
) -> list[Trace]:
    """Return a job's traces; once the first, a short one, is there, do something to the fleet."""
    first, *others = requests(job)
    traces = [asyncio.create_task(fleet.generate(replace(first, max_new_tokens=2)))]
    traces += [asyncio.create_task(fleet.generate(request)) for request in others]
    if disturb is not None:
        await asyncio.wait(traces, return_when=asyncio.FIRST_COMPLETED)
        assert fleet.stats()[0].n_running > 0
        disturb()
    arrived = list(await asyncio.gather(*traces))
    assert [trace.ordinal for trace in arrived] == [r.ordinal for r in (first, *others)]
    assert {trace.finish for trace in arrived} <= {Finish.STOP, Finish.LENGTH}
    assert all(
        trace.text and trace.token_ids and trace.metrics["mean_logprob"] < 0 for trace in arrived
    )
    return arrived


async def engine_core(pid: int) -> int:
    """Return the process of vLLM's engine below a replica.

    By parents alone: psutil's `children` compares start times, which a set clock moves. By the
    command that started it, where its title was not set: vLLM does so at best.
    """
    while True:
        engines = [
            process
            for process in psutil.process_iter(["ppid", "name", "cmdline"])
            if (process.info["name"] or "").startswith("VLLM::Engine")
            or "multiprocessing.spawn" in " ".join(process.info["cmdline"] or ())
        ]
        cores = [
            process.pid
            for process in engines
            if pid in (process.info["ppid"], *(parent.pid for parent in process.parents()))
        ]
        if cores:
            [core] = cores
            return core
        await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """Start one local Ray for all tests here: a fleet uses a connection its process has already."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", cluster._token())  # Ray's library reads it once
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        context = ray.init(
            "local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20
        )
        yield
        ray.shutdown()
        shutil.rmtree(context.address_info["session_dir"], ignore_errors=True)


@pytest.mark.usefixtures("ray")
async def test_jobs_survive_the_death_of_the_replica_and_of_its_engine(tiny_model: Path) -> None:
    """The only replica, so that all it held has to wait for its successor; and no engine is left
    behind, on its memory.
    """
    # no limit that a busy machine could reach: deaths are noticed without one
    options = {"options": OPTIONS, "max_restarts": 2, "heartbeat_seconds": 600}
    factory = registry.load("engines", PluginSpec("ray", options))
    async with factory.open({"main": Model(str(tiny_model))}) as fleet:
        await completed(fleet, "calm")

        replica = fleet.stats()[0].pid
        core = await engine_core(replica)
        await completed(fleet, "killed", lambda: os.kill(replica, signal.SIGKILL))
        await until(lambda: is_gone(replica) and is_gone(core))

        core = await engine_core(fleet.stats()[0].pid)
        await completed(fleet, "engineless", lambda: os.kill(core, signal.SIGKILL))
        stats = fleet.stats()[0]
        assert (stats.state, stats.restarts) == (ReplicaState.UP, 2)
        assert "vLLM engine" in stats.reason
        core = await engine_core(stats.pid)
    await until(lambda: is_gone(core))


@pytest.mark.usefixtures("ray")
async def test_a_model_folder_that_is_none_is_an_error_with_the_reason(tmp_path: Path) -> None:
    """At once, in the engine's words, not after restarts."""
    factory = registry.load("engines", PluginSpec("ray", {"options": OPTIONS}))
    with pytest.raises(EngineError, match=r"config\.json"):
        async with factory.open({"main": Model(str(tmp_path))}):
            pass
