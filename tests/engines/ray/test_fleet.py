"""The fleet on a real Ray: no trace is lost or mispaired, and nothing hangs.

The inner engines are fake; tests/engine has a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.core.errors import EngineError, PlanError, PluginError, Unavailable
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, Finish, PluginSpec, Purpose, Request, Trace
from orchestrator.engines.ray import cluster as ray_cluster
from orchestrator.engines.ray.fleet import RayFleet
from orchestrator.engines.ray.pools import ReplicaState
from orchestrator.engines.ray.replica import Replica, pack, unpack_collected
from orchestrator.plan import registry

pytest.importorskip("ray")

ROOT = Path(__file__).parents[3]
RAY = (sys.executable, "-m", "ray.scripts.scripts")  # the command `ray`
MAIN = {"main": Model("none")}


@dataclass(frozen=True, slots=True)
class Echo:
    """An engine that replies after `seconds` with the identity of the request it served."""

    seconds: float = 0.0
    mark: str = ""
    deaf: bool = False  # aborting does nothing
    opens: str = ""  # why it does not open; a number: seconds to open
    breaks: str = ""  # why it fails at the first request
    busy: bool = False  # it can serve nothing now
    begun: str = ""  # a folder with one file per request that has begun

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[EchoEngine]:
        if self.opens:
            await asyncio.sleep(float(self.opens) if self.opens.isdigit() else 0)
            raise EngineError(self.opens)
        yield EchoEngine(self)


class EchoEngine:
    def __init__(self, options: Echo) -> None:
        self.options = options
        self.running: dict[tuple[str, int], asyncio.Event] = {}

    async def generate(self, request: Request) -> Trace:
        identity = request.problem_id, request.ordinal
        assert identity not in self.running, "two requests of one identity at a time"
        if self.options.breaks:
            raise EngineError(self.options.breaks)
        if self.options.busy:
            raise Unavailable("HTTP 429: slow down", 3.0, lost_tokens=5)
        self.running[identity] = asyncio.Event()
        if self.options.begun:
            note = Path(self.options.begun, f"{request.problem_id}-{request.ordinal}")
            note.touch()  # noqa: ASYNC240  # takes no time
        try:
            async with asyncio.timeout(self.options.seconds):
                await self.running[identity].wait()
            return Trace(request.ordinal, "cut", finish=Finish.CANCELLED)
        except TimeoutError:
            identity_text = f"{request.problem_id}/{request.ordinal}/{request.seed}"
            text = f"{self.options.mark}{identity_text}/{os.getpid()}"
            return Trace(request.ordinal, text, model=request.model, depth=request.depth)
        finally:
            del self.running[identity]

    def abort(self, request: Request) -> None:
        event = self.running.get((request.problem_id, request.ordinal))
        if event is not None and not self.options.deaf:
            event.set()


registry.engine("echo")(Echo)


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[None]:
    """Start one local Ray for all tests that can share it.

    A fleet uses an existing connection of its process.
    """
    import ray

    with pytest.MonkeyPatch.context() as patch:
        # one per process: Ray's library reads it once
        patch.setenv("RAY_AUTH_TOKEN", ray_cluster._token())
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        context = ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 2**20,
        )
        yield
        ray.shutdown()
        shutil.rmtree(context.address_info["session_dir"], ignore_errors=True)


@asynccontextmanager
async def fleet(
    engine: str = "echo", models: Mapping[str, Model] = MAIN, **options: object
) -> AsyncIterator[RayFleet]:
    factory = registry.load("engines", PluginSpec("ray", {"backend": engine, **options}))
    async with factory.open(models) as opened:
        yield opened


def requests(n: int, model: str = "main") -> list[Request]:
    """Return n requests of problems with 16 traces each."""
    return [
        Request(prompt="?", model=model, problem_id=f"p{i // 16}", ordinal=i % 16, seed=i)
        for i in range(n)
    ]


async def all_traces(
    engine: RayFleet,
    jobs: list[Request],
    n_at_once: int = 64,
    arrived: list[Trace] | None = None,
) -> list[Trace]:
    """Return the traces in order of the requests; append them to `arrived` in order of arrival."""
    gate = asyncio.Semaphore(n_at_once)

    async def one(request: Request) -> Trace:
        async with gate:
            trace = await engine.generate(request)
        if arrived is not None:
            arrived.append(trace)
        return trace

    return await asyncio.gather(*map(one, jobs))


def assert_paired(jobs: list[Request], traces: list[Trace]) -> None:
    stated = [trace.text.rsplit("/", 1)[0] for trace in traces]
    assert stated == [f"{r.problem_id}/{r.ordinal}/{r.seed}" for r in jobs]


async def until(true: Callable[[], bool]) -> None:
    """Wait for an effect of another process; the test's own time limit bounds it."""
    while not true():  # noqa: ASYNC110  # nothing in this process would set an event
        await asyncio.sleep(0.02)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait in the same way, without an event loop."""
    while not true():
        time.sleep(0.05)


def has_begun(folder: Path, request: Request) -> Callable[[], bool]:
    """Return a function that tells whether an engine with `begun=folder` has begun the request."""
    return (folder / f"{request.problem_id}-{request.ordinal}").exists


def pids(engine: RayFleet) -> list[int]:
    return [stats.pid for stats in engine.stats()]


# The replica without Ray


async def started(**options: object) -> Replica:
    replica = Replica(f"{__name__}:Echo", options, MAIN, 0.001)
    assert await replica.start() == ""
    return replica


async def test_a_replica_brings_back_in_few_calls_what_came_in_one() -> None:
    """Ray passes about 700 calls per second: one per request would limit the whole fleet."""
    replica = await started()
    wanted = requests(200)
    await replica.submit(pack(list(enumerate(wanted))))
    collected, n_calls = [], 0
    while len(collected) < 200:
        completions, failure, _ = unpack_collected(await replica.collect(5.0))
        assert not failure
        collected += completions
        n_calls += 1
    assert n_calls <= 5
    assert_paired(wanted, [trace for _, trace in sorted(collected, key=lambda c: c[0])])
    await replica.stop()


async def test_a_sign_of_life_has_the_tokens_that_are_not_collected_yet() -> None:
    """The live line counts them: an attempt may run for minutes."""
    replica = await started()
    replica._engine.running_tokens = lambda: 12  # type: ignore[union-attr]  # it is open
    assert unpack_collected(await replica.collect(0.01)) == ([], "", 12)
    await replica.stop()


async def test_collect_returns_empty_as_a_sign_of_life() -> None:
    """It lets the fleet distinguish a quiet replica from a hung one."""
    replica = await started()
    assert unpack_collected(await replica.collect(0.01)) == ([], "", 0)
    await replica.stop()


async def test_an_abort_before_the_first_step_is_not_lost() -> None:
    """Engines ignore aborts of unknown requests; the replica must not."""
    replica = await started(seconds=60)
    await replica.submit(pack([(1, requests(1)[0])]))
    await replica.abort([1])
    [(ticket, trace)], *_ = unpack_collected(await replica.collect(5.0))
    assert (ticket, trace.finish) == (1, Finish.CANCELLED)
    await replica.stop()


async def test_a_request_sent_again_waits_until_its_cancelled_namesake_has_left() -> None:
    """An engine sees identities, not tickets: two concurrent requests of one would be mixed up."""
    replica = await started(seconds=0.3, deaf=True)
    [request] = requests(1)
    await replica.submit(pack([(1, request)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await replica.abort([1])
    await replica.submit(pack([(2, request)]))
    collected = []
    while len(collected) < 2:
        collected += unpack_collected(await replica.collect(5.0))[0]
    assert [(ticket, trace.finish) for ticket, trace in collected] == [
        (1, Finish.STOP),
        (2, Finish.STOP),
    ]
    await replica.stop()


async def test_a_replica_reports_an_engine_that_dies_or_does_not_open() -> None:
    """The user must see the root cause; an exception through Ray would arrive as a stack trace."""
    replica = await started(breaks="no more memory")
    await replica.submit(pack([(1, requests(1)[0])]))
    completions, failure, _ = unpack_collected(await replica.collect(5.0))
    assert completions == []
    assert failure.startswith("no more memory")
    await replica.stop()
    reason = await Replica(f"{__name__}:Echo", {"opens": "bad folder"}, MAIN, 0.001).start()
    assert reason.startswith("bad folder")


async def test_a_replica_passes_on_what_its_engine_cannot_serve_now() -> None:
    """With the pause that was requested: the caller of the fleet waits, not the replica."""
    replica = await started(busy=True)
    await replica.submit(pack([(1, requests(1)[0])]))
    [(ticket, refusal)], failure, _ = unpack_collected(await replica.collect(5.0))
    assert (ticket, failure, str(refusal)) == (1, "", "HTTP 429: slow down")
    assert isinstance(refusal, Unavailable)
    assert (refusal.retry_after_seconds, refusal.lost_tokens) == (3.0, 5)
    await replica.stop()


# Options


def test_capabilities_are_those_of_the_inner_engine_and_need_no_ray() -> None:
    """Capabilities are queried at plan time, for every plan."""
    inner = registry.load("engines", PluginSpec("fake"))
    assert (
        registry.load("engines", PluginSpec("ray", {"backend": "fake"})).capabilities()
        == inner.capabilities()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "fakee"},
        {"backend": "fake", "options": {"n_tokenz": 1}},
        {"backend": "fake", "pools": {"main": {"options": {"x": 1}}}},
    ],
)
def test_wrong_inner_options_are_found_before_anything_starts(options: dict[str, object]) -> None:
    """A typo must not cost an engine's start."""
    with pytest.raises(PluginError):
        registry.load("engines", PluginSpec("ray", options)).capabilities()


