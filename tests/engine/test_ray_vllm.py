"""A real vLLM in a real Ray: a job goes through, and killing the replica or its engine in mid-run
loses nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.core.errors import EngineError
from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, PluginSpec, Request, Sampling, Trace
from orchestrator.engines.ray.fleet import RayFleet
from orchestrator.engines.ray.pools import ReplicaState
from orchestrator.plan import registry

pytest.importorskip("ray", reason="needs the extra `cpu` or `cuda`")
pytest.importorskip("vllm", reason="needs the extra `cpu` or `cuda`")
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

OPTIONS = {"kv_cache_gib": 0.5, "max_num_seqs": 16, "enforce_eager": True}
SAMPLING = Sampling(temperature=0.8, max_new_tokens=24)


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
    """Return a job's traces; once its requests run, do something to the fleet."""
    wanted = requests(job)
    traces = [asyncio.create_task(fleet.generate(request)) for request in wanted]
    if disturb is not None:
        await asyncio.sleep(1.0)
        assert fleet.stats()[0].n_running > 0
        disturb()
    arrived = list(await asyncio.gather(*traces))
    assert [trace.ordinal for trace in arrived] == [request.ordinal for request in wanted]
    assert {trace.finish for trace in arrived} <= {Finish.STOP, Finish.LENGTH}
    assert all(
        trace.text and trace.token_ids and trace.metrics["mean_logprob"] < 0 for trace in arrived
    )
    return arrived


def engine_core(pid: int) -> int:
    """Return the process of vLLM's engine below a replica, by parents alone: `children` compares
    start times, which a set clock moves.
    """
    deadline = time.monotonic() + 20
    while True:
        found = [
            p
            for p in psutil.process_iter(["ppid", "name"])
            if (p.info["name"] or "").startswith("VLLM::Engine")
        ]
        cores = [
            p.pid
            for p in found
            if pid in (p.info["ppid"], *(ancestor.pid for ancestor in p.parents()))
        ]
        if cores:
            [core] = cores
            return core
        assert time.monotonic() < deadline, (
            f"no engine below {pid}; there are {[(p.pid, p.info) for p in found]}"
        )
        time.sleep(0.2)


def gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


async def test_jobs_survive_the_death_of_the_replica_and_of_its_engine() -> None:
    """The only replica, so that all it held has to wait for its successor; and no engine is left
    behind, on its memory.
    """
    ray = registry.load("engines", PluginSpec("ray", {"options": OPTIONS, "max_restarts": 2}))
    async with ray.open({"main": Model("smollm2", max_context_tokens=512)}) as fleet:
        await completed(fleet, "calm")

        replica = fleet.stats()[0].pid
        core = engine_core(replica)
        await completed(fleet, "killed", lambda: os.kill(replica, signal.SIGKILL))
        assert gone(replica)
        assert gone(core)

        core = engine_core(fleet.stats()[0].pid)
        await completed(fleet, "engineless", lambda: os.kill(core, signal.SIGKILL))
        stats = fleet.stats()[0]
        assert (stats.state, stats.restarts) == (ReplicaState.UP, 2)
        assert "vLLM engine" in stats.reason
        core = engine_core(stats.pid)
    assert gone(core)


async def test_a_model_folder_that_is_none_is_an_error_with_the_reason(tmp_path: Path) -> None:
    """Said at once, in the engine's words, not after restarts."""
    ray = registry.load("engines", PluginSpec("ray", {"options": OPTIONS}))
    with pytest.raises(EngineError, match=r"config\.json"):
        async with ray.open({"main": Model(str(tmp_path))}):
            pass