@pytest.mark.parametrize(
    "options",
    [
        {"replicas": 0},
        {"tensor_parallel": 0},
        {"pools": {"main": {"tensor_parallel": -1}}},
        {"pools": {"main": {"replicas": 0}}},
        {"heartbeat_seconds": 0},
        {"start_seconds": 0},
    ],
)
def test_counts_and_limits_are_above_zero(options: dict[str, object]) -> None:
    """A fleet without replicas would wait forever. The error names the option."""
    [key] = options
    with pytest.raises(PluginError, match=rf"{key} = 0: .*(at least 1|above 0)|>= 1 .*\.{key}\["):
        registry.load("engines", PluginSpec("ray", options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "fake", "nodes_per_replica": 2}, "the engine 'fake' runs on one node"),
        (
            {"backend": "vllm", "nodes_per_replica": 3, "tensor_parallel": 4},
            "set tensor_parallel to a multiple of 3",
        ),
        (
            {"pools": {"main": {"nodes_per_replica": 2}}},
            "pools.main.nodes_per_replica = 2: each node takes an equal part",
        ),
    ],
)
def test_what_cannot_be_spread_over_nodes_is_refused_with_the_remedy(
    options: dict[str, object], message: str
) -> None:
    """Before anything starts: such a replica would wait for a place, or for its other parts."""
    with pytest.raises(PluginError, match=message):
        registry.load("engines", PluginSpec("ray", options)).capabilities()


async def test_a_pool_for_no_model_of_the_plan_is_refused_with_the_near_match() -> None:
    """Otherwise its options would silently have no effect."""
    with pytest.raises(PlanError, match="did you mean 'main'"):
        async with fleet(pools={"mian": {"replicas": 2}}):
            pass


# With a separate Ray: these run first, so that no two run at a time

SCRIPT = textwrap.dedent(f"""
    import asyncio, json, os, sys
    import {__name__} as t

    async def main():
        async with t.fleet(replicas=2, **json.loads(sys.argv[1])) as engine:
            wanted = t.requests(32)
            t.assert_paired(wanted, await t.all_traces(engine, wanted))
            print(json.dumps(t.pids(engine)), flush=True)
            if sys.argv[2] == "stay":
                await asyncio.sleep(600)

    asyncio.run(main())
""")


@contextlib.contextmanager
def script(folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        **environment,
    }
    command = [sys.executable, "-c", SCRIPT, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=folder
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def family(pid: int) -> list[int]:
    """Return the descendants of a process."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def line(process: subprocess.Popen[str]) -> list[int]:
    """Return the process ids that the script prints."""
    assert process.stdout is not None
    text = process.stdout.readline()
    try:
        return [int(pid) for pid in json.loads(text)]
    except ValueError:
        pytest.fail(text + process.stdout.read())


@pytest.mark.slow
def test_a_local_ray_leaves_nothing_behind_in_processes_home_or_output(tmp_path: Path) -> None:
    """A job is one command, and leaves the machine as it was."""
    with script(tmp_path, "{}", "go") as process:
        replicas = line(process)
        assert process.stdout is not None
        assert process.stdout.read() == ""
        assert process.wait() == 0
    assert not any(map(alive, replicas))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_driver_takes_its_ray_and_its_replicas_along(tmp_path: Path) -> None:
    """After kill -9 the same command is run again: old engines must not occupy memory.

    Ray's two agents end by themselves about a minute later: they first search for the dead head.
    """
    with script(tmp_path, "{}", "stay") as process:
        line(process)
        agents = (
            "DashboardAgent",
            "RuntimeEnvAgent",
            "dashboard.py",
            "monitor.py",
            "log_monitor.py",
        )
        names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in family(process.pid)}
        left = [pid for pid, name in names.items() if not any(agent in name for agent in agents)]
        assert len(left) >= 4  # two of the head node, and two replicas
        process.kill()
        wait_until(lambda: not any(map(alive, left)))


@pytest.fixture
def cluster() -> Iterator[str]:
    """Return the address of a Ray that was not started by us."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp(dir="/tmp")  # it contains Ray's sockets, which need short paths
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    command = [
        *RAY,
        "start",
        "--head",
        "--block",
        f"--port={port}",
        f"--temp-dir={folder}",
        "--num-cpus=2",
        "--include-dashboard=false",
    ]
    command += ["--node-ip-address=127.0.0.1", f"--object-store-memory={100 * 2**20}"]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        yield f"127.0.0.1:{port}"
        process.terminate()
    shutil.rmtree(folder, ignore_errors=True)


def has_node(address: str) -> bool:
    command = [*RAY, "status", f"--address={address}"]
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    status = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return " node_" in status.stdout


@pytest.mark.slow
def test_an_existing_cluster_is_used_by_its_address_and_survives(
    cluster: str, tmp_path: Path
) -> None:
    """It was not started by us."""
    host, port = cluster.split(":")

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return True
        return False

    wait_until(listens)
    wait_until(lambda: has_node(cluster))  # the head listens before its node joins
    with script(tmp_path, "{}", "go", RAY_AUTH_MODE="disabled", RAY_ADDRESS=cluster) as process:
        replicas = line(process)
        assert process.stdout is not None
        assert process.stdout.read() == ""
        assert process.wait() == 0
    wait_until(lambda: not any(map(alive, replicas)))
    assert listens()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001", "nonsense"])
async def test_an_address_without_a_cluster_is_an_error_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ray.init is not called: it would take five minutes and then exit the process."""
    import ray

    calls: list[object] = []
    monkeypatch.setattr(ray, "init", lambda *args, **options: calls.append(options))
    # whether or not the shared Ray of the tests below is already running
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(EngineError, match="cannot be joined"):
        async with fleet(address=address):
            pass
    assert calls == []


# On the shared Ray


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
class TestFleet:
    async def test_500_requests_come_back_once_each_with_their_own_trace(self) -> None:
        """Pairing by position would fail silently."""
        wanted = requests(500)
        async with fleet(replicas=2, options={"seconds": 0.01}) as engine:
            traces = await all_traces(engine, wanted)
            assert len({trace.text.rsplit("/")[-1] for trace in traces}) == 2  # both worked
            assert [s.n_running for s in engine.stats()] == [0, 0]
        assert_paired(wanted, traces)

    async def test_what_cannot_be_served_now_is_for_the_caller_to_send_again(self) -> None:
        """A refusal is neither a failed trace nor a lost replica."""
        async with fleet(options={"busy": True}) as engine:
            with pytest.raises(Unavailable, match="slow down"):
                await engine.generate(requests(1)[0])
            assert engine.stats()[0].restarts == 0

    async def test_a_pool_with_a_task_has_replicas_of_its_own_and_brings_values_back(self) -> None:
        """A policy and its reward model are two pools.

        A verifier's requests have other ordinals than a strategy's.
        """
        models = {"main": Model("none"), "rm": Model("none", task="token_classify")}
        request = Request(
            prompt="One.#Two.#",
            model="rm",
            problem_id="p",
            ordinal=-2,
            seed=1,
            read_at="#",
            purpose=Purpose.VERIFY,
        )
        async with fleet("fake", models) as engine:
            written, valued = await asyncio.gather(
                engine.generate(replace(request, model="main", ordinal=0)),
                engine.generate(request),
            )
            assert [s.pool for s in engine.stats()] == ["main", "rm"]
        assert (bool(written.text), written.values) == (True, ())
        assert (valued.ordinal, valued.text, len(valued.values)) == (-2, "", 2)

    async def test_a_replica_killed_in_mid_run_loses_nothing(self) -> None:
        """Its requests start again with the same seed; no trace arrives twice or mispaired."""
        wanted = requests(500)
        async with fleet(replicas=2, options={"seconds": 0.1}) as engine:
            victim = pids(engine)[0]
            job = asyncio.create_task(all_traces(engine, wanted))
            await until(lambda: engine.stats()[0].n_running > 10)
            os.kill(victim, signal.SIGKILL)
            traces = await job
            await until(lambda: engine.stats()[0].state is ReplicaState.UP)
            stats = engine.stats()
        assert_paired(wanted, traces)
        assert (stats[0].restarts, stats[1].restarts) == (1, 0)
        assert f"process {victim}" in stats[0].reason

    async def test_the_only_replica_killed_again_and_again_loses_nothing(self) -> None:
        """Requests wait for its successor; the restart count is reset once traces arrive.

        Eight run at a time, so after sixteen more traces none of the last lost ones is pending.
        """
        wanted, arrived = requests(300), []
        async with fleet(options={"seconds": 0.02}, max_restarts=1) as engine:
            job = asyncio.create_task(all_traces(engine, wanted, 8, arrived))
            for n_restarts in range(3):
                await until(
                    lambda n=n_restarts: (
                        engine.stats()[0].restarts == n
                        and engine.stats()[0].state is ReplicaState.UP
                    )
                )  # type: ignore[misc]
                n_before = len(arrived)
                await until(lambda n=n_before: len(arrived) >= n + 16)  # type: ignore[misc]
                os.kill(pids(engine)[0], signal.SIGKILL)
            traces = await job
        assert Finish.FAILED not in {trace.finish for trace in traces}
        assert_paired(wanted, traces)
        assert len(traces) == 300

    async def test_engines_that_die_inside_a_living_process_are_replaced(self) -> None:
        """An engine's own processes may die (out of memory) while the actor lives on."""
        wanted = requests(300)
        async with fleet(
            "fake", replicas=2, options={"crash_after": 100, "seconds_per_token": 0.001}
        ) as engine:
            traces = await all_traces(engine, wanted)
            assert sum(s.restarts for s in engine.stats()) >= 1
            assert any("on purpose" in s.reason for s in engine.stats())
        assert Counter(t.finish for t in traces) == {Finish.STOP: 300}
        assert [t.token_ids[0] for t in traces] == [r.seed for r in wanted]

    async def test_a_hung_replica_is_killed_and_replaced(self) -> None:
        """A process that neither dies nor answers would keep its requests forever."""
        wanted = requests(40)
        async with fleet(replicas=2, options={"seconds": 0.2}, heartbeat_seconds=4.0) as engine:
            job = asyncio.create_task(all_traces(engine, wanted))
            await until(lambda: engine.stats()[0].n_running > 5)
            os.kill(pids(engine)[0], signal.SIGSTOP)
            assert_paired(wanted, await job)
            assert "no sign for 4 s" in engine.stats()[0].reason

    async def test_an_engine_that_does_not_start_is_an_error_with_its_own_words(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is started only once: a restart does not help if the model folder is invalid."""
        actors, new_actor = [], ray_cluster.new_actor

        def counted(*args: Any) -> Any:
            actors.append(new_actor(*args))
            return actors[-1]

        monkeypatch.setattr(ray_cluster, "new_actor", counted)
        with pytest.raises(
            EngineError, match="replica main/0 did not start: the folder has no config"
        ):
            async with fleet(options={"opens": "the folder has no config"}):
                pass
        assert len(actors) == 1

    async def test_an_engine_that_does_not_come_up_in_time_is_an_error(self) -> None:
        """A start that hangs must not hang the job."""
        with pytest.raises(EngineError, match="its engine is not up after 8 s"):
            async with fleet(options={"opens": "60"}, start_seconds=8):
                pass

    async def test_a_fleet_that_cannot_recover_fails_every_request_with_the_root_reason(
        self,
    ) -> None:
        """Waiting and later requests fail; none hangs."""
        async with fleet(options={"breaks": "CUDA out of memory"}, max_restarts=1) as engine:
            outcomes = await asyncio.gather(
                *map(engine.generate, requests(20)), return_exceptions=True
            )
            for outcome in outcomes:
                assert isinstance(outcome, EngineError)
                assert "CUDA out of memory" in str(outcome)
            with pytest.raises(EngineError, match="CUDA out of memory"):
                await engine.generate(requests(1)[0])
            assert engine.stats()[0].state is ReplicaState.LOST

    async def test_a_request_that_kills_every_replica_fails_and_spares_the_rest(
        self, tmp_path: Path
    ) -> None:
        """A prompt that kills engines must not end a job: it is data like any other failure."""
        poison, *others = requests(40)
        death = tmp_path / "death"
        async with fleet("poison", replicas=1, max_restarts=1) as engine:
            job = asyncio.create_task(engine.generate(replace(poison, prompt=f"poison {death}")))
            death.touch()
            await until(lambda: engine.stats()[0].restarts == 1)
            traces = await all_traces(engine, others)
            assert {t.finish for t in traces} == {Finish.STOP}
            death.touch()
            trace = await job
        assert trace.finish is Finish.FAILED
        assert "2 replicas were lost while they ran it" in trace.error

    async def test_two_pools_serve_their_own_models(self) -> None:
        """Names, options and numbers of replicas are per pool.

        An unknown model or depth is a failed trace with the reason.
        """
        models = {"small": Model("none"), "big": Model("another")}
        pools = {
            "small": {"replicas": 2, "options": {"mark": "s:"}, "depths": [1, 2]},
            "big": {"options": {"mark": "b:"}},
        }
        async with fleet(models=models, pools=pools) as engine:
            assert [(s.pool, s.index) for s in engine.stats()] == [
                ("small", 0),
                ("small", 1),
                ("big", 2),
            ]
            traces = await asyncio.gather(*map(engine.generate, requests(40, "small")))
            assert {trace.text[:2] for trace in traces} == {"s:"}
            base = requests(1, "big")[0]
            assert (await engine.generate(base)).text.startswith("b:")
            assert (await engine.generate(replace(base, model="small", depth=2))).depth == 2
            unknown = await engine.generate(replace(base, model="huge"))
            too_deep = await engine.generate(replace(base, model="small", depth=4))
        assert (unknown.finish, unknown.error) == (
            Finish.FAILED,
            "no replica serves the model 'huge'; there are: small, big",
        )
        assert (too_deep.finish, too_deep.depth) == (Finish.FAILED, 4)
        assert "depth 4; they serve: 1, 2" in too_deep.error

    async def test_a_depth_leads_to_the_pool_of_the_same_model_that_has_it(self) -> None:
        """With one pool per fixed depth, the trace has the model name that was requested.

        The session knows no other name.
        """
        models = {"main": Model("none"), "deep": Model("none", max_depth=8)}
        pools = {
            "main": {"options": {"mark": "m:"}, "depths": [1]},
            "deep": {"options": {"mark": "d:"}, "depths": [8]},
        }
        async with fleet(models=models, pools=pools) as engine:
            base = requests(1, "main")[0]
            shallow, deep = (
                await engine.generate(replace(base, depth=1)),
                await engine.generate(replace(base, depth=8)),
            )
        assert [(t.text[:2], t.model, t.depth) for t in (shallow, deep)] == [
            ("m:", "main", 1),
            ("d:", "main", 8),
        ]

    async def test_aborted_requests_come_back_cancelled_wherever_they_are(
        self, tmp_path: Path
    ) -> None:
        """Unsent requests have no tokens; running ones have the tokens so far.

        Aborting an unknown or finished request does nothing.
        """
        async with fleet(options={"seconds": 600, "begun": str(tmp_path)}) as engine:
            sent, unsent, unknown = requests(3)
            engine.abort(unknown)
            first = asyncio.create_task(engine.generate(sent))
            await until(has_begun(tmp_path, sent))
            second = asyncio.create_task(engine.generate(unsent))
            await asyncio.sleep(0)
            engine.abort(sent)
            engine.abort(unsent)
            engine.abort(unsent)
            assert [(t.ordinal, t.finish, t.text) for t in (await first, await second)] == [
                (0, Finish.CANCELLED, "cut"),
                (1, Finish.CANCELLED, ""),
            ]

    async def test_cancelling_the_caller_aborts_remotely_and_frees_the_identity(
        self, tmp_path: Path
    ) -> None:
        """Otherwise a stopped strategy's traces would still be generated.

        The late trace must not answer the new request.
        """
        async with fleet(options={"seconds": 1.0, "begun": str(tmp_path)}) as engine:
            [request] = requests(1)
            task = asyncio.create_task(engine.generate(request))
            await until(has_begun(tmp_path, request))
            with pytest.raises(ValueError, match="in flight already"):
                await engine.generate(request)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert engine.stats()[0].n_running == 0
            trace = await engine.generate(replace(request, seed=77))
            assert (trace.finish, trace.text.split("/")[2]) == (Finish.STOP, "77")

    async def test_an_aborted_request_lost_with_its_replica_is_cancelled_not_run_again(
        self, tmp_path: Path
    ) -> None:
        """Its strategy no longer needs its tokens, but waits for its trace."""
        options = {"seconds": 600, "deaf": True, "begun": str(tmp_path)}
        async with fleet(options=options) as engine:
            [request] = requests(1)
            task = asyncio.create_task(engine.generate(request))
            await until(has_begun(tmp_path, request))
            engine.abort(request)
            os.kill(pids(engine)[0], signal.SIGKILL)
            trace = await task
        assert (trace.finish, trace.text, trace.note) == (
            Finish.CANCELLED,
            "",
            "lost with its replica",
        )

    @pytest.mark.parametrize(
        ("cpus", "message"),
        [
            (0, "Ray finds a node by what is reserved there; set cpus_per_replica = 2"),
            (2, "replicas of 'main' need 2 nodes, and Ray was started on this machine alone"),
        ],
    )
    async def test_a_replica_over_nodes_that_are_not_there_is_refused(
        self, cpus: int, message: str
    ) -> None:
        """Ray would look for a second node forever."""
        with pytest.raises((EngineError, PlanError), match=message):
            async with fleet(nodes_per_replica=2, cpus_per_replica=cpus):
                pass

    async def test_processors_the_cluster_lacks_are_an_error_that_names_both_sides(self) -> None:
        """Ray itself would wait forever for an autoscaler."""
        with pytest.raises(
            EngineError,
            match=r"requested are 2 of 'main' with 0 CPU and 8 GPU each; "
            r"its nodes have 2 CPU and 0 GPU in all",
        ):
            async with fleet(gpus_per_replica=8, replicas=2):
                pass
        with pytest.raises(EngineError, match="no room"):  # one fits, two do not
            async with fleet(cpus_per_replica=1.5, replicas=2):
                pass

    async def test_closing_the_fleet_fails_what_is_pending_and_ends_the_processes(
        self, tmp_path: Path
    ) -> None:
        """A waiting caller must be notified."""
        async with fleet(options={"seconds": 600, "begun": str(tmp_path)}) as engine:
            [request] = requests(1)
            task = asyncio.create_task(engine.generate(request))
            await until(has_begun(tmp_path, request))
            replicas = pids(engine)
        with pytest.raises(EngineError, match="closed"):
            await task
        await until(lambda: not any(map(alive, replicas)))

    async def test_a_problem_stays_with_the_replica_that_has_its_prefix(self) -> None:
        """Its prompt is computed once; with both idle, load does not decide."""
        async with fleet(replicas=2) as engine:
            owners = [(await engine.generate(r)).text.split("/")[-1] for r in requests(16)]
        assert len(set(owners)) == 1


@dataclass(frozen=True, slots=True)
class Poison:
    """An engine that kills its process on a prompt with a file's name, once the file exists."""

    def capabilities(self) -> frozenset[Capability]:
        return frozenset()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[PoisonEngine]:
        yield PoisonEngine()


class PoisonEngine:
    async def generate(self, request: Request) -> Trace:
        word, _, file = str(request.prompt).partition(" ")
        if word == "poison":
            await until(Path(file).exists)
            os.unlink(file)
            os._exit(1)
        return Trace(request.ordinal)

    def abort(self, request: Request) -> None: ...


registry.engine("poison")(Poison)
